"""Measures what two ranks of a run send each other in a step, and how long this takes, on the CPUs of this machine.

It counts what reaches torch's process group in a step of `fit`: gradients, which DDP sends, the sums of batch norms,
and anything else.
"""

import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cifar_lightning import fit
from cifar_lightning.model.networks import norm
from cifar_lightning.run.launch import launch
from cifar_lightning.run.process_group import process_group

WARM = 2  # first steps, which are slower
COUNTED = WARM  # the step whose messages are counted; it is not timed


def steps(data: dict[str, Any], model: dict[str, Any], processes: int, count: int) -> dict[str, Any]:
    """Returns `ms`, the milliseconds of each of `count` steps of a fit by `processes` processes, and `sent`.

    `sent` has the bytes of each message that a rank sends in a step, by kind of message. Each process has one thread.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/steps.json"
        job = {"data": data, "model": model, "count": count, "folder": folder, "output": output}
        launch("scaling:rank", job, processes)
        found: dict[str, Any] = json.loads(Path(output).read_text())
    return found


def rank(data: dict[str, Any], model: dict[str, Any], count: int, folder: str, output: str) -> None:
    """Runs one of the processes of `steps`."""
    watch = _Watch()
    length = {"max_epochs": 1, "max_steps": WARM + 1 + count}
    data = {"source": "synthetic", "synthetic_size": length["max_steps"] * data["batch_size"], **data}
    where = {"accelerator": "cpu", "default_root_dir": folder, "threads": 1}
    fit(data, model, **length, **where, report=False, logger="csv", callbacks=[watch])
    if watch.first:
        found = {"ms": watch.ms[-count:], "sent": watch.sent}
        Path(output).write_text(json.dumps(found))


def sums(sizes: list[int], repeats: int) -> dict[int, list[float]]:
    """Returns the milliseconds of summing a tensor over two processes, by its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/sums.json"
        launch("scaling:summing", {"sizes": sizes, "repeats": repeats, "output": output}, 2)
        found: dict[str, list[float]] = json.loads(Path(output).read_text())
    return {int(size): times for size, times in found.items()}


def summing(sizes: list[int], repeats: int, output: str) -> None:
    """Runs one of the processes of `sums`."""
    torch.set_num_threads(1)
    with process_group():
        found = {size: _summed(torch.ones(size // 4), repeats) for size in sizes}
        if dist.get_rank() == 0:
            Path(output).write_text(json.dumps(found))


def _summed(values: Tensor, repeats: int) -> list[float]:
    """Returns the median milliseconds of ten sums, `repeats` times."""

    def once() -> float:
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        return 1e3 * (time.perf_counter() - start)

    for _ in range(10):  # until the connection has warmed up
        once()
    return [median(once() for _ in range(10)) for _ in range(repeats)]


class _Watch(Callback):
    """Times the steps of a fit, and records what one of them sends."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self.sent: dict[str, list[int]] = {}
        self.first = False
        self._messages = _Messages()

    def on_train_batch_start(self, *args: Any) -> None:
        if len(self.ms) == COUNTED:
            self._messages.__enter__()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.ms.append(1e3 * (time.perf_counter() - self._start))
        if len(self.ms) == COUNTED + 1:
            self._messages.__exit__(None, None, None)
            self.sent, self.first = self._messages.sent, trainer.is_global_zero


class _Messages(TorchDispatchMode):
    """A context that records the bytes of every collective operation by its kind, whatever code has called it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, list[int]] = defaultdict(list)
        self._of_norm = False
        summed = norm.dist.all_reduce

        def of_norm(x: Tensor) -> None:
            self._of_norm = True
            summed(x)
            self._of_norm = False

        self._patch = mock.patch.object(norm.dist, "all_reduce", of_norm)

    def __enter__(self) -> "_Messages":
        self._patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name.startswith("c10d::"):
            tensors = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            kind = "batch norms" if self._of_norm else "gradients" if "allreduce" in name else name
            self.sent[kind].append(sum(x.numel() * x.element_size() for x in tensors))
        return func(*args, **(kwargs or {}))
