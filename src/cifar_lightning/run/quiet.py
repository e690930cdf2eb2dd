"""What is said in a run: nothing that is not about it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cifar_lightning.console import open_closed

# Of Lightning's loggers: which accelerators there are not, an advertisement, and notes on its own arguments, of which
# the banner says what matters; but a profiler's report, for those who ask for one. A new experiment is no warning.
LEVELS = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.profilers": logging.INFO,
    "lightning.pytorch.loggers.mlflow": logging.ERROR,
    "matplotlib.font_manager": logging.ERROR,  # which weight of a font is the nearest
}


@contextmanager
def quietly() -> Iterator[None]:
    """Silences, within it, what has no use for our users; each with its reason. What is left has somewhere to go."""
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
    # The banner says what a run is on: its user may want the CPU where there is a GPU.
    warnings.filterwarnings("ignore", "GPU available but not used", UserWarning)
    # A compiled network computes in float32 where its user says so.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* not enabled", UserWarning)
    # train_loss is logged at the end of an epoch too.
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
    # Lightning 2.6 calls torch by a deprecated name: https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    # Lightning 2.6 wraps the network for DDP in a CUDA stream that the training then leaves:
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21567
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
    # A class's name is in letters that no font here has: a note says so.
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
    # A user's ModelCheckpoint writes beside ours, and beside its own where a run goes on.
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty", UserWarning)
    # A run that goes on without callbacks that it had: its user was asked.
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`", UserWarning)
    # A 1x1 filter has two equivalent layouts, and torch wonders: https://github.com/pytorch/pytorch/issues/47163
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
