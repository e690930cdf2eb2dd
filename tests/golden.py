"""Golden losses: those of every recipe's first steps, kept in run/golden/, which today's are compared with.

    python tests/golden.py            # makes the files of all recipes anew
    python tests/golden.py cpu quick  # or of some

Other tests compare a run with another of today, and a change of both goes by. Where a change is meant to change the
training, make the files anew, and say so in its commit.

The runs are small, and otherwise the recipe's: see SMALL. The schedule and the sizes of images pass in 20 steps. All
is in float64, from the first weight on. In float32 other vector instructions change the 20th loss by up to a fifth
(resnet18; speed94 2e-2), for where two pixels are equal but for rounding, it decides which of them is the maximum and
gets the gradient. In float64 AVX-512, AVX2 and neither, one thread and two, and MKL's oldest code, for any processor,
agree to 2e-9 (resnet18; the others to 2e-12). So a learning rate that is a hundredth higher is seen anywhere: it
changes the tutorial's losses, which move least, by 2e-6. Measured on an Intel Xeon with torch 2.14.1, of which 2.13.0
gives the same bits.
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

# What makes a run small, and the same wherever it computes.
SMALL = {
    "accelerator": "cpu",
    "precision": "64-true",
    "max_epochs": 2,
    "max_steps": 20,
    "data": {"source": "synthetic", "synthetic_size": 200, "batch_size": 20},
    "model": {"width": 8, "compile": "none"},
    "trainer": {},
}
# How far a loss may be, relatively, from that of another processor or other versions. On the same it is equal.
TOLERANCE = 1e-7


class _Losses(Callback):
    """Keeps the loss of every step, of which metrics.csv has seven digits."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def settings_of_recipe(name):
    """What stands in a recipe's file."""
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))


def defaults():
    """The settings of `fit`, where nothing is given."""
    given = {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}
    del given["callbacks"]  # objects are no settings
    return given | {"logger": "auto"}


@quietly()
def losses(recipe):
    """The loss of every step of a recipe, made small."""
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
    """The contents of a golden file of a recipe: its settings, what made it small, what computed it, and its losses."""
    return {"recipe": recipe, "small": SMALL, "made_by": machine(), "losses": losses(recipe)}


def kept(name):
    """The contents of a recipe's golden file."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def machine():
    """What the last bits of a loss depend on, besides this package."""
    return {
        **{name: version(name) for name in ("torch", "torchvision", "lightning", "numpy")},
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": THREADS,
    }


def _processor():
    """Its name; on Linux also its family, model and stepping, for a virtual one may have any name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    names = [name for name in ("model name", "cpu family", "model", "stepping") if name in facts]
    return ", ".join(facts[name] for name in names) or platform.processor() or platform.machine()


def differences(before, now):
    """What is not the same in two golden files, a line each: every setting, and the first loss."""
    found = []
    for part in ("recipe", "small"):
        was, is_ = _flat(before[part]), _flat(now[part])
        for name in sorted({*was, *is_}):
            if was.get(name) != is_.get(name):
                found.append(f"{part}: {name} was {was.get(name)} and is {is_.get(name)}")
    tolerance = 0 if before["made_by"] == now["made_by"] else TOLERANCE
    for step, (was, is_) in enumerate(zip(before["losses"], now["losses"], strict=True), start=1):
        if not abs(is_ - was) <= tolerance * abs(was):  # nor is NaN
            found.append(f"the loss of step {step} was {was} and is {is_}, {abs(is_ / was - 1):.0e} of it away")
            break
    return found


def _flat(settings):
    """Settings by their names, such as model.lr."""
    groups = {name: value for name, value in settings.items() if isinstance(value, dict)}
    flat = {name: value for name, value in settings.items() if name not in groups}
    return flat | {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def main(names):
    """Makes the files of these recipes anew, or of all."""
    for name in names or recipes():
        text = json.dumps(made(settings_of_recipe(name)), indent=2)
        (FOLDER / f"{name}.json").write_text(f"{text}\n", "utf-8")
        print(f"made {name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
