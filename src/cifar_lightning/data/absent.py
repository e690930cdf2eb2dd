"""What other data modules are told and this one is not, or not on the command line, and why: for who looks for it."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

from cifar_lightning.errors import InputError

Parameters = ParamSpec("Parameters")

_WORKERS = (
    "there are no workers, for the images lie in memory and batches are made in the training process: leave it out"
)

# by the argument's name
WHY = {
    "num_workers": _WORKERS,
    "workers": _WORKERS,
    "persistent_workers": _WORKERS,
    "prefetch_factor": _WORKERS,
    "multiprocessing_context": _WORKERS,
    "pin_memory": "the images lie on the device, and none are copied to it for a batch: leave it out",
    "shuffle": "training images come in a new order in every epoch, and evaluation images in one: leave it out",
    "drop_last": "training batches are always whole, and an evaluation has every image once: leave it out",
    "normalize": "images always are, and data.normalization says by what: give that",
    "download": "what is not there is downloaded: leave it out",
}

TRANSFORMS = ("train_transforms", "val_transforms", "test_transforms")
NO_FLAGS = ("seed", "device", *TRANSFORMS)  # a run has a seed, and a device; a transform is code


def why_absent(name: str) -> str | None:
    """Why there is no such flag, alone or of the group `data`; None where there is no more to say of it."""
    group, _, argument = name.rpartition(".")
    no_flags = dict.fromkeys(TRANSFORMS, "a transform is code: give it to CIFAR10DataModule in Python")
    return {**WHY, **no_flags}.get(argument) if group in ("", "data") else None


def explained(init: Callable[Concatenate[Any, Parameters], None]) -> Callable[Concatenate[Any, Parameters], None]:
    """A constructor that refuses such an argument in words; what others it does not take are Python's to refuse."""

    @wraps(init)
    def __init__(self: Any, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:  # arguments_of knows the name
        for name in kwargs:
            if why := WHY.get(name):
                raise InputError(f"{name} is no argument of CIFAR10DataModule: {why}")
        init(self, *args, **kwargs)

    # Lightning, which makes a module again of a checkpoint, looks at the outer one
    __init__.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]
    return cast(Callable[Concatenate[Any, Parameters], None], __init__)
