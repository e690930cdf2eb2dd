"""Golden losses: the losses of every recipe's first steps, recorded in run/golden/, to compare today's with.

    python tests/golden.py            # records the files of all recipes again
    python tests/golden.py cpu quick  # or of some

Other tests compare two runs of today, and do not notice a change of both. If a change is meant to change the training,
record the files again, and say so in its commit.

The runs are small, and otherwise as in the recipe: see SMALL. Schedules and image sizes are complete in 20 steps.
Everything is in float64, from the first weight on. In float32, other vector instructions change the 20th loss by up to
a fifth (resnet18; speed94 2e-2): if two pixels are equal but for rounding, the rounding decides which of them is the
maximum and gets the gradient. In float64, AVX-512, AVX2 and neither, one thread and two, and MKL's oldest code, for any
processor, agree to 2e-9 (resnet18; the others to 2e-12). So a learning rate higher by a hundredth is noticed anywhere:
it changes the losses of the tutorial, which move least, by 2e-6. Measured on an Intel Xeon with torch 2.14.1; torch
2.13.0 gives the same bits.
"""

import inspect
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback, seed_everything

from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.run.cpu import restored_torch
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.settings import settings_of
from cifar_lightning.run.trainer import new_trainer
from cifar_lightning.run.training import fit
from cifar_lightning.settings_file import RECIPES, recipes

FOLDER = Path(__file__).parent / "run" / "golden"
THREADS = 1

# Makes a run small, and the same on every machine.
SMALL = {
    "accelerator": "cpu",
    "precision": "64-true",
    "max_epochs": 2,
    "max_steps": 20,
    "data": {"source": "synthetic", "synthetic_size": 200, "batch_size": 20},
    "model": {"width": 8, "compile": "none"},
    "trainer": {},
}
# Relative tolerance for losses of another processor or other versions; on the same ones they must be equal.
TOLERANCE = 1e-7


class _Losses(Callback):
    """Keeps the loss of every step with all digits; metrics.csv has seven."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def settings_of_recipe(name):
    """Returns the settings in a recipe's file."""
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))


def defaults():
    """Returns the default settings of `fit`."""
    given = {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}
    del given["callbacks"]  # objects, not settings
    return given | {"logger": "auto"}


@quietly()
def losses(recipe):
    """Returns the loss of every step of a recipe's small run."""
    groups = {name: {**recipe[name], **SMALL[name]} for name in ("data", "model")}
    settings = settings_of({**defaults(), **recipe, **SMALL, **groups})
    kept = _Losses()
    with restored_torch():
        torch.set_num_threads(THREADS)
        trainer = new_trainer(
            **settings.for_trainer(),
            **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "callbacks": [kept]},
        )
        seed_everything(settings.seed, verbose=False)
        with trainer.init_module():  # in the Trainer's precision
            model = LitNet(**settings.model)
        trainer.fit(model, settings.images())
    return kept.values


def made(recipe):
    """Computes a recipe's golden file: its settings, what made it small, what computed it, and its losses."""
    return {"recipe": recipe, "small": SMALL, "made_by": machine(), "losses": losses(recipe)}


def kept(name):
    """Returns the contents of a recipe's recorded golden file."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def machine():
    """Returns what the last bits of a loss depend on, besides this package."""
    return {
        **{name: version(name) for name in ("torch", "torchvision", "lightning", "numpy")},
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": THREADS,
    }


def _processor():
    """Returns the processor's name, on Linux with family, model and stepping: a virtual one may have any name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    names = [name for name in ("model name", "cpu family", "model", "stepping") if name in facts]
    return ", ".join(facts[name] for name in names) or platform.processor() or platform.machine()


def differences(before, now):
    """Returns a line for every setting that differs between two golden files, and for the first loss that does."""
    found = []
    for part in ("recipe", "small"):
        was, is_ = _flat(before[part]), _flat(now[part])
        for name in sorted({*was, *is_}):
            if was.get(name) != is_.get(name):
                found.append(f"{part}: {name} was {was.get(name)} and is {is_.get(name)}")
    tolerance = 0 if before["made_by"] == now["made_by"] else TOLERANCE
    for step, (was, is_) in enumerate(zip(before["losses"], now["losses"], strict=True), start=1):
        if not abs(is_ - was) <= tolerance * abs(was):  # also if one is NaN
            found.append(f"the loss of step {step} was {was} and is {is_}, {abs(is_ / was - 1):.0e} of it away")
            break
    return found


def _flat(settings):
    """Returns settings by their full names, such as model.lr."""
    groups = {name: value for name, value in settings.items() if isinstance(value, dict)}
    flat = {name: value for name, value in settings.items() if name not in groups}
    return flat | {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def main(names):
    """Records the files of these recipes again, or of all."""
    for name in names or recipes():
        text = json.dumps(made(settings_of_recipe(name)), indent=2)
        (FOLDER / f"{name}.json").write_text(f"{text}\n", "utf-8")
        print(f"made {name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
