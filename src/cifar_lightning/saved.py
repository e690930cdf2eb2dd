"""Trained networks, from their checkpoints: checked before they are used."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_lightning.checkpoint import load_checkpoint, newest_readable
from cifar_lightning.datamodule import CIFAR10DataModule, data_set_of
from cifar_lightning.errors import InputError
from cifar_lightning.lit_net import LitNet


def select_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` names: a .ckpt file, or a run's folder for the one that its training selected.

    That is the one of the highest validation accuracy, or the newest where there was no validation split.

    Raises:
        InputError: There is none.
    """
    path = path.expanduser() if path.parts[:1] == ("~",) else path
    if not path.is_dir():
        return path  # `load_checkpoint` says what is wrong with it, if anything is
    folder = path / "checkpoints"
    best = folder / "best.ckpt"
    if best.exists():
        return best
    try:
        return newest_readable(folder)[0]
    except InputError as error:
        raise InputError(f"{path} holds no readable checkpoint: give a run's folder or a .ckpt file") from error


def load_model(path: str | Path) -> LitNet:
    """The network of a run's folder or a .ckpt file, in evaluation mode, on the CPU.

    Raises:
        InputError: It cannot be read, or is not one of a LitNet with a named network.
    """
    path = select_checkpoint(Path(path))
    checkpoint = load_checkpoint(path)
    arguments = checkpoint["hyper_parameters"]
    if "classes" in arguments and "net" not in arguments:
        raise InputError(
            f"checkpoint {path} is of a network of your own, which it does not hold: "
            "load it in Python with LitNet.load_from_checkpoint(path, net=...)"
        )
    unknown = sorted(set(arguments) - set(inspect.signature(LitNet).parameters))
    if unknown or "classes" not in arguments:
        why = f"it has {', '.join(unknown)}" if unknown else "it has no class names"
        raise InputError(f"checkpoint {path} is of another kind of model ({why}): give one that fit.py wrote")
    try:
        model = LitNet(**arguments)
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint {path} does not fit the network {arguments.get('net', 'that it was made with')!r}: "
            f"{' '.join(str(error).split())[:200]}; give one that fit.py wrote"
        ) from error
    return model.eval()


def data_of(path: Path, changes: Mapping[str, Any]) -> CIFAR10DataModule:
    """The data module that the network of a checkpoint was trained with, with `changes` of its arguments.

    Raises:
        InputError: The checkpoint cannot be read, or an argument is wrong.
    """
    arguments = load_checkpoint(path).get("datamodule_hyper_parameters", {})
    if "normalization" in arguments:  # of the images it has learnt from, whatever it is tested on
        arguments["normalization"] = data_set_of(arguments["normalization"], arguments.get("source", "cifar10"))
    known = inspect.signature(CIFAR10DataModule).parameters
    return CIFAR10DataModule(**{k: v for k, v in {**arguments, **changes}.items() if k in known})


def precision_of(path: Path) -> str:
    """The precision that a checkpoint's network was trained in.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    return str(load_checkpoint(path).get("precision", "32-true"))
