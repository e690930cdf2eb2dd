"""Silences the messages of libraries that do not concern the user of a run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cifar_lightning.console import open_closed

# Lightning reports which accelerators are missing, an advertisement, and notes on its own arguments; our banner says
# what matters of these. A profiler's report stays, for those who ask for one.
LEVELS = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.profilers": logging.INFO,
    "lightning.pytorch.loggers.mlflow": logging.ERROR,  # it warns that an experiment is new, which is no problem
    "matplotlib.font_manager": logging.ERROR,  # it reports which weight of a font is the nearest
}


@contextmanager
def quietly() -> Iterator[None]:
    """A context in which messages without use to the user are silenced; opens closed standard streams for the rest."""
    open_closed()
    before = {name: logging.getLogger(name).level for name in LEVELS}
    with warnings.catch_warnings():
        _ignore_warnings()
        for name, level in LEVELS.items():
            logging.getLogger(name).setLevel(level)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def _ignore_warnings() -> None:
    # The user may want the CPU on a machine with a GPU, and the banner names the device.
    warnings.filterwarnings("ignore", "GPU available but not used", UserWarning)
    # A compiled network computes in float32 if the user chose that precision.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* not enabled", UserWarning)
    # train_loss is also logged at the end of each epoch.
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
    # Lightning 2.6 uses a deprecated name of torch's: https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    # Lightning 2.6 wraps the network for DDP in another CUDA stream than the one it then trains in:
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21567
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
    # No font here has the letters of a class's name: our own note says so.
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
    # A user's ModelCheckpoint writes into the folder of our checkpoints, and in a resumed run beside its earlier ones.
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty", UserWarning)
    # A run is resumed without callbacks that it had: this package has asked the user about that.
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`", UserWarning)
    # torch warns because a 1x1 filter has two equivalent layouts: https://github.com/pytorch/pytorch/issues/47163
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
