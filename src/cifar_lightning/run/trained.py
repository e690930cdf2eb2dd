"""Networks that are trained already, by the names of the recipes that have trained them.

Small ones lie in the package, and larger ones are fetched once, from a release, into the user's own cache folder.
"""

from dataclasses import dataclass
from pathlib import Path

from cifar_lightning.data.download import Remote, fetch_file
from cifar_lightning.errors import InputError
from cifar_lightning.files import cache_folder
from cifar_lightning.settings_file import recipes

FOLDER = Path(__file__).parents[1] / "weights"
SUFFIX = ".safetensors"
LARGEST = 2 * 2**20  # bytes of a file in the package


@dataclass(frozen=True)
class Release:
    """Where the weights are that are too large for the package.

    Attributes:
        url: Of the file.
        sha256: Its digest, hexadecimal.
        size: Its length in bytes.
    """

    url: str
    sha256: str
    size: int


RELEASES: dict[str, Release] = {}  # by name; scripts/weights.py says what goes here, and there is no release yet


def trained_names() -> list[str]:
    """The names by which there are weights."""
    return sorted({*RELEASES, *(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))})


def trained_weights(name: str) -> Path | None:
    """The file of the weights of this name, fetched if need be; None where it is the name of no recipe.

    Raises:
        InputError: There are none of this recipe, or they cannot be fetched.
    """
    if name not in {*recipes(), *RELEASES}:
        return None
    path = FOLDER / f"{name}{SUFFIX}"
    if path.exists():
        return path
    others = " or ".join(other for other in trained_names() if other != name)
    if name not in RELEASES:
        raise InputError(f"weights {name}: no release has them yet: give {others}, or a run of fit --recipe {name}")
    release, path = RELEASES[name], _cache() / f"{name}-{RELEASES[name].sha256[:16]}{SUFFIX}"  # no older release's
    remote = Remote(
        name=f"the weights {name}",
        sources=(release.url,),
        sha256=release.sha256,
        size=release.size,
        kind="safetensors file",
        begins=b"",
        instead=f"place the file at {path} by hand, or give {others}",
        elsewhere="have XDG_CACHE_HOME name another folder",
    )
    fetch_file(remote, path)
    return path


def is_trained(path: Path) -> bool:
    """Whether this is a file of such weights, beside which nothing of a user's is to be written."""
    return path.suffix == SUFFIX and (path.parent == FOLDER or (bool(RELEASES) and path.parent == _cache()))


def _cache() -> Path:
    return cache_folder() / "weights"
