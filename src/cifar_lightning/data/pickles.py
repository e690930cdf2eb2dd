"""Reading pickles of plain values and arrays without trusting them: one can name any function, and none is called."""

import pickle
from typing import IO, Any

import numpy as np


def load(file: IO[bytes]) -> Any:
    """What a pickle holds.

    Raises:
        Exception: Any, for a broken one; UnpicklingError for one that asks for anything but numpy's arrays.
    """
    # latin1 reads the byte strings of Python 2, which wrote the archives
    return _ArraysOnly(file, encoding="latin1").load()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin1")


# Looked up rather than imported: numpy 1 and 2 keep them in different modules.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SCALAR = np.int64(0).__reduce__()[0]
_ALLOWED = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in protocol 2, the archives'
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]
