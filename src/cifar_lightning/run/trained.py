"""Networks that are trained already, by the names of the recipes that have trained them. They lie in the package."""

import difflib
from pathlib import Path

from cifar_lightning.errors import InputError
from cifar_lightning.settings_file import recipes

FOLDER = Path(__file__).parents[1] / "weights"
SUFFIX = ".safetensors"
LARGEST = 2 * 2**20  # bytes of a file in the package


def trained_weights(name: str) -> Path | None:
    """The file of the weights of this name; None where it is the name of no recipe.

    Raises:
        InputError: There are none of this recipe.
    """
    if name not in recipes():
        return None
    if name not in (known := _names()):
        others = " or ".join(known)
        raise InputError(f"weights {name}: no release has them yet: give {others}, or a run of fit --recipe {name}")
    return FOLDER / f"{name}{SUFFIX}"


def near_to(name: str) -> str | None:
    """The name of such weights that may be meant by one of which there is nothing; None where none is like it."""
    return next(iter(difflib.get_close_matches(name.lower(), _names(), n=1)), None)


def _names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def is_trained(path: Path) -> bool:
    """Whether this is a file of such weights, beside which nothing of a user's is to be written."""
    return path.suffix == SUFFIX and path.parent == FOLDER
