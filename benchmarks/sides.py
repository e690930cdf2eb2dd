"""Functions that benchmark.py measures, each in a new process: `sides.py NAME ARGUMENTS OUTPUT`.

Arguments and results are plain values, as JSON.
"""

import importlib.metadata
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from tables import interleaved
from torch import Tensor, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from tutorial_script import TRANSFORMS, Pictures
from waits import counted_waits

from cifar_lightning import CIFAR10DataModule, TutorialNet, fit
from cifar_lightning.data.cifar10 import MEAN, STD
from cifar_lightning.data.layouts import class_folders
from cifar_lightning.data.loader import BatchLoader
from cifar_lightning.data.sources import Source
from cifar_lightning.model.networks import SpeedNet, beside
from cifar_lightning.run.cpu import keep_freed_memory


def describe_machine(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the machine and the number of images. Decodes them, so that later measurements find them decoded."""
    count = data.get("synthetic_size")
    if count is None:
        source = Source(data["source"], data["data_dir"])
        source.prepare()
        count = len(source.load("train").labels)
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bfloat16": beside.multiplies_bfloat16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gpus": torch.cuda.device_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "lightning")},
        "train_images": count,
    }


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def loader_rates(data: dict[str, Any], device: str, quick: bool, repeats: int) -> dict[int, list[list[float]]]:
    """Returns images per second of torchvision's transforms in a DataLoader and of our loader, by batch size.

    Also the seconds that our loader takes once, before its first batch, to mirror the borders of all images.
    """
    torch.set_num_threads(1)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    pictures: Any = Pictures(data, "train", transform, 2_048 if quick else 8_192)

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def rate(batches: Iterator[Any]) -> float:
        start, count = clock(), 0
        for _, labels in batches:
            count += len(labels)
        return count / (clock() - start)

    def theirs(batch_size: int) -> float:
        loader = DataLoader(pictures, batch_size, shuffle=True, num_workers=0)
        return rate((images.to(device), labels.to(device)) for images, labels in loader)

    rates: dict[int, list[list[float]]] = {}
    module = CIFAR10DataModule(**data | {"augment": True, "normalization": "dataset", "device": device})
    module.channels_last = True  # as for a LitNet

    def once() -> float:
        module.setup("fit")  # otherwise the existing loader would be used again
        start = clock()
        module.train_dataloader()
        return clock() - start

    for batch_size in (4, 128, 2048):
        module.hparams["batch_size"] = batch_size
        ours = module.train_dataloader()
        sides: dict[str, Callable[[], float]] = {
            "torchvision": partial(theirs, batch_size),
            "ours": lambda ours=ours: rate(iter(ours)),  # type: ignore[misc]
            "ours, once": once,
        }
        if not rates:
            interleaved(1, sides)  # warm-up: first calls are slower
        rates[batch_size] = list(interleaved(repeats, sides).values())
    return rates


def transform_costs(data: dict[str, Any], quick: bool, repeats: int) -> dict[str, list[float]]:
    """Returns the CPU µs per image of the transforms of the tutorial's two versions, in turns, on one thread."""
    torch.set_num_threads(1)
    count = 2_048 if quick else 8_192

    def cost(text: str) -> float:
        pictures = Pictures(data, "train", TRANSFORMS[text], count)
        start = time.process_time()
        for index in range(len(pictures)):
            pictures[index]
        return 1e6 * (time.process_time() - start) / len(pictures)

    sides = {text: partial(cost, text) for text in TRANSFORMS}
    interleaved(1, sides)  # warm-up: first calls are slower
    return interleaved(repeats, sides)


def draw_pictures(folder: str, side: int, count: int) -> None:
    """Draws JPEGs of 4:3 shape: noise over a gradient of colours."""
    Path(folder).mkdir(parents=True)
    height, width = side * 3 // 4, side
    rng = np.random.default_rng(0)
    drawn, (y, x) = b"", np.mgrid[:height, :width]
    colours = np.stack([x * 180 / width, y * 180 / height, (x + y) * 180 / (width + height)], -1)
    for i in range(count):
        if i < 20:  # drawing takes longer than decoding, so later pictures repeat the 20th
            noise = rng.integers(0, 64, (height, width, 3))
            file = io.BytesIO()
            Image.fromarray((colours + noise).astype(np.uint8)).save(file, "JPEG", quality=90)
            drawn = file.getvalue()
        (Path(folder) / f"{i:06}.jpg").write_bytes(drawn)


def decode_times(side: int, count: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Returns milliseconds per picture, CPU and wall time, of torchvision's ImageFolder and of our reader."""
    with tempfile.TemporaryDirectory() as top:
        draw_pictures(f"{top}/train/a", side, count)
        draw_pictures(f"{top}/test/a", 32, 1)
        scaled = transforms.Resize((32, 32), transforms.InterpolationMode.BICUBIC)
        theirs = ImageFolder(f"{top}/train", scaled)
        sides: dict[str, Callable[[], Any]] = {
            "ImageFolder": lambda: [np.asarray(theirs[i][0]) for i in range(len(theirs))],
            "ours": lambda: class_folders.read(class_folders.scan(Path(top), "train")),
        }

        def timed(read: Callable[[], Any]) -> tuple[float, float]:
            cpu, wall = sum(os.times()[:4]), time.perf_counter()  # with the CPU time of ended helper processes
            read()
            return 1e3 * (sum(os.times()[:4]) - cpu) / count, 1e3 * (time.perf_counter() - wall) / count

        turns = interleaved(repeats, {name: partial(timed, read) for name, read in sides.items()})
    return {
        name: {"CPU": [cpu for cpu, _ in times], "wall": [wall for _, wall in times]} for name, times in turns.items()
    }


def step_costs(accelerator: str, steps: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Measures a training step in a bare loop, in our fit and in Lightning's defaults: same network, same loader.

    Args:
        accelerator: cpu or gpu.
        steps: Steps of an epoch. The second epoch is measured, up to the start of the third.
        repeats: Measurements of each side.

    Returns:
        For each side: µs of CPU time and of wall time per step for each repeat, and waits per step.
    """
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # both as fit sets them for such a small step

    def cost(side: Callable[..., None]) -> tuple[float, float]:
        marks: list[tuple[float, float]] = []

        def mark() -> None:
            if accelerator == "gpu":
                torch.cuda.synchronize()
            marks.append((time.process_time(), time.perf_counter()))

        with watched_loader(on_epoch=mark):
            side(accelerator, steps, max_steps=2 * steps + 1)
        cpu, wall = (1e6 * (after - before) / steps for before, after in zip(*marks[1:3], strict=True))
        return cpu, wall

    turns = interleaved(repeats, {name: partial(cost, side) for name, side in steppers().items()})
    found: dict[str, dict[str, Any]] = {}
    for name, side in steppers().items():
        cpu, wall = zip(*turns[name], strict=True)
        found[name] = {"cpu": cpu, "wall": wall} | count_waits(side, accelerator, every=50)
    return found


def steppers() -> dict[str, Callable[..., None]]:
    """Returns functions that train the tutorial's network, by table row: of accelerator, steps and `max_steps`."""
    return {
        "bare loop": bare_loop,
        "our fit": our_fit,
        "our fit, a row a step": partial(our_fit, every=1),
        "Lightning's defaults": lightning_defaults,
    }


def count_waits(train: Callable[..., None], accelerator: str, every: int) -> dict[str, float]:
    """Counts the operations per step in which the host must wait for the device, without those of the loader.

    Args:
        train: A function of the accelerator, steps per epoch and `max_steps`.
        accelerator: cpu or gpu.
        every: Steps between two log points.
    """
    steps: list[int] = []
    with counted_waits(accelerator) as count:

        @contextmanager
        def during_step() -> Iterator[None]:
            before = count()
            yield
            steps.append(count() - before)

        with watched_loader(during_step=during_step):
            train(accelerator, 4 * every, max_steps=4 * every)
    at_log_points = steps[every - 1 :: every]
    between = [n for i, n in enumerate(steps) if (i + 1) % every]
    return {
        "waits_between_log_points": statistics.mean(between),
        "waits_at_log_points": statistics.mean(at_log_points),
    }


@contextmanager
def watched_loader(
    on_epoch: Callable[[], None] | None = None, during_step: Callable[[], Any] | None = None
) -> Iterator[None]:
    """A context in which training loaders report when an epoch starts, and when a step starts and ends."""
    iterate = BatchLoader.__iter__

    def watching(loader: BatchLoader) -> Iterator[Any]:
        if on_epoch is not None and loader.train:
            on_epoch()
        for batch in iterate(loader):
            if during_step is not None and loader.train:
                with during_step():
                    yield batch
            else:
                yield batch

    with mock.patch.object(BatchLoader, "__iter__", watching):
        yield


def _small_data(accelerator: str, steps: int) -> dict[str, Any]:
    device = "cuda" if accelerator == "gpu" else "cpu"
    return {"source": "synthetic", "synthetic_size": 4 * steps, "batch_size": 4, "device": device}


def bare_loop(accelerator: str, steps: int, max_steps: int) -> None:
    """Trains the tutorial's network in a few lines."""
    data = CIFAR10DataModule(**_small_data(accelerator, steps))
    net = TutorialNet().to(data.hparams["device"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, fused=True)
    data.channels_last = True  # as for a LitNet
    loader = data.train_dataloader()
    while max_steps > 0:
        for images, labels in islice(loader, max_steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
        max_steps -= steps


def our_fit(accelerator: str, steps: int, max_steps: int, augment: bool = False, every: int = 50) -> None:
    """Trains the tutorial's network as fit.py does, with progress bar, log and checkpoints."""
    data = _small_data(accelerator, steps) | {"augment": augment}
    options: dict[str, Any] = {"accelerator": accelerator, "devices": 1, "log_every_n_steps": every}
    # the figures after the test are not part of the training
    with tempfile.TemporaryDirectory() as root, mock.patch("cifar_lightning.report.report.draw"):
        fit(data, **options, max_epochs=3, max_steps=max_steps, default_root_dir=root)


class Plain(LightningModule):
    """The tutorial's network in a LightningModule that logs its loss to the bar."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TutorialNet()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: D102
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> optim.Optimizer:  # noqa: D102
        return torch.optim.SGD(self.parameters(), lr=0.001, momentum=0.9, fused=True)


def lightning_defaults(accelerator: str, steps: int, max_steps: int) -> None:
    """Trains it as a LightningModule that logs its loss, with a Trainer's defaults."""
    data = CIFAR10DataModule(**_small_data(accelerator, steps))
    data.channels_last = True  # as for a LitNet
    loader = data.train_dataloader()
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(accelerator=accelerator, devices=1, max_epochs=3, max_steps=max_steps, default_root_dir=root)
        trainer.fit(Plain(), loader)


def step_times(
    widths: list[int], batch_sizes: list[int], devices: list[str], repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Returns milliseconds of a training step of the tutorial's network, by width and batch size, then by device."""
    cores = torch.get_num_threads()
    places = {"1 thread, no oneDNN": ("cpu", 1, False), "1 thread": ("cpu", 1, True)}
    if cores > 1:
        places[f"{cores} threads"] = ("cpu", cores, True)
    if "cuda" in devices:
        places["cuda"] = ("cuda", cores, True)

    def milliseconds(width: int, batch_size: int, device: str, threads: int, onednn: bool) -> float:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = onednn
        net = TutorialNet(width=width).to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, fused=True)
        images = torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        labels = torch.randint(10, (batch_size,), device=device)

        def run(steps: int) -> float:
            start = time.perf_counter()
            for _ in range(steps):
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - start

        run(2)  # warm-up: first calls are slower
        steps = max(3, min(300, int(0.3 / run(1))))
        return 1e3 * run(steps) / steps

    found: dict[str, dict[str, list[float]]] = {}
    for width in widths:
        for batch_size in batch_sizes:
            sides = {name: partial(milliseconds, width, batch_size, *place) for name, place in places.items()}
            found[f"{width} {batch_size}"] = interleaved(repeats, sides)
    return found


def beside_times(width: int, batch_size: int, side: int, repeats: int) -> dict[str, list[float]]:
    """Returns milliseconds of SpeedNet's forward and backward pass on the CPU in bfloat16, by layout of the images."""
    net = SpeedNet(width=width).train()
    images = torch.randn(batch_size, 3, side, side).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,))
    keep_freed_memory()

    def milliseconds(native: bool) -> float:
        net.zero_grad()
        start = time.perf_counter()
        with (
            mock.patch.object(beside, "multiplies_bfloat16", return_value=native),
            torch.autocast("cpu", torch.bfloat16),
        ):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        return 1e3 * (time.perf_counter() - start)

    sides = {"each alone": partial(milliseconds, False), "side by side": partial(milliseconds, True)}
    for run in sides.values():
        run()  # warm-up: first calls are slower
    return interleaved(repeats, sides)


def steps_of_ranks(**arguments: Any) -> dict[str, Any]:
    """See scaling.py."""
    from scaling import steps

    return steps(**arguments)


def sums_of_ranks(**arguments: Any) -> dict[int, list[float]]:
    """See scaling.py."""
    from scaling import sums

    return sums(**arguments)


def airbench_race(**arguments: Any) -> dict[str, list[dict[str, float]]]:
    """See airbench_race.py."""
    from airbench_race import race

    with tempfile.TemporaryDirectory() as folder:
        return race(**arguments, folder=folder, accelerator="gpu")


if __name__ == "__main__":
    _, name, values, output = sys.argv
    Path(output).write_text(json.dumps(globals()[name](**json.loads(values))))
