"""The Trainer of a run or an evaluation: Lightning's, with what this package gives it, and nothing from elsewhere."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors import callback_connector
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning.run import loop
from cifar_lightning.run.checkpoint import AtomicCheckpointIO
from cifar_lightning.run.devices import RANK_TIMEOUT, world_size
from cifar_lightning.run.precision import StaticHalf


def new_trainer(*, accelerator: str, devices: str | int, precision: str, **arguments: Any) -> Trainer:
    """A Trainer with our loop.

    Args:
        accelerator: As for `fit`.
        devices: As for `fit`.
        precision: As for `fit`, without auto.
        arguments: Further ones of Lightning's.
    """
    plugins: list[Any] = [AtomicCheckpointIO()]
    if precision == "16-mixed":
        on_cuda = accelerator != "mps" and torch.cuda.is_available()  # else it is an Apple GPU: a CPU has bfloat16
        plugins.append(StaticHalf("cuda" if on_cuda else "mps"))
    else:
        arguments["precision"] = precision
    if world_size() > 1 and arguments.get("strategy", "auto") in ("auto", "ddp"):
        arguments["strategy"] = DDPStrategy(timeout=RANK_TIMEOUT)
    # What is left out Lightning takes from variables: of PL_TRAINER_LIMIT_TEST_BATCHES a test would not say a word.
    defaults = {name: parameter.default for name, parameter in inspect.signature(Trainer).parameters.items()}
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
    # Lightning reads it from whatever launcher's variables there are: with another rank's, this one would log nothing.
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
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


class CheckpointConnector(_CheckpointConnector):
    """Loads what it is given, and nothing else.

    In a SLURM job Lightning's takes a `hpc_ckpt_N.ckpt` that it finds in `default_root_dir` for the one to go on from,
    in a fit and in a test, whosever it is.
    """

    _hpc_resume_path = None
