"""CIFAR-10 with PyTorch Lightning.

The names are imported when they are first used: `import cifar_lightning` alone does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar_lightning.data.cifar10 import CLASSES, MEAN, STD
    from cifar_lightning.data.datamodule import CIFAR10DataModule, fake_data
    from cifar_lightning.data.preprocessing import Preprocessing
    from cifar_lightning.errors import InputError, NonFiniteError
    from cifar_lightning.model.lit_net import LitNet
    from cifar_lightning.model.networks import ResNet18, TutorialNet
    from cifar_lightning.run.comparison import compare
    from cifar_lightning.run.export import export
    from cifar_lightning.run.many import fit_many, resume_many
    from cifar_lightning.run.resuming import resume
    from cifar_lightning.run.saved import load_model
    from cifar_lightning.run.testing import evaluate
    from cifar_lightning.run.training import fit

_HOMES = {
    "data.cifar10": ("CLASSES", "MEAN", "STD"),
    "data.datamodule": ("CIFAR10DataModule", "fake_data"),
    "data.preprocessing": ("Preprocessing",),
    "errors": ("InputError", "NonFiniteError"),
    "model.lit_net": ("LitNet",),
    "model.networks": ("ResNet18", "TutorialNet"),
    "run.comparison": ("compare",),
    "run.export": ("export",),
    "run.many": ("fit_many", "resume_many"),
    "run.resuming": ("resume",),
    "run.saved": ("load_model",),
    "run.testing": ("evaluate",),
    "run.training": ("fit",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CLASSES",
    "MEAN",
    "STD",
    "CIFAR10DataModule",
    "InputError",
    "LitNet",
    "NonFiniteError",
    "Preprocessing",
    "ResNet18",
    "TutorialNet",
    "compare",
    "evaluate",
    "export",
    "fake_data",
    "fit",
    "fit_many",
    "load_model",
    "resume",
    "resume_many",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # imported late: it takes as long as all else here

        return version("cifar-lightning")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
