"""Loads trained networks from their checkpoints, and checks them before they are used."""

import difflib
import inspect
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from cifar_lightning.console import say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.preprocessing import data_set_of, name_of
from cifar_lightning.errors import InputError, brief
from cifar_lightning.files import check_reachable, exists, listed, user_path
from cifar_lightning.model.checkpoint import preprocessing_in
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run.checkpoint import (
    BEST,
    FINAL,
    UnreadableError,
    load_checkpoint,
    newest_readable,
    step_checkpoints,
)
from cifar_lightning.run.cluster import is_first_rank
from cifar_lightning.run.hub import WEIGHTS, is_hub_folder
from cifar_lightning.run.networks import is_import_path, lit_net
from cifar_lightning.run.no_run import instead_of_run, is_run, run_around
from cifar_lightning.run.settings import check_names, read_settings
from cifar_lightning.run.trained import is_trained, packaged, trained_weights
from cifar_lightning.run.weights import of_lit_net


def select_checkpoint(named: str | Path) -> Path:
    """Returns the path of the checkpoint that is named: a .ckpt file, or the one selected by a run, given its folder.

    A run selects the checkpoint of the highest validation accuracy, or the last one without a validation split. If
    there is no such path, the name of a recipe, as text, stands for the weights of it that come with the package.
    ./quick, quick/ and Path("quick") are always paths.

    Raises:
        InputError: There is no such checkpoint.
    """
    if not isinstance(named, str | os.PathLike):
        raise InputError(
            f"checkpoint {brief(named)} is not a path: use a run's folder, a .ckpt file, or a name such as quick"
        )
    path = user_path(named)
    if isinstance(named, str) and not os.path.lexists(path):
        if weights := trained_weights(named):
            return weights
        if os.sep not in named and (near := difflib.get_close_matches(named.lower(), packaged(), n=1)):
            raise InputError(f"checkpoint {named} does not exist: did you mean {near[0]}?")
    check_reachable(path)
    try:
        return _selected_in(path) if path.is_dir() else path  # `load_checkpoint` says what is wrong with a file
    except OSError as error:  # another user's folder, or a name that is too long
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable, or choose another") from error


def _selected_in(folder: Path) -> Path:
    """Returns the checkpoint that a run selects, given its folder, or the weights in a folder for a hub."""
    if is_hub_folder(folder):
        return folder / WEIGHTS
    checkpoints = folder / "checkpoints"
    for chosen in (checkpoints / BEST, checkpoints / FINAL):
        if exists(chosen):
            return chosen
    try:
        newest, _, problems = newest_readable(checkpoints)
    except UnreadableError:
        raise
    except InputError as error:
        raise InputError(f"{folder} {_without_checkpoint(folder, checkpoints)}") from error
    for problem in problems if is_first_rank() else []:
        say(f"warning: {problem}; using {newest.name} instead")
    return newest


def _without_checkpoint(folder: Path, checkpoints: Path) -> str:
    """Returns the part of a message after a folder: why it has no checkpoint, and what to give instead."""
    if what := instead_of_run(folder):
        return what
    damaged = step_checkpoints(checkpoints)
    if others := [path.name for path in sorted(listed(checkpoints, "*.ckpt")) if path not in damaged]:
        names = " or ".join(others)  # of a stock Trainer
        return f"has no readable checkpoint that fit wrote: pass the path of {names} in checkpoints/"
    if is_run(folder):
        if damaged or exists(folder / "metrics.csv"):
            return "has no readable checkpoint: use another run"
        return f"has no checkpoint yet: resume it with fit --resume {shlex.quote(str(folder))}"
    if home := run_around(folder):
        return f"is inside a run's folder: use {home}"
    return "has no readable checkpoint: use a run's folder or a .ckpt file"


def home_of(checkpoint: Path) -> Path:
    """Returns the folder of a checkpoint's run; for a checkpoint outside a run, the folder it is in."""
    folder = checkpoint.parent
    if folder.name == "checkpoints":
        return folder.parent
    whole = folder.absolute()  # the current folder, as a relative path, has no name
    return whole.parent if whole.name == "checkpoints" else folder


def output_of(checkpoint: Path) -> Path:
    """Returns the folder for files made from a checkpoint: `home_of`, or the current one for the package's weights."""
    return Path() if is_trained(checkpoint) else home_of(checkpoint)


def load_model(path: str | Path, net: str | nn.Module | None = None, **arguments: Any) -> LitNet:
    """Loads a trained network: from a run, a checkpoint, a file that `export` wrote, or the package itself.

    Args:
        path: A run's folder (its selected checkpoint is loaded), a .ckpt file, a .safetensors file or an hf folder.
            With `net`, also bare weights: a plain state_dict in a .pth or .safetensors file. If there is no such path,
            quick, speed54 or tutorial name weights of these recipes that come with the package (./quick is always a
            path), trained on CIFAR-10's training images and tested on its 10,000 test images, re-encoded as JPEG.
        net: The network that bare weights belong to, by its name, its import path ("package.module:Net") or as a
            module; or your own network, which no file holds. Code is imported only if it is named here, never because
            a checkpoint or a config.yaml names it.
        arguments: Other arguments of LitNet, which replace those of the file. For bare weights give `width`, `classes`
            and `preprocessing` if they are not the defaults.

    Returns:
        The LitNet, in evaluation mode, on the CPU, with its `classes` and `preprocessing`.

    Raises:
        InputError: The file cannot be read, or belongs to another network.

    Example:
        >>> model = load_model("lightning_logs/version_0")
        >>> images = CIFAR10DataModule(source="synthetic").image_set("test").images
        >>> labels, probabilities = model.predict(images[:3])
        >>> model.classes[labels[0]] in CLASSES, probabilities.shape
        (True, torch.Size([3, 10]))
        >>> load_model("quick").classes == list(CLASSES)
        True
    """
    check_names(arguments, "model", prefix="")
    path = select_checkpoint(path)
    checkpoint = load_checkpoint(path, {"net": net, **arguments} if net is not None else None)
    changed = {**checkpoint, "hyper_parameters": {**checkpoint["hyper_parameters"], **arguments}}
    return model_of(changed, path, net, changed=bool(arguments))


def model_of(
    checkpoint: Mapping[str, Any], path: Path, net: str | nn.Module | None = None, changed: bool = False
) -> LitNet:
    """Makes the network of a checkpoint, in evaluation mode, on the CPU.

    Args:
        checkpoint: What `load_checkpoint` has read.
        path: The path it was read from, for messages.
        net: As for `load_model`.
        changed: Whether the user gave some of its arguments, so that a wrong one is not the file's.

    Raises:
        InputError: The checkpoint is of another network, or not of a LitNet.
    """
    arguments = checkpoint["hyper_parameters"]
    if own := "classes" in arguments and "net" not in arguments:
        if net is None:
            raise InputError(
                f"checkpoint {path} has the weights of a network of your own, but not its code: "
                f"pass --model.net {_named_in(home_of(path))}, or in Python net=..."
            )
        if isinstance(net, str) and not is_import_path(net):
            raise InputError(f"net {net} is not an import path: write it as package.module:Net")
    elif net is not None and net != arguments.get("net"):
        other = net if isinstance(net, str) else brief(net)
        raise InputError(f"checkpoint {path} belongs to the network {arguments.get('net')}: leave out net {other}")
    others = sorted(set(arguments) - set(inspect.signature(LitNet).parameters))
    if "bare" not in checkpoint:
        others += sorted({str(name).partition(".")[0] for name in checkpoint["state_dict"]} - {"net"})
    if others or "classes" not in arguments:
        why = f"it has {', '.join(others)}" if others else "it has no class names"
        raise InputError(
            f"checkpoint {path} is not of LitNet, but of another class ({why}): load it in Python with that class, "
            "model = MyModel.load_from_checkpoint(path), and test it with Trainer().test(model, data)"
        )
    net = net if own else arguments["net"]
    try:
        model = lit_net({**arguments, "net": net}, arguments["classes"])
        weights = checkpoint["state_dict"]
        model.load_state_dict(of_lit_net(weights, model.state_dict()) if "bare" in checkpoint else weights)
        model.on_load_checkpoint(dict(checkpoint))  # sets the preprocessing of an older version's checkpoint
    except (RuntimeError, TypeError, ValueError) as error:
        if changed and isinstance(error, InputError):
            raise
        raise InputError(
            f"checkpoint {path} does not fit the network {net if isinstance(net, str) else type(net).__name__!r}: "
            f"{' '.join(str(error).split())[:200]}; use one that fit wrote, or pass the arguments it was made with"
        ) from error
    return model.eval()


def _named_in(home: Path) -> str:
    """Returns the import path of the network of the run in a folder, or an example of one."""
    with suppress(InputError):
        if is_import_path(net := read_settings(home).model["net"]):
            return str(net)
    return "package.module:Net"


def data_of(checkpoint: Mapping[str, Any], changes: Mapping[str, Any]) -> CIFAR10DataModule:
    """Makes the data module with which a checkpoint's network was trained, with `changes` to its arguments.

    Raises:
        InputError: An argument is wrong.
    """
    known = inspect.signature(CIFAR10DataModule).parameters
    arguments = {k: v for k, v in checkpoint.get("datamodule_hyper_parameters", {}).items() if k in known}
    if "normalization" in arguments:  # the training's, whatever images the network is tested on
        arguments["normalization"] = data_set_of(arguments["normalization"], arguments.get("source", "cifar10"))
    elif (kept := preprocessing_in(checkpoint)) and (name := name_of(kept)):  # for example in a file of weights
        arguments["normalization"] = name
    check_names(changes, "data")
    if changes.keys() & {"source", "data_dir"}:
        arguments.pop("train_labels", None)  # they belong to the training images
    source = changes.get("source", arguments.get("source"))
    if source != arguments.get("source"):
        arguments.pop("sha256", None)  # it belongs to the training images' source
    if "data_dir" in changes and source == "synthetic":
        raise InputError(
            f"data_dir {changes['data_dir']} is not used when the source is synthetic, as it was in training: "
            "pass --data.source cifar10, cifar100 or folder as well"
        )
    images = CIFAR10DataModule(**{**arguments, **changes})
    if "data_dir" in changes and not changes.get("sha256") and images.hparams["sha256"] and images.splits == ("test",):
        images.sha256 = None  # a published test set does not have the checksum of the training images' file
    return images
