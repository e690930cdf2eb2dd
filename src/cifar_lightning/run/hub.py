"""Writes a trained network as a folder for Hugging Face's hub: weights, two files of settings, and a model card."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cifar_lightning.errors import InputError, quoted
from cifar_lightning.files import exists, readable, write_folder
from cifar_lightning.report.model_card import model_card
from cifar_lightning.run.weights import KEY

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FILES = {CONFIG, WEIGHTS, "preprocessor_config.json", "README.md"}
BICUBIC = 3  # Pillow's number of the filter with which pictures of another size are scaled


def write_hub_folder(path: Path, weights: bytes, facts: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Writes the folder, whole or not at all; replaces another such folder. Equal arguments give equal files.

    Args:
        path: The folder.
        weights: The contents of model.safetensors.
        facts: The metadata of model.safetensors.
        trained: What else is known of the training; see `model_card`.

    Raises:
        InputError: Something else is at this path, or the normalisation of the images is not known.
        RunError: The folder cannot be written to this disk.
    """
    if facts["mean"] is None:
        raise InputError(
            "format hf contains the normalisation of the images, which this model does not know: "
            "pass preprocessing=data.preprocessing to LitNet"
        )
    if exists(path) and not path.is_dir():
        raise InputError(f"output {path} is a file: use a folder")
    if path.resolve() == Path.cwd():  # replacing it would leave every process in it in a deleted folder
        raise InputError(f"output {path} is the current folder: choose another, such as {path / 'hf'}")
    with readable(path):
        there = {entry.name for entry in path.iterdir()} if exists(path) else set()
    if others := sorted(there - FILES or (set() if _is_ours(path) else there)):
        raise InputError(f"output {path} exists and contains {quoted(others[0])}: choose another folder")
    write_folder(
        path,
        {
            CONFIG: _json(_config(facts)),
            WEIGHTS: weights,
            "preprocessor_config.json": _json(_preprocessor(facts)),
            "README.md": model_card(facts, trained).encode(),
        },
    )


def is_hub_folder(path: Path) -> bool:
    """Returns whether a path is a folder as `write_hub_folder` writes it."""
    return exists(path / CONFIG) and exists(path / WEIGHTS)


def _is_ours(path: Path) -> bool:
    """Returns whether `write_hub_folder` wrote this folder: other models' folders have files of the same names."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return bool(json.loads((path / CONFIG).read_text("utf-8"))["model_type"] == KEY)
    return False


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _config(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json in the terms of transformers' PretrainedConfig. `load_model` reads the weights' metadata."""
    return {
        "model_type": KEY,
        "architectures": ["LitNet"],
        "num_labels": len(facts["classes"]),
        "id2label": {str(label): name for label, name in enumerate(facts["classes"])},
        "label2id": {name: label for label, name in enumerate(facts["classes"])},
        "image_size": facts["image_size"],
        "num_channels": 3,
        KEY: {name: facts[name] for name in ("model", "test_views", "version")},
    }


def _preprocessor(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of transformers' image processor for ViT, which does the preprocessing of our networks."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": facts["image_size"], "width": facts["image_size"]},
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(facts["mean"]),
        "image_std": list(facts["std"]),
    }
