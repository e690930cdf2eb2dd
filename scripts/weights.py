"""Makes a file of trained weights for the package from a run of a recipe, with a description of them inside.

python scripts/weights.py lightning_logs/version_0 --recipe quick --images "CIFAR-10 re-encoded as JPEG"

The weights are in float32, because in half precision a few images in ten thousand would get another class. The accuracy
in the file is measured in float32 on the run's test images, whatever the precision of the run's own test. Prints the
row for docs/trained.md. A file of more than 2 MB is too large for the package, and stays in the current folder.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_lightning.cli import main
from cifar_lightning.console import say
from cifar_lightning.errors import InputError
from cifar_lightning.files import write_atomically
from cifar_lightning.startup import importing

if TYPE_CHECKING:
    from cifar_lightning.run.settings import Settings

TEST = ("test_acc", "test_loss", "test_count", "test_views", "precision")


def script(arguments: Sequence[str]) -> None:
    """Makes the file of weights."""
    settings = _parser().parse_args(arguments)
    with importing():  # imported late: torch and Lightning take seconds
        from cifar_lightning.run.checkpoint import load_checkpoint
        from cifar_lightning.run.saved import data_of, home_of, select_checkpoint
        from cifar_lightning.run.settings import read_settings
        from cifar_lightning.run.testing import evaluate
        from cifar_lightning.run.trained import FOLDER, LARGEST, SUFFIX

    path = select_checkpoint(settings.run)
    run = read_settings(home_of(path))
    _check_recipe(settings.recipe, run, settings.run)
    data = data_of(load_checkpoint(path), {})
    data.prepare_data()
    data.setup("fit")
    told = {
        "command": f"cifar-lightning fit --recipe {settings.recipe} --seed {run.seed}",
        "data": {"images": settings.images, "train": len(data.train_indices), "test": len(data.test_indices)},
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / f"{settings.recipe}{SUFFIX}"
        trial.write_bytes(_contents(path, told))
        which = "synthetic_size" if data.hparams["source"] == "synthetic" else "data_dir"
        images = {name: data.hparams[name] for name in ("source", which, "sha256")}
        found = evaluate(trial, images, accelerator="cpu", precision="32-true", output_dir=folder)
        contents = _contents(path, {**told, "test": {name: found[name] for name in TEST}})
    target = (FOLDER if len(contents) <= LARGEST else Path()) / f"{settings.recipe}{SUFFIX}"
    write_atomically(target, contents)
    say(f"\n{target}", 1)
    say(f"| `{settings.recipe}` | {len(contents) / 1e6:.2f} | {100 * found['test_acc']:.2f} % |", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--recipe", required=True, help="the run's recipe, which also names the file of weights")
    parser.add_argument("--images", required=True, help="a description of the training and test images")
    return parser


def _check_recipe(name: str, run: "Settings", folder: Path) -> None:
    """Raises an InputError if a setting that a result depends on differs between the run and the recipe."""
    from cifar_lightning.run.changes import INDIFFERENT
    from cifar_lightning.run.many import settings_of_fit
    from cifar_lightning.run.recipe import over_recipe

    images = {key: run.data[key] for key in ("source", "sha256", "synthetic_size")}  # --images describes them
    wanted = settings_of_fit({"recipe": name, "seed": run.seed, "data": images}).by_flags()
    free = {*INDIFFERENT, "log_every_n_steps"}
    if over_recipe({"recipe": name}).get("precision") == "auto":  # it depends on the machine
        free.add("precision")
    # Settings in groups first, because a difference in one of them tells more.
    for key, here in sorted(run.by_flags().items(), key=lambda setting: "." not in setting[0]):
        if key not in free and here != (value := wanted.get(key)):
            raise InputError(f"{folder} has {key} {here}, but the recipe {name} has {value}: use a run of this recipe")


def _contents(path: Path, told: Mapping[str, Any]) -> bytes:
    """Returns the file that `export` writes for a checkpoint, with further facts added."""
    from safetensors import safe_open

    from cifar_lightning.run.export import export
    from cifar_lightning.run.weights import KEY, weights_file

    with tempfile.TemporaryDirectory() as folder:
        exported = export(path, "safetensors", Path(folder) / "exported.safetensors")
        with safe_open(exported, "pt") as file:
            facts = {**json.loads(file.metadata()[KEY]), **told}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    return weights_file(weights, json.dumps(facts, sort_keys=True))


if __name__ == "__main__":
    main(script)
