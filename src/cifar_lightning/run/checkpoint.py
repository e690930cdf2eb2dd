"""Checkpoints that survive a crash: written to a temporary file, flushed and renamed; older ones are kept until then.

A run's `checkpoints/` holds the newest two `step-S.ckpt`; if there is a validation split, `best.ckpt`, the checkpoint
of the highest validation accuracy; and if a callback has replaced the weights of the last step, `final.ckpt`. All of
them are plain Lightning checkpoints.
"""

import errno
import os
import re
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from torch import Tensor

from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.pictures.kinds import USUAL
from cifar_lightning.errors import InputError, in_short
from cifar_lightning.files import exists, listed, os_error, write_atomically
from cifar_lightning.run.memory import is_out_of_memory
from cifar_lightning.run.no_run import instead_of_run
from cifar_lightning.run.process_group import on_first_rank
from cifar_lightning.run.weights import read_weights

BEST = "best.ckpt"
FINAL = "final.ckpt"
_STEP = re.compile(r"step-\d+\.ckpt")


class UnreadableError(InputError):
    """The operating system cannot read a checkpoint. It may be intact, so it must not be skipped or replaced."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint plugin that writes a checkpoint whole or not at all, and loads nothing that could run code.

    Lightning 2.6 stages a checkpoint in the temporary folder and copies it over the old one, so that a full disk
    destroys the old one (https://github.com/Lightning-AI/pytorch-lightning/issues/21253). It also unpickles anything
    from an http address.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes `checkpoint` to `path`; an old file there stays until the new one is on the disk."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Loads a local checkpoint of tensors and plain values; the first rank reads the file for all ranks.

        Raises:
            InputError: The checkpoint is missing or damaged, or holds objects that only running code could restore.
        """
        return on_first_rank(lambda: load_checkpoint(path))


def load_checkpoint(path: str | os.PathLike[str], bare: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU with `weights_only=True`, or a .safetensors file of `export` as if it were one.

    Args:
        path: The file.
        bare: Arguments of LitNet for a bare state_dict; without them a bare state_dict is refused.

    Raises:
        UnreadableError: The operating system does not let this process read the file.
        InputError: There is no such local file, or it is not an intact checkpoint of tensors and plain values.
    """
    if re.match(r"\w{2,}:/", str(path)):  # one slash, because a Path reduces two to one
        raise InputError(f"checkpoint {path} is a URL: download it, and pass the file's path")
    if not os.path.isfile(path):  # Path.is_file raises for a file that this user may not see
        raise InputError(f"checkpoint {path} does not exist: use a run's folder or a .ckpt file")
    if what := instead_of_run(Path(path)):
        raise InputError(f"checkpoint {path} {what}")
    checkpoint = read_weights(Path(path)) if Path(path).suffix == ".safetensors" else _load(path)
    if isinstance(checkpoint, dict) and checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
        if not bare:
            raise InputError(
                f"checkpoint {path} is a bare state_dict, which does not name its network, classes or preprocessing: "
                "load it in Python with load_model(path, net=...)"
            )
        return {
            "state_dict": checkpoint,
            "bare": True,  # the weights' names are still to be mapped: see of_lit_net
            "hyper_parameters": {"classes": CLASSES, **bare},
            "global_step": 0,
        }
    parts = ("state_dict", "hyper_parameters")
    if (
        not isinstance(checkpoint, dict)
        or "global_step" not in checkpoint
        or not all(isinstance(checkpoint.get(part), dict) for part in parts)
    ):
        raise InputError(f"checkpoint {path} was not written by Lightning: use a run's folder or a .ckpt file")
    for arguments in (checkpoint["hyper_parameters"], checkpoint.get("datamodule_hyper_parameters", {})):
        # Lightning imports and calls what these keys name:
        # https://github.com/Lightning-AI/pytorch-lightning/issues/21822
        if named := sorted({"_instantiator", "_class_path"} & set(arguments)):
            raise InputError(f"checkpoint {path} names code to run, in {' and '.join(named)}: use another one")
    return checkpoint


def _load(path: str | os.PathLike[str]) -> Any:
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        cause = os_error(error)
        # In a damaged archive zipfile may seek to an impossible offset, which the system calls "Invalid argument".
        if cause is not None and cause.errno not in (None, errno.EINVAL):
            raise UnreadableError(
                f"checkpoint {path} cannot be read ({cause.strerror}): make it readable, or move it away to go on "
                "without it"
            ) from error
        if is_out_of_memory(error):
            raise UnreadableError(f"checkpoint {path} cannot be read ({in_short(error)}): free some memory") from error
        if str(path).lower().endswith(USUAL):
            command = f"predict RUN {shlex.quote(str(path))}"
            raise InputError(
                f"checkpoint {path} is a picture, not a checkpoint: to classify it, use {command}"
            ) from error
        # torch's message has " GLOBAL " before the name of a function that loading would call.
        reason = "it would run code when loaded" if " GLOBAL " in str(error) else "it is damaged or not a checkpoint"
        raise InputError(f"checkpoint {path} cannot be read: {reason}; use another one") from error


def _check_sums(path: str | os.PathLike[str]) -> None:
    """Raises a BadZipFile if a part of a checkpoint does not match its checksum, which torch.load does not verify.

    Without this check a flipped bit in a weight would go unnoticed. Parts without a checksum are skipped, and so are
    files in the old format, which is not a zip archive
    (https://docs.pytorch.org/docs/stable/notes/serialization.html#serialized-file-format).
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.CRC:
                with archive.open(part) as file:
                    while file.read(2**20):  # zipfile verifies the checksum at the end
                        pass


def newest_readable(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Returns the newest readable checkpoint in `folder`, its contents, and what is wrong with each newer one.

    Raises:
        UnreadableError: The operating system cannot read a newer one, which may be intact: skipped, it would be lost.
        InputError: No checkpoint can be read.
    """
    problems: list[str] = []
    for path in reversed(step_checkpoints(folder)):
        try:
            return path, load_checkpoint(path), problems
        except UnreadableError:
            raise
        except InputError as error:
            problems.append(cause_of(error))
    raise InputError("; ".join([f"nothing to resume: {folder} has no readable checkpoint", *problems]))


def why_not_best(folder: Path, start: Path) -> str | None:
    """Returns why a run resumed from `start` cannot keep `best.ckpt`; None if it can, or if there is no `best.ckpt`.

    If `best.ckpt` is of a later step than `start`, that step is computed again. On other devices its result may differ,
    and then nothing might ever replace `best.ckpt`.
    """
    best = folder / BEST
    if not exists(best):
        return None
    try:
        step: int = load_checkpoint(best)["global_step"]
    except UnreadableError:
        raise
    except InputError as error:
        return cause_of(error)
    return f"checkpoint {best} is from step {step:,}, which will be trained again" if step > step_of(start) else None


def cause_of(error: InputError) -> str:
    """Returns what is wrong with a checkpoint, without the message's advice to the user."""
    return str(error).rpartition(";")[0] or str(error)


def step_checkpoints(folder: Path) -> list[Path]:
    """Returns the `step-S.ckpt` files in `folder`, sorted by step; raises an InputError if it cannot be read."""
    return sorted((path for path in listed(folder, "step-*.ckpt") if _STEP.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """Returns the S of a `step-S.ckpt`."""
    return int(path.stem.removeprefix("step-"))
