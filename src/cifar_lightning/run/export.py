"""export(): writes a trained network as a file or a folder for other programs, which need nothing of this package."""

import importlib.metadata
import importlib.util
import inspect
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cifar_lightning.errors import InputError, RunError, brief, in_short
from cifar_lightning.files import strict_json, user_path, why_unwritable, write_atomically
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.model.program import OUTPUTS, plain_copy, program_of
from cifar_lightning.model.views import VIEWS
from cifar_lightning.report.results import read_results
from cifar_lightning.run import signals
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.hub import write_hub_folder
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.saved import home_of, model_of, output_of, select_checkpoint
from cifar_lightning.run.weights import KEY, weights_file

# For each format, the packages needed to write it, all in the extra `export`.
FORMATS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript"),
    "pt2": (),
    "safetensors": (),
    "hf": ("huggingface_hub",),
}
INPUTS = ("uint8", "float")
INSTALL = "pip install 'cifar-lightning[export]'"
OPSET = 18  # runtimes have read it since 2023; fixed here because torch raises its default


@quietly()
def export(
    checkpoint: str | Path | LitNet,
    format: Literal["onnx", "pt2", "safetensors", "hf"] = "onnx",
    output: str | Path | None = None,
    *,
    input: Literal["uint8", "float"] = "uint8",
    test_views: Literal["one", "mirror", "six"] | None = None,
    net: str | nn.Module | None = None,
) -> Path:
    """Writes a trained network to a file, or to a folder for a model hub, always in float32.

    An onnx or pt2 file takes any number of `images` and returns `logits` and `probabilities`, one row per image. Every
    format has metadata: JSON under the key `cifar_lightning`, with classes, mean, std, image_size, test_views,
    checkpoint, step and the test's figures. The same network always gives the same bytes.

    Args:
        checkpoint: A run's folder (its selected checkpoint is exported), a .ckpt file, or anything else that load_model
            takes, such as quick; in Python also a LitNet.
        format: onnx: opset 18, for ONNX Runtime and others; pt2: for torch.export.load; safetensors: the weights, for
            load_model; hf: a folder for Hugging Face's hub, with the weights, config.json, preprocessor_config.json and
            a model card (README.md), which load_model reads too.
        output: The file or folder; by default model.onnx, model.pt2, model.safetensors or hf/ in the run's folder,
            beside the .ckpt file, or, for weights that come with the package, here.
        input: Input of an onnx or pt2 file: uint8 (N, 3, 32, 32), which it normalises; or float, already normalised.
        test_views: Views to average over, as for LitNet; by default the training's.
        net: Your own network, if the checkpoint is of one: its import path (package.module:Net), or in Python a module.

    Returns:
        Path of the file or folder.

    Raises:
        InputError: There is no such network, or a package is missing.
        RunError: The network cannot be exported to this format, or the file or folder cannot be written.

    Example:
        >>> path = export("lightning_logs/version_0", "pt2")
        >>> program = torch.export.load(path).module()
        >>> program(torch.zeros(7, 3, 32, 32, dtype=torch.uint8))["logits"].shape
        torch.Size([7, 10])
    """
    for name, value, known in (("format", format, FORMATS), ("input", input, INPUTS)):
        if value not in known:
            raise InputError(f"unknown {name} {value}: choose from {', '.join(known)}")
    if test_views not in (None, *VIEWS):
        raise InputError(f"unknown test_views {test_views}: choose from {', '.join(VIEWS)}")
    weights = format in ("safetensors", "hf")
    if weights and input != "uint8":
        raise InputError(f"input {input} has no effect on a file of weights: leave it out")
    if not all(map(importlib.util.find_spec, FORMATS[format])):
        them = "it" if len(FORMATS[format]) == 1 else "them"
        raise InputError(
            f"export --format {format} needs {' and '.join(FORMATS[format])}; install {them} with: {INSTALL}"
        )
    model, facts, trained, home = _opened(checkpoint, net)
    path = _path(output, format, home)
    views = test_views or model.hparams["test_views"]
    facts |= _facts_of(model) | {"test_views": views, "version": importlib.metadata.version("cifar-lightning")}
    if not weights:
        facts |= {"input": input, "outputs": OUTPUTS}
    metadata = strict_json(facts, sort_keys=True)
    if weights:
        contents = weights_file(plain_copy(model.net).state_dict(), metadata)
    else:
        contents = _program_file(model, format, input, views, metadata)
    with signals.deferred():  # so that a signal leaves a whole file or none, and a whole folder, the old or the new
        if format == "hf":
            write_hub_folder(path, contents, facts, trained)
        else:
            write_atomically(path, contents)
    return path


def _opened(
    checkpoint: str | Path | LitNet, net: str | nn.Module | None
) -> tuple[LitNet, dict[str, Any], dict[str, Any], Path]:
    """Returns the model, what is known of its training, in short and in full, and the folder for its file."""
    if isinstance(checkpoint, LitNet):
        return checkpoint, {}, {}, Path()
    if isinstance(checkpoint, nn.Module):
        raise InputError(f"checkpoint {brief(checkpoint)} is not a LitNet: pass LitNet(net, classes=...)")
    path = select_checkpoint(checkpoint)
    saved = load_checkpoint(path)
    facts: dict[str, Any] = {**saved.get("facts", {}), "checkpoint": path.name, "step": saved["global_step"]}
    trained = {"data": saved.get("datamodule_hyper_parameters", {}), "precision": saved.get("precision"), "results": {}}
    with suppress(OSError, ValueError, KeyError, TypeError):  # no results if interrupted, or those of another program
        results = read_results(home_of(path))
        tested = Path(results["checkpoint"]).name, results["step"]
        whole = ("train_count", "val_count", "test_count", "global_batch_size", "trainer")
        trained["run"] = {name: results.get(name) for name in whole}
        if tested == (path.name, saved["global_step"]):
            names = ("test_acc", "test_loss", "test_count", "test_views", "precision", "not_finite")
            facts["test"] = {name: results[name] for name in names if name in results}
            trained["results"] = results
    return model_of(saved, path, net), facts, trained, output_of(path)


def _path(output: str | Path | None, format: str, home: Path) -> Path:
    """Returns the path of the file or folder to write, by default in `home`; checks it now, not after a long export."""
    name = "hf" if format == "hf" else f"model.{format}"
    path = user_path(output) if output is not None else home / name
    if format != "hf":
        if os.path.isdir(path):
            raise InputError(f"output {path} is a folder: use a file name, such as {path / name}")
        if path.suffix != f".{format}":
            raise InputError(f"output {path} does not end in .{format}: use {path.with_suffix(f'.{format}')}")
    if why := why_unwritable(path.parent):
        raise InputError(f"output {path} cannot be written ({why}): choose another path")
    return path


def _facts_of(model: LitNet) -> dict[str, Any]:
    """Returns what the user of a file needs to know of a model, and in `model` what else `load_model` needs."""
    images = model.preprocessing
    arguments: Mapping[str, Any] = model.hparams
    rest = [name for name in inspect.signature(LitNet).parameters if name in arguments]
    return {
        "classes": model.classes,
        "mean": images and images.mean,
        "std": images and images.std,
        "image_size": images and images.size,
        "model": {name: arguments[name] for name in rest if name not in ("classes", "preprocessing", "test_views")},
    }


def _program_file(model: LitNet, format: str, input: str, views: str, metadata: str) -> bytes:
    write = {"onnx": _onnx, "pt2": _pt2}[format]
    try:
        return write(program_of(model, input, views), metadata)
    except InputError:
        raise
    except Exception as error:  # torch may raise any exception on a user's own network
        raise RunError(
            f"the network cannot be exported as {format} ({in_short(error)}): "
            "fix that, or use format safetensors, which holds only the weights"
        ) from error


def _pt2(program: torch.export.ExportedProgram, metadata: str) -> bytes:
    contents = io.BytesIO()
    torch.export.save(program, contents, extra_files={KEY: metadata})
    return contents.getvalue()


def _onnx(program: torch.export.ExportedProgram, metadata: str) -> bytes:
    exported = torch.onnx.export(
        program, (), output_names=OUTPUTS, opset_version=OPSET, dynamo=True, external_data=False, verbose=False
    )
    assert exported is not None
    file = exported.model_proto
    # Remove torch's notes on where each part comes from, and the inner shapes, which a runtime infers.
    for part in (*file.graph.node, *file.graph.input, *file.graph.output, *file.graph.initializer, file.graph, file):
        del part.metadata_props[:]
    del file.graph.value_info[:]
    for value in (*file.graph.input, *file.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    file.metadata_props.add(key=KEY, value=metadata)
    contents: bytes = file.SerializeToString(deterministic=True)
    return contents
