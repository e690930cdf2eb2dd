"""Reads pickles of plain values and arrays without trusting them: a pickle can name any function, but none is called.

Numpy's own functions are not called either, since they believe what even a damaged pickle says about an array: arrays
are made from their bytes alone.
"""

import pickle
import re
from typing import IO, Any

import numpy as np


def load(file: IO[bytes]) -> Any:
    """Returns what a pickle holds.

    Raises:
        Exception: Any kind, for a broken pickle; UnpicklingError if it asks for anything but numpy's arrays.
    """
    # latin1 reads the byte strings of Python 2, which wrote the archives
    return arrays_in(_ArraysOnly(file, encoding="latin1").load())


class Dtype:
    """A stand-in for numpy.dtype."""

    def __init__(self, code: str, *options: Any) -> None:
        if not re.fullmatch(r"[biuf][1248]|[SU]\d{1,4}|O8?", code):
            raise pickle.UnpicklingError(f"it asks for numbers of type {code}")
        self.code = code
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def real(self) -> np.dtype[Any]:
        """Returns the dtype that this stands for."""
        dtype: np.dtype[Any] = np.dtype(self.code).newbyteorder(self.order)  # which refuses an invalid byte order
        return dtype


class Array:
    """A stand-in for an array until everything is read, and for numpy's function that would make the array."""

    array: np.ndarray[Any, Any]

    def __init__(self, *options: Any) -> None:
        """Ignores the arguments of numpy's function, which describe an empty array."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        if isinstance(data, list):  # objects are pickled in row order, whatever `by_columns` is
            self.array = np.fromiter(map(arrays_in, data), object, len(data)).reshape(shape)
        else:
            self.array = _from_buffer(data, dtype, shape, "F" if by_columns else "C")


class _Ndarray:
    """A stand-in for numpy.ndarray, one of the arguments that `Array` ignores."""


def _from_buffer(data: Any, dtype: Dtype, shape: Any, order: Any, axes: Any = None) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.real())
    array: np.ndarray[Any, Any] = flat.reshape(shape, order=order) if axes is None else flat.reshape(shape)
    return array if axes is None else array.transpose(axes)


def _scalar(dtype: Dtype, data: bytes | str) -> Any:
    return _from_buffer(data, dtype, (), "C")[()]


# What a pickle of arrays asks for, by its names in numpy 1 and 2, and what it gets.
GIVEN: dict[str, Any] = {
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},  # protocol 5
    "numpy.ndarray": _Ndarray,
    "numpy.dtype": Dtype,
}


def arrays_in(value: Any, done: dict[int, Any] | None = None) -> Any:
    """Replaces the stand-ins in a value by arrays. An object that occurs twice still does, and is converted once."""
    done = {} if done is None else done
    if isinstance(value, Array):
        return value.array
    if isinstance(value, dict | list | tuple) and id(value) not in done:
        items = [arrays_in(item, done) for item in (value.values() if isinstance(value, dict) else value)]
        done[id(value)] = dict(zip(value, items, strict=True)) if isinstance(value, dict) else items
    return done.get(id(value), value)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = {**GIVEN, "_codecs.encode": _encode}  # for bytes in protocol 2, the archives', by Python 3
        if (asked := f"{module}.{name}") not in allowed:
            raise pickle.UnpicklingError(f"it asks for {asked}")
        return allowed[asked]
