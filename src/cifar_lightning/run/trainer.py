"""The Trainer of a run or an evaluation: Lightning's, with what this package gives it, and nothing from elsewhere."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors import callback_connector
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning.run import loop
from cifar_lightning.run.checkpoint import AtomicCheckpointIO
from cifar_lightning.run.cluster import this_rank
from cifar_lightning.run.devices import RANK_TIMEOUT
from cifar_lightning.run.precision import StaticHalf

OF_ALL_RANKS = ("limit_val_batches", "limit_test_batches")  # where they are whole numbers


def new_trainer(*, accelerator: str, devices: str | int, precision: str, **arguments: Any) -> Trainer:
    """A Trainer with our loop.

    Args:
        accelerator: As for `fit`.
        devices: As for `fit`.
        precision: As for `fit`, without auto.
        arguments: Further ones of Lightning's.
    """
    ranks = Ranks()
    plugins: list[Any] = [AtomicCheckpointIO(), ranks]
    if precision == "16-mixed":
        on_cuda = accelerator != "mps" and torch.cuda.is_available()  # else it is an Apple GPU: a CPU has bfloat16
        plugins.append(StaticHalf("cuda" if on_cuda else "mps"))
    else:
        arguments["precision"] = precision
    if ranks.world_size() > 1 and arguments.get("strategy", "auto") in ("auto", "ddp"):
        arguments["strategy"] = DDPStrategy(timeout=RANK_TIMEOUT)
    for name in OF_ALL_RANKS:  # Lightning's are of each rank: two would test other images than one
        if type(limit := arguments.get(name)) is int:
            arguments[name] = limit // ranks.world_size()
    # What is left out Lightning takes from variables: of PL_TRAINER_LIMIT_TEST_BATCHES a test would not say a word.
    defaults = {name: parameter.default for name, parameter in inspect.signature(Trainer).parameters.items()}
    # Lightning reads it from whatever launcher's variables there are: with another rank's, this one would log nothing.
    rank_zero_only.rank = ranks.global_rank()  # type: ignore[attr-defined]
    with no_external_callbacks():
        trainer = Trainer(
            **{
                **defaults,
                "num_sanity_val_steps": 0,  # a second look at the first validation batches has no user here
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # the loaders share the images themselves
                **arguments,
                "accelerator": accelerator,
                "devices": devices,
                "plugins": plugins,
            }
        )
    loop.install(trainer)
    trainer._checkpoint_connector = CheckpointConnector(trainer)
    return trainer


@contextmanager
def no_external_callbacks() -> Iterator[None]:
    """Within it a new Trainer has the callbacks that it is given, and those of its arguments.

    Lightning's would also have those of any package that is installed with some for every Trainer (entry points of the
    group `lightning.pytorch.callbacks_factory`).
    """
    module: Any = callback_connector
    load, module._load_external_callbacks = module._load_external_callbacks, lambda group: []
    try:
        yield
    finally:
        module._load_external_callbacks = load


class Ranks(ClusterEnvironment):
    """Tells Lightning which rank this is (see cluster.py), so that it neither looks for a launcher nor starts ranks."""

    def __init__(self) -> None:
        super().__init__()
        self._rank = this_rank()

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        """Where the ranks meet; used where they have not met yet, as a strategy for one device has it."""
        return self._rank.address if self._rank else "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Likewise."""
        return self._rank.port if self._rank else find_free_network_port()

    @staticmethod
    def detect() -> bool:
        """Never: it is given."""
        return False

    def world_size(self) -> int:
        """How many there are."""
        return self._rank.world_size if self._rank else 1

    def set_world_size(self, size: int) -> None:
        """Does nothing: it is known."""

    def global_rank(self) -> int:
        """Which this is."""
        return self._rank.rank if self._rank else 0

    def set_global_rank(self, rank: int) -> None:
        """Does nothing: it is known."""

    def local_rank(self) -> int:
        """Which this is on its machine."""
        return self._rank.local_rank if self._rank else 0

    def node_rank(self) -> int:
        """Which machine this is, of as many ranks each."""
        return self.global_rank() // (self._rank.local_world_size or self.world_size()) if self._rank else 0


class CheckpointConnector(_CheckpointConnector):
    """Loads what it is given, and nothing else.

    Lightning's begins a fit with what the `OnExceptionCheckpoint` of another has left; and in a SLURM job it takes a
    `hpc_ckpt_N.ckpt` that it finds in `default_root_dir` for the one to go on from, whosever it is.
    """

    _hpc_resume_path = None

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        return ckpt_path
