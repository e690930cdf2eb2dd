"""Weights of trained networks that come with the package, by the names of the recipes that trained them."""

from pathlib import Path

from cifar_lightning.errors import InputError
from cifar_lightning.settings_file import recipes

FOLDER = Path(__file__).parents[1] / "weights"
SUFFIX = ".safetensors"
LARGEST = 2 * 2**20  # limit for such a file, in bytes


def trained_weights(name: str) -> Path | None:
    """Returns the file with the weights of a recipe; None if there is no recipe of this name.

    Raises:
        InputError: The package has no weights of this recipe.
    """
    if name not in recipes():
        return None
    if name not in packaged():
        others = " or ".join(packaged())
        raise InputError(f"weights {name}: no release has them yet; use {others}, or a run of fit --recipe {name}")
    return FOLDER / f"{name}{SUFFIX}"


def packaged() -> list[str]:
    """Returns the names of the weights that the package has."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def is_trained(path: Path) -> bool:
    """Returns whether this is a file of the package's weights, beside which no file of the user's may be written."""
    return path.suffix == SUFFIX and path.parent == FOLDER
