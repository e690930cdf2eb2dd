"""The Trainer of a run or an evaluation: Lightning's, with this package's parts and nothing from elsewhere."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors import callback_connector
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning.run import loop
from cifar_lightning.run.checkpoint import AtomicCheckpointIO
from cifar_lightning.run.cluster import this_rank
from cifar_lightning.run.ddp import DDP
from cifar_lightning.run.precision import StaticHalf
from cifar_lightning.run.process_group import RANK_TIMEOUT

# By the strategy's name: arguments of torch's DistributedDataParallel. Other strategies are made by Lightning.
DDP_OPTIONS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp_find_unused_parameters_false": {"find_unused_parameters": False},
    "ddp_find_unused_parameters_true": {"find_unused_parameters": True},
}
OF_ALL_RANKS = ("limit_val_batches", "limit_test_batches")  # whole numbers of batches count for all ranks together


def new_trainer(*, accelerator: str, devices: str | int, precision: str, **arguments: Any) -> Trainer:
    """Returns a Trainer with our training loop.

    Args:
        accelerator: As for `fit`.
        devices: As for `fit`.
        precision: As for `fit`, without auto.
        arguments: Further arguments of Lightning's Trainer.
    """
    ranks = Ranks()
    plugins: list[Any] = [AtomicCheckpointIO(), ranks]
    if precision == "16-mixed":
        on_cuda = accelerator != "mps" and torch.cuda.is_available()  # if not, it is an Apple GPU: a CPU gets bfloat16
        plugins.append(StaticHalf("cuda" if on_cuda else "mps"))
    else:
        arguments["precision"] = precision
    strategy = arguments.get("strategy", "auto")
    if strategy == "auto" and ranks.world_size() > 1:
        strategy = "ddp"
    if strategy in DDP_OPTIONS:
        arguments["strategy"] = DDP(timeout=RANK_TIMEOUT, **DDP_OPTIONS[strategy])
    for name in OF_ALL_RANKS:  # Lightning counts per rank: two ranks would test other images than one
        if type(limit := arguments.get(name)) is int:
            arguments[name] = limit // ranks.world_size()
    # Lightning reads omitted arguments from the environment: PL_TRAINER_LIMIT_TEST_BATCHES would silently cut a test.
    defaults = {name: parameter.default for name, parameter in inspect.signature(Trainer).parameters.items()}
    # Lightning reads the rank from any launcher's variables: with a wrong rank, the first one would log nothing.
    rank_zero_only.rank = ranks.global_rank()  # type: ignore[attr-defined]
    with no_external_callbacks():
        trainer = Trainer(
            **{
                **defaults,
                "num_sanity_val_steps": 0,  # nobody here needs a trial validation before training
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # the loaders themselves divide the images among the ranks
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
    """A context in which a new Trainer has only the callbacks that it is given or that its arguments imply.

    Lightning would add the callbacks of any installed package that registers some for every Trainer (entry points of
    the group `lightning.pytorch.callbacks_factory`).
    """
    module: Any = callback_connector
    load, module._load_external_callbacks = module._load_external_callbacks, lambda group: []
    try:
        yield
    finally:
        module._load_external_callbacks = load


class Ranks(ClusterEnvironment):
    """The environment that gives Lightning this process's rank; see cluster.py.

    With it, Lightning neither looks for a launcher nor starts ranks itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rank = this_rank()

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        """The address where the ranks meet; used only if they are not connected yet, as with DDP on one device."""
        return self._rank.address if self._rank else "127.0.0.1"

    @property
    def main_port(self) -> int:
        """The port where the ranks meet; used like `main_address`."""
        return self._rank.port if self._rank else find_free_network_port()

    @staticmethod
    def detect() -> bool:
        """Returns False: this environment is given to the Trainer, never detected."""
        return False

    def world_size(self) -> int:
        """The number of ranks."""
        return self._rank.world_size if self._rank else 1

    def set_world_size(self, size: int) -> None:
        """Does nothing: the world size is known."""

    def global_rank(self) -> int:
        """The rank of this process."""
        return self._rank.rank if self._rank else 0

    def set_global_rank(self, rank: int) -> None:
        """Does nothing: the rank is known."""

    def local_rank(self) -> int:
        """The rank of this process on its machine."""
        return self._rank.local_rank if self._rank else 0

    def node_rank(self) -> int:
        """The number of this machine; all machines have equally many ranks."""
        return self.global_rank() // (self._rank.local_world_size or self.world_size()) if self._rank else 0


class CheckpointConnector(_CheckpointConnector):
    """A connector that loads the checkpoint it is given, and no other.

    Lightning's connector starts a fit from a checkpoint that the `OnExceptionCheckpoint` of another fit has left. In a
    SLURM job it also resumes from any `hpc_ckpt_N.ckpt` that it finds in `default_root_dir`, whichever run wrote it.
    """

    _hpc_resume_path = None

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        return ckpt_path
