"""Measures this package beside the usual ways of doing the same, on this machine.

python scripts/benchmark.py                          # every comparison, on drawn images: hours
python scripts/benchmark.py loader overhead --quick  # two of them, roughly, in a minute
python scripts/benchmark.py tutorial --data.source folder --data.data_dir DIR --json figures.json

tutorial     the script of PyTorch's CIFAR-10 tutorial, and fit.py's default recipe
to-accuracy  seconds of training to 54, 80, 85 and 89 %: the tutorial's script, and our recipes
loader       crop, flip and normalise: torchvision through a DataLoader, and our loader
overhead     what a step costs besides the network: a bare loop, our fit, Lightning's defaults
width        a step's time against the network's width and the batch size; CPU beside GPU
devices      one process and two
growth       time and memory against batch size, images and epochs; start-up
airbench     the fastest scripts there are, and our recipes for them, on a GPU; needs --airbench DIR, a checkout of
             https://github.com/KellerJordan/cifar10-airbench

The sides of a comparison take turns, --repeats times; tables give the median (least–most). Ratios are of the
measurements that stand side by side, so a machine that slows down for a while slows both. On a busy machine trust
the columns in CPU time. Needs Linux or macOS: what is measured runs in a terminal of its own.
"""

import importlib.metadata
import json
import math
import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import cifar_lightning
from cifar_lightning.cli import main, new_parser, parse
from cifar_lightning.errors import InputError, RunError

# This process imports no torch, so that it neither competes with what it measures nor adds to its peak memory.
# Everything is measured in fresh processes: fit.py itself, or a function of this file, by `call`.

SCRIPTS = Path(__file__).resolve().parent
RECIPES = Path(cifar_lightning.__file__).parent / "recipes"
LEVELS = (0.54, 0.80, 0.85, 0.89)
OTHER_LENGTHS = ("quick:1.8", "quick:5.5")  # epochs
AIRBENCH = {"airbench94_muon.py": "speed94", "airbench96_faster.py": "speed96"}
QUICK_STEPS = 1_500
RACE_TURNS = 10  # in one process: each keeps the CUDA graphs of its network

Row = dict[str, Any]  # by column; a list of numbers stands for repeats of one measurement


@dataclass(frozen=True)
class Job:
    """What to measure on.

    Attributes:
        data: Arguments of CIFAR10DataModule.
        machine: What `describe_machine` has found.
        repeats: How often each side takes its turn.
        quick: Fewer steps and sizes.
        recipes: Those of `to-accuracy`.
        folder: For the runs, temporary.
        airbench: Where airbench's scripts are.
        runs: Turns that `airbench` takes.
    """

    data: dict[str, Any]
    machine: dict[str, Any]
    repeats: int
    quick: bool
    recipes: list[str]
    folder: Path
    airbench: str | None = None
    runs: int = 20


@dataclass
class Table:
    """Figures, and what is to be known about them; in the JSON also each run, where the rows are means."""

    title: str
    rows: list[Row]
    note: str = ""
    runs: Any = None


# ---- the comparisons


def compare_tutorial(job: Job) -> list[Table]:
    """The tutorial's script and fit.py's default recipe."""
    limit = {"images": 4 * QUICK_STEPS, "epochs": 1} if job.quick else {}
    flags = ("--max_steps", str(QUICK_STEPS)) if job.quick else ()
    turns = interleaved(
        job.repeats,
        {
            "script": lambda: call("tutorial_script", data=job.data, **limit),
            "fit.py": lambda: fit(job, "--accelerator", "cpu", *flags),
        },
    )

    def row(what: str, key: str, factor: float = 1.0) -> Row:
        script, ours = ([factor * run[key] for run in runs] for runs in turns.values())
        return {"": what, "tutorial's script": script, "fit.py": ours, "ratio": quotients(ours, script)}

    if job.quick:
        steps = 2 * job.machine["train_images"] // 4
        rows = [
            row(f"projected seconds, {steps:,} steps", "fit_seconds", steps / QUICK_STEPS),
            row("ms per step", "fit_seconds", 1e3 / QUICK_STEPS),
        ]
    else:
        rows = [row("seconds to train, 2 epochs", "fit_seconds")]
    rows += [
        row("seconds, whole process", "process_seconds"),
        row("CPU seconds, whole process", "cpu_seconds"),
        row("test accuracy, %", "test_acc", 100.0) | {"ratio": None},
    ]
    note = f"The first {QUICK_STEPS:,} steps only; seconds are projected from them." if job.quick else ""
    return [Table("tutorial: the published script, and fit.py's default recipe", rows, note)]


def compare_to_accuracy(job: Job) -> list[Table]:
    """Training time and accuracy of the tutorial's script and of the recipes, some of them shortened or prolonged.

    Nobody looks at the test images during training: a recipe reaches a level if it ends there.
    """
    count = job.machine["train_images"]
    limit = {"images": 4 * QUICK_STEPS, "epochs": 1} if job.quick else {}

    def shortened(run: str) -> tuple[str, ...]:
        """As many images as the script trains on, and no less than ten steps."""
        if not job.quick:
            return ()
        batch_size = recipe_settings(run.partition(":")[0])["data"]["batch_size"]
        return "--max_steps", str(max(10, limit["images"] // batch_size))

    turns = interleaved(
        job.repeats,
        {
            "tutorial's script": lambda: call("tutorial_script", data=job.data, **limit),
            **{
                run: partial(fit, job, *recipe_flags(run, count), *device_flags(run), *shortened(run))
                for run in job.recipes
            },
        },
    )

    def seconds(name: str) -> list[float]:
        epochs = 2.0 if name == "tutorial's script" else recipe_epochs(name, count)
        rest = [epochs * count / run["images_seen"] if job.quick else 1 for run in turns[name]]
        return [run["fit_seconds"] * factor for run, factor in zip(turns[name], rest, strict=True)]

    accuracy = {name: [run["test_acc"] for run in runs] for name, runs in turns.items()}
    kind = "projected seconds to train" if job.quick else "seconds to train"
    runs = [
        {
            "": name,
            kind: seconds(name),
            "seconds, whole process": [run["process_seconds"] for run in turns[name]],
            "test accuracy, %": [100 * acc for acc in accuracy[name]],
        }
        for name in turns
    ]
    title = "to-accuracy: training time and final accuracy"
    if job.quick:
        return [Table(title, runs, "Projected from the first steps, whose accuracy means nothing.")]
    levels = []
    for level in LEVELS:
        reached = [name for name in job.recipes if statistics.median(accuracy[name]) >= level]
        best = min(reached, key=lambda name: statistics.median(seconds(name)), default=None)
        script = statistics.median(accuracy["tutorial's script"]) >= level
        levels.append(
            {
                "level": f"{100 * level:.0f} %",
                "tutorial's script, s": seconds("tutorial's script") if script else None,
                "best recipe": best,
                "its seconds": seconds(best) if best else None,
                "ratio to the script's 2 epochs": quotients(seconds(best), seconds("tutorial's script"))
                if best
                else None,
            }
        )
    return [Table(title, runs), Table("to-accuracy: the fastest to each level", levels)]


def compare_loader(job: Job) -> list[Table]:
    """Images per second of crop, flip and normalise."""
    rows = []
    for device in ["cpu", "cuda"][: 1 + bool(job.machine["gpu"])]:
        rates = call("loader_rates", data=job.data, device=device, quick=job.quick, repeats=job.repeats)
        for batch_size, (theirs, ours) in rates.items():
            clock = "per CPU second" if device == "cpu" else "per second"
            rows.append(
                {
                    "device": device,
                    "batch size": int(batch_size),
                    "torchvision, images": theirs,
                    "ours, images": ours,
                    "": clock,
                    "ratio": quotients(ours, theirs),
                }
            )
    note = "One thread, no DataLoader workers. On a GPU theirs is prepared by one CPU thread and copied there."
    return [Table("loader: crop + flip + normalise", rows, note)]


def compare_overhead(job: Job) -> list[Table]:
    """Microseconds of a step, and reads of the device, in a bare loop, in our fit and in Lightning's defaults."""
    tables = []
    steps = 200 if job.quick else 1_250
    for accelerator in ["cpu", "gpu"][: 1 + bool(job.machine["gpu"])]:
        found = call("step_costs", accelerator=accelerator, steps=steps, repeats=job.repeats)
        bare = found["bare loop"]
        rows = [
            {
                "": name,
                "CPU µs/step": side["cpu"],
                "wall µs/step": side["wall"],
                "CPU µs over bare": [a - b for a, b in zip(side["cpu"], bare["cpu"], strict=True)],
                "wall µs over bare": [a - b for a, b in zip(side["wall"], bare["wall"], strict=True)],
                "CPU ratio": quotients(side["cpu"], bare["cpu"]),
                "waits/step": side["waits_between_log_points"],
                "waits/log point": side["waits_at_log_points"],
            }
            for name, side in found.items()
        ]
        note = (
            f"The tutorial's network, batch 4, one thread, without oneDNN; {steps:,} steps and their checkpoint. "
            "Waits: operations for which the host must wait for the device."
        )
        tables.append(Table(f"overhead of a training step, {accelerator}", rows, note))
    return tables


def compare_width(job: Job) -> list[Table]:
    """A training step's time against the width of the tutorial's network and the batch size."""
    widths = [6, 32, 128] if job.quick else [6, 16, 32, 64, 128, 256]
    batch_sizes = [4, 128] if job.quick else [4, 32, 128, 512]
    devices = ["cpu", "cuda"][: 1 + bool(job.machine["gpu"])]
    found = call("step_times", widths=widths, batch_sizes=batch_sizes, devices=devices, repeats=job.repeats)
    tables = []
    for column in next(iter(found.values())):
        rows = [
            {"width": width, **{f"batch {size}": found[f"{width} {size}"][column] for size in batch_sizes}}
            for width in widths
        ]
        tables.append(Table(f"width: ms per training step, {column}", rows))
    if len(devices) > 1:
        cpus = [column for column in next(iter(found.values())) if column != "cuda"]
        rows = [
            {
                "width": width,
                **{
                    f"batch {size}": min(statistics.median(found[f"{width} {size}"][cpu]) for cpu in cpus)
                    / statistics.median(found[f"{width} {size}"]["cuda"])
                    for size in batch_sizes
                },
            }
            for width in widths
        ]
        tables.append(Table("width: how many times faster the GPU is than the CPU at its best", rows))
    return tables


def compare_devices(job: Job) -> list[Table]:
    """The same job by one process and by two."""
    rows = []
    for accelerator in ["cpu", "gpu"][: 1 + (job.machine["gpus"] > 1)]:
        flags = ["--accelerator", accelerator, "--max_epochs", "1"]
        flags += ["--data.batch_size", "256", "--model.width", "64", "--model.lr", "0.05"]
        flags += ["--max_steps", "10"] if job.quick else []
        sides = {str(n): partial(fit, job, *flags, "--devices", str(n)) for n in (1, 2)}
        turns = interleaved(job.repeats, sides)
        for devices, runs in turns.items():
            rows.append(
                {
                    "accelerator": accelerator,
                    "processes": int(devices),
                    "seconds to train": [run["fit_seconds"] for run in runs],
                    "ratio": quotients(*([run["fit_seconds"] for run in turns[n]] for n in (devices, "1"))),
                    "seconds, whole process": [run["process_seconds"] for run in runs],
                    "images tested": [run["test_count"] for run in runs],
                    "test accuracy, %": [100 * run["test_acc"] for run in runs],
                }
            )
    note = "Batch 256 over all processes, width 64, learning rate 0.05." + (" 10 steps." if job.quick else " 1 epoch.")
    return [Table("devices: one process and two", rows, note)]


def compare_growth(job: Job) -> list[Table]:
    """Time and peak memory of fit.py against what a job can have more of."""
    steps = 10 if job.quick else 100
    base = ("--accelerator", "cpu", "--data.source", "synthetic")
    batch_sizes = (64, 256, 1024) if job.quick else (64, 128, 256, 512, 1024, 2048)
    images = (10_000, 20_000, 40_000) if job.quick else (10_000, 50_000, 100_000, 200_000, 500_000)
    epochs = (1, 2, 4) if job.quick else (1, 2, 4, 8)
    growing: dict[str, dict[int, tuple[str, ...]]] = {
        f"batch size ({steps} steps)": {
            n: ("--data.batch_size", str(n), "--max_steps", str(steps), "--max_epochs", "100") for n in batch_sizes
        },
        "images (1 epoch, batch 500)": {
            n: ("--data.synthetic_size", str(n), "--data.batch_size", "500", "--max_epochs", "1") for n in images
        },
        "epochs (10,000 images, batch 500)": {n: ("--max_epochs", str(n), "--data.batch_size", "500") for n in epochs},
    }
    points, lines = [], []
    for what, settings in growing.items():
        no_data = Job({}, job.machine, job.repeats, job.quick, [], job.folder)
        turns = interleaved(job.repeats, {str(n): partial(fit, no_data, *base, *f) for n, f in settings.items()})
        line: Row = {"": what}
        for name, key in (("s", "fit_seconds"), ("MB", "peak_mb")):
            line |= straight_line({int(n): [run[key] for run in runs] for n, runs in turns.items()}, name)
        lines.append(line)
        for n, runs in turns.items():
            points.append(
                {
                    "": what,
                    "n": int(n),
                    "seconds to train": [run["fit_seconds"] for run in runs],
                    "CPU seconds, whole process": [run["cpu_seconds"] for run in runs],
                    "peak MB": [run["peak_mb"] for run in runs],
                }
            )
    commands = {
        "python -c pass": ["-c", "pass"],
        "import cifar_lightning": ["-c", "import cifar_lightning"],
        "import torch": ["-c", "import torch"],
        "import lightning.pytorch": ["-c", "import lightning.pytorch"],
        "fit.py --help": [str(SCRIPTS / "fit.py"), "--help"],
    }
    turns = interleaved(job.repeats, {name: partial(execute, arguments) for name, arguments in commands.items()})
    columns = {"seconds": "process_seconds", "CPU seconds": "cpu_seconds", "peak MB": "peak_mb"}
    start = [
        {"": n, **{column: [run[key] for run in runs] for column, key in columns.items()}} for n, runs in turns.items()
    ]
    return [
        Table("growth: time and peak memory of the process", points),
        Table("growth: as straight lines", lines, "Off: the largest distance of a median from the line."),
        Table("growth: start-up", start),
    ]


def compare_airbench(job: Job) -> list[Table]:
    """Airbench's scripts, unmodified, and our recipes for the same accuracies."""
    assert job.airbench is not None
    tables = []
    for script, recipe in AIRBENCH.items():
        path = Path(job.airbench).resolve() / script
        found: dict[str, list[dict[str, float]]] = {"airbench": [], "ours": []}
        for first in range(1, job.runs + 1, RACE_TURNS):
            turns = list(range(first, min(first + RACE_TURNS, job.runs + 1)))
            part = call("airbench_race", data=job.data, script=str(path), recipe=recipe, turns=turns)
            for name, side in found.items():
                side += part[name]
        theirs, ours = found["airbench"], found["ours"]
        clocks = [run["clock"] for run in theirs], [run["clock"] for run in ours]
        walls = [run["wall"] for run in theirs], [run["wall"] + run["clock"] - run["fit"] for run in ours]
        rows: list[Row] = [
            {
                "": "seconds, training + evaluation",
                "airbench": clocks[0],
                "ours": clocks[1],
                "ratio": quotients(clocks[1], clocks[0]),
            },
            {
                "": "seconds with all around: airbench's main; our trainer.fit and the test",
                "airbench": walls[0],
                "ours": walls[1],
                "ratio": quotients(walls[1], walls[0]),
            },
            {
                "": "trainer.fit / our own clock of the training",
                "airbench": None,
                "ours": None,
                "ratio": quotients([run["wall"] for run in ours], [run["fit"] for run in ours]),
            },
        ]
        cold = [
            fit(job, "--recipe", recipe, "--accelerator", "gpu", "--devices", "1", "--model.test_views", "six")
            for _ in range(job.repeats)
        ]
        rows.append(
            {
                "": "seconds, a process from its start to its results",
                "airbench": None,
                "ours": [run["process_seconds"] for run in cold],
                "ratio": None,
            }
        )
        accuracies = [
            {"": name, "test accuracy, %": 100 * mean, "± 95 %": half and 100 * half, "n": len(runs)}
            for name, runs in found.items()
            for mean, half in [mean_and_interval([run["acc"] for run in runs])]
        ]
        note = (
            f"In turns in one process, a new one after {RACE_TURNS}, whose first turn is not counted; on the same "
            "images; six views on both sides."
        )
        tables += [
            Table(f"airbench: {script} and --recipe {recipe}, seconds", rows, note),
            Table(f"airbench: {script} and --recipe {recipe}, accuracy", accuracies, runs=found),
        ]
    return tables


COMPARISONS: dict[str, Callable[[Job], list[Table]]] = {
    "tutorial": compare_tutorial,
    "to-accuracy": compare_to_accuracy,
    "loader": compare_loader,
    "overhead": compare_overhead,
    "width": compare_width,
    "devices": compare_devices,
    "growth": compare_growth,
    "airbench": compare_airbench,
}


# ---- processes


def execute(arguments: Sequence[str]) -> dict[str, float]:
    """Runs Python in a terminal of its own, as a user would, so that progress bars are drawn.

    Returns:
        `process_seconds`, `cpu_seconds` and `peak_mb` of the process and of those it started.

    Raises:
        RunError: It failed.
    """
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    try:
        shown = b""
        for chunk in _chunks(leader):
            shown = (shown + chunk)[-4_000:]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
    finally:
        os.close(leader)
        if process.returncode is None:
            process.kill()
            process.wait()
    if process.returncode:
        lines = shown.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        print("\n".join(lines), file=sys.stderr)
        raise RunError(f"{' '.join(arguments)} ended with {process.returncode}: {lines[-1]}")
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # ru_maxrss is in bytes there, in KiB here
    return {
        "process_seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / unit,
    }


def _chunks(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:  # how Linux says that the other end is closed
            return
        if not chunk:
            return
        yield chunk


def call(name: str, **arguments: Any) -> Any:
    """Calls a function of this file, by name, in a process of its own; arguments and result are plain values."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        run = execute([str(SCRIPTS / "benchmark.py"), "--call", name, json.dumps(arguments), str(output)])
        result = json.loads(output.read_text())
    return {**result, **run} if name == "tutorial_script" else result


def fit(job: Job, *flags: str) -> dict[str, Any]:
    """Runs fit.py with `flags`.

    Returns:
        results.json, with what `execute` measures.
    """
    data = [part for name, value in job.data.items() for part in (f"--data.{name}", str(value))]
    with tempfile.TemporaryDirectory(dir=job.folder) as root:
        run = execute([str(SCRIPTS / "fit.py"), *data, *flags, "--default_root_dir", root])
        results = json.loads((Path(root) / "lightning_logs" / "version_0" / "results.json").read_text())
    return {**results, **run}


def interleaved(repeats: int, sides: Mapping[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Lets each side take its turn, `repeats` times: A B A B and so on."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            print(f"  {name}, {turn + 1} of {repeats}", file=sys.stderr, flush=True)
            found[name].append(side())
    return found


# ---- what is measured; these run in a process of their own


def describe_machine(data: dict[str, Any]) -> dict[str, Any]:
    """The machine, and how many images there are. Decodes them, so that nothing measured later has to."""
    import torch

    from cifar_lightning import sources

    where = data["source"], data.get("data_dir", "")
    count = data.get("synthetic_size")
    if count is None:
        sources.prepare(*where)
        count = len(sources.load(where[0], "train", where[1]).labels)
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gpus": torch.cuda.device_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "lightning")},
        "train_images": count,
        "load": os.getloadavg()[0],
    }


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Pictures:
    """A DataLoader's data set of PIL images, as torchvision.datasets.CIFAR10 is one."""

    def __init__(self, data: dict[str, Any], split: str, transform: Callable[[Any], Any], count: int | None) -> None:
        from cifar_lightning import CIFAR10DataModule

        images = CIFAR10DataModule(**data).image_set(split)
        self.pixels = images.images[:count].permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = images.labels[:count].tolist()
        self.classes = images.classes
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), self.targets[index]


def tutorial_script(data: dict[str, Any], images: int | None = None, epochs: int = 2) -> dict[str, float]:
    """The tutorial as its script has it, on the images of `data`.

    https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html

    Args:
        data: Arguments of CIFAR10DataModule.
        images: Training images to use; all by default.
        epochs: Passes over them.
    """
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    import torch.optim as optim
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    batch_size = 4
    trainset: Any = Pictures(data, "train", transform, images)
    trainloader = torch.utils.data.DataLoader(trainset, batch_size=batch_size, shuffle=True, num_workers=2)
    testset: Any = Pictures(data, "test", transform, None)
    testloader = torch.utils.data.DataLoader(testset, batch_size=batch_size, shuffle=False, num_workers=2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 6, 5)
            self.pool = nn.MaxPool2d(2, 2)
            self.conv2 = nn.Conv2d(6, 16, 5)
            self.fc1 = nn.Linear(16 * 5 * 5, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, len(trainset.classes))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(F.relu(self.conv1(x)))
            x = self.pool(F.relu(self.conv2(x)))
            x = torch.flatten(x, 1)
            x = F.relu(self.fc1(x))
            x = F.relu(self.fc2(x))
            return self.fc3(x)

    net = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

    start = time.perf_counter()
    for epoch in range(epochs):
        running_loss = 0.0
        for i, batch in enumerate(trainloader, 0):
            inputs, labels = batch
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if i % 2000 == 1999:
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 2000:.3f}")
                running_loss = 0.0
    seconds = time.perf_counter() - start

    correct, total = 0, 0
    with torch.no_grad():
        for batch in testloader:
            inputs, labels = batch
            outputs = net(inputs)
            _, predicted = torch.max(outputs, 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    return {"fit_seconds": seconds, "images_seen": epochs * len(trainset), "test_acc": correct / total}


def loader_rates(data: dict[str, Any], device: str, quick: bool, repeats: int) -> dict[int, list[list[float]]]:
    """Images per second of torchvision's transforms in a DataLoader and of our loader, by batch size."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms

    from cifar_lightning import CIFAR10DataModule
    from cifar_lightning.cifar10 import MEAN, STD

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

    def rate(batches: Iterator[Any]) -> float:
        clock = time.process_time if device == "cpu" else time.perf_counter
        start, count = clock(), 0
        for _, labels in batches:
            count += len(labels)
        if device != "cpu":
            torch.cuda.synchronize()
        return count / (clock() - start)

    def theirs(batch_size: int) -> float:
        loader = DataLoader(pictures, batch_size, shuffle=True, num_workers=0)
        return rate((images.to(device), labels.to(device)) for images, labels in loader)

    rates: dict[int, list[list[float]]] = {}
    for batch_size in (4, 128, 2048):
        module = CIFAR10DataModule(
            **data | {"batch_size": batch_size, "augment": True, "normalization": "dataset", "device": device}
        )
        ours = module.train_dataloader()
        sides: dict[str, Callable[[], float]] = {
            "torchvision": partial(theirs, batch_size),
            "ours": lambda ours=ours: rate(iter(ours)),  # type: ignore[misc]
        }
        if not rates:
            interleaved(1, sides)  # what is slow only once
        rates[batch_size] = list(interleaved(repeats, sides).values())
    return rates


def airbench_race(
    data: dict[str, Any], script: str, recipe: str, turns: list[int]
) -> dict[str, list[dict[str, float]]]:
    """See airbench_race.py."""
    from airbench_race import race

    with tempfile.TemporaryDirectory() as folder:
        data = {**data, "data_dir": str(Path(data["data_dir"]).resolve())} if "data_dir" in data else data
        return race(data, script, recipe_settings(recipe), turns, folder, "gpu")


def step_costs(accelerator: str, steps: int, repeats: int, waits: bool = True) -> dict[str, dict[str, Any]]:
    """What a training step costs in a bare loop, in our fit and in Lightning's defaults: same network, same loader.

    Args:
        accelerator: cpu or gpu.
        steps: Steps of an epoch. The second of two epochs is measured, to where the third one begins.
        repeats: Measurements of each side.
        waits: Also count what the host waits for.

    Returns:
        For each side: µs of CPU time and of wall time per step, of each repeat, and waits per step.
    """
    import torch

    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # both as fit sets them for so small a step
    sides = {"bare loop": bare_loop, "our fit": our_fit, "Lightning's defaults": lightning_defaults}

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

    turns = interleaved(repeats, {name: partial(cost, side) for name, side in sides.items()})
    found: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        cpu, wall = zip(*turns[name], strict=True)
        found[name] = {"cpu": cpu, "wall": wall}
        if waits:
            found[name] |= count_waits(side, accelerator, every=50)
    return found


def count_waits(train: Callable[..., None], accelerator: str, every: int) -> dict[str, float]:
    """Counts the operations for which the host must wait for the device, per step; the loader's are not counted.

    Args:
        train: Called with the accelerator, steps per epoch and `max_steps`.
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
    """Within it, training loaders say when an epoch's first batch is asked for, and when a step begins and ends."""
    from cifar_lightning.loader import BatchLoader

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


@contextmanager
def counted_waits(accelerator: str) -> Iterator[Callable[[], int]]:
    """Counts, in this thread, the operations for which the host must wait for the device.

    On a GPU torch itself knows them. On the CPU, where nothing waits, those are counted that would: operations whose
    result's value or shape the host needs, and tensors that become numbers, lists or arrays.
    """
    import warnings

    import torch
    from torch import Tensor
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    if accelerator == "gpu":
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lambda: sum("synchronizing" in str(warning.message) for warning in seen)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return

    count = 0
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal count
            waits = not tags.isdisjoint(func.tags)
            if func is torch.ops.aten.index.Tensor:  # it has the tag for the sake of the boolean ones
                waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
            count += waits
            return func(*args, **(kwargs or {}))

    class Methods(TorchFunctionMode):  # on the CPU these are no operations
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal count
            count += func in (Tensor.cpu, Tensor.numpy, Tensor.tolist)
            return func(*args, **(kwargs or {}))

    with Operations(), Methods():
        yield lambda: count


def _small_data(accelerator: str, steps: int) -> dict[str, Any]:
    device = "cuda" if accelerator == "gpu" else "cpu"
    return {"source": "synthetic", "synthetic_size": 4 * steps, "batch_size": 4, "device": device}


def bare_loop(accelerator: str, steps: int, max_steps: int) -> None:
    """Trains the tutorial's network as few lines do."""
    import torch
    from torch.nn import functional as F

    from cifar_lightning import CIFAR10DataModule, TutorialNet

    data = CIFAR10DataModule(**_small_data(accelerator, steps))
    net = TutorialNet().to(data.hparams["device"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, fused=True)
    loader = data.train_dataloader()
    while max_steps > 0:
        for images, labels in islice(loader, max_steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
        max_steps -= steps


def our_fit(accelerator: str, steps: int, max_steps: int, augment: bool = False) -> None:
    """Trains it as fit.py does: with the bar, the log, the checkpoints."""
    from cifar_lightning import fit

    data = _small_data(accelerator, steps) | {"augment": augment}
    # the figures after the test are no part of the training
    with tempfile.TemporaryDirectory() as root, mock.patch("cifar_lightning.results.draw"):
        fit(data, accelerator=accelerator, devices=1, max_epochs=3, max_steps=max_steps, default_root_dir=root)


def lightning_defaults(accelerator: str, steps: int, max_steps: int) -> None:
    """Trains it as a LightningModule that logs its loss, in a Trainer without arguments."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from torch.nn import functional as F

    from cifar_lightning import CIFAR10DataModule, TutorialNet

    class Plain(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = TutorialNet()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            images, labels = batch
            loss = F.cross_entropy(self.net(images), labels)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.001, momentum=0.9, fused=True)

    loader = CIFAR10DataModule(**_small_data(accelerator, steps)).train_dataloader()
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(accelerator=accelerator, devices=1, max_epochs=3, max_steps=max_steps, default_root_dir=root)
        trainer.fit(Plain(), loader)


def step_times(
    widths: list[int], batch_sizes: list[int], devices: list[str], repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of a training step of the tutorial's network, by width and batch size, then by device."""
    import torch
    from torch.nn import functional as F

    from cifar_lightning import TutorialNet

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

        run(2)  # what is slow only once
        steps = max(3, min(300, int(0.3 / run(1))))
        return 1e3 * run(steps) / steps

    found: dict[str, dict[str, list[float]]] = {}
    for width in widths:
        for batch_size in batch_sizes:
            sides = {name: partial(milliseconds, width, batch_size, *place) for name, place in places.items()}
            found[f"{width} {batch_size}"] = interleaved(repeats, sides)
    return found


# ---- figures and tables


def quotients(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratios of measurements that were taken side by side."""
    return [a / b for a, b in zip(above, below, strict=True)]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its 95 % interval by Student's t; None for fewer than five values."""
    if len(values) < 5:
        return statistics.mean(values), None  # the expansion below is 2 % too small for five, 10 % for three
    z, df = statistics.NormalDist().inv_cdf(0.975), len(values) - 1
    # Cornish and Fisher's expansion of Student's quantile: https://dlmf.nist.gov, Abramowitz and Stegun 26.7.5
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    return statistics.mean(values), t * statistics.stdev(values) / len(values) ** 0.5


def straight_line(points: dict[int, list[float]], unit: str) -> Row:
    """The line through the medians."""
    values = {n: statistics.median(values) for n, values in points.items()}
    slope, intercept = statistics.linear_regression(list(values), list(values.values()))
    off = max(abs(value - (intercept + slope * n)) for n, value in values.items())
    return {f"{unit} per n": slope, f"{unit} at 0": intercept, f"{unit} off": off}


def shown(value: Any) -> str:
    """A cell's text."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        if min(value) == max(value):
            return shown(value[0])
        return f"{shown(statistics.median(value))} ({shown(min(value))}–{shown(max(value))})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_table(table: Table) -> None:
    """Prints it; as Markdown where it does not go to a terminal."""
    from rich.box import MARKDOWN, SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    terminal = sys.stdout.isatty()
    cells = RichTable(box=SIMPLE_HEAD if terminal else MARKDOWN)
    for column in table.rows[0]:
        numbers = all(isinstance(row[column], (int, float, list, tuple, type(None))) for row in table.rows)
        cells.add_column(column, justify="right" if numbers else "left", no_wrap=not terminal)
    for row in table.rows:
        cells.add_row(*map(shown, row.values()))
    console = Console(width=None if terminal else 1_000, highlight=False)
    if console.measure(cells).maximum > console.width:
        console = Console(width=1_000, highlight=False)  # lines that a narrow terminal folds, but no figure cut off
    console.print(f"\n{table.title}", style="bold")
    console.print(cells)
    if table.note:
        console.print(table.note)


# ---- flags


def recipe_settings(name: str) -> dict[str, Any]:
    """A recipe's settings."""
    settings: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    return settings


def recipe_epochs(run: str, images: int) -> float:
    """How long `to-accuracy` trains: "quick" as long as that recipe does, "quick:0.25" for a quarter of an epoch.

    The learning rate's schedule is as long as the run.

    Raises:
        InputError: That is no number of epochs.
    """
    name, _, text = run.partition(":")
    settings = recipe_settings(name)
    most = settings.get("max_steps", math.inf) * settings["data"]["batch_size"] / images
    try:
        epochs = float(text or min(settings["max_epochs"], most))
    except ValueError:
        epochs = math.nan
    if not 0 < epochs < math.inf:
        raise InputError(f"recipe {run!r} has no number of epochs: give it like quick or quick:0.25")
    return epochs


def recipe_flags(run: str, images: int) -> list[str]:
    """The flags of fit.py for it."""
    epochs, name = recipe_epochs(run, images), run.partition(":")[0]
    steps = round(epochs * images / recipe_settings(name)["data"]["batch_size"])
    return ["--recipe", name, "--max_epochs", str(math.ceil(epochs)), "--max_steps", str(steps)]


def device_flags(run: str) -> list[str]:
    """The flags of fit.py for the device that a recipe's own command names; the script that it meets is on the CPU."""
    return ["--devices", "1", "--accelerator", "gpu" if needs_gpu(run.partition(":")[0]) else "cpu"]


def needs_gpu(recipe: str) -> bool:
    """Whether a recipe's own command asks for a GPU."""
    return "--accelerator gpu" in (RECIPES / f"{recipe}.yaml").read_text()


def recipes_for(machine: dict[str, Any], chosen: str | None) -> list[str]:
    """The recipes to run: those chosen, or all whose own command this machine can run, and `quick` at other lengths.

    Raises:
        InputError: There is no such recipe, or no such length of it.
    """
    every = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if chosen is not None:
        names = chosen.split(",")
        if unknown := sorted({name.partition(":")[0] for name in names} - set(every)):
            raise InputError(f"recipe {unknown[0]!r} is not known: give some of {','.join(every)}")
        for run in names:
            recipe_epochs(run, machine["train_images"])
        return names
    return [*OTHER_LENGTHS, *(name for name in every if machine["gpu"] or not needs_gpu(name))]


def script(arguments: Sequence[str]) -> None:
    """Runs the comparisons, prints their tables and writes them down."""
    if arguments and arguments[0] == "--call":
        _, name, values, output = arguments
        Path(output).write_text(json.dumps(globals()[name](**json.loads(values))))
        return
    parser = new_parser("benchmark.py", __doc__)
    parser.usage = "benchmark.py [COMPARISON ...] [flags]"
    parser.add_argument("comparisons", nargs="*", default=[], help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer steps and sizes, for a rough idea")
    parser.add_argument("--repeats", type=int, default=3, help="turns that each side takes")
    parser.add_argument("--recipes", type=str, default=None, help="of to-accuracy: e.g. quick,quick:4 (epochs)")
    parser.add_argument("--airbench", type=str, default=None, help="folder of airbench's scripts")
    parser.add_argument("--runs", type=int, default=20, help="turns that airbench's comparison takes")
    parser.add_argument("--json", type=str, default=None, help="file to write the figures to")
    parser.add_argument("--data.source", type=str, default=None, help="as fit.py has it; drawn images by default")
    parser.add_argument("--data.data_dir", type=str, default=None, help="as fit.py has it")
    flags = parse(parser, arguments)
    names = flags.comparisons or [name for name in COMPARISONS if name != "airbench" or flags.airbench]
    for name in names:
        if name not in COMPARISONS:
            raise InputError(f"comparison {name!r} is not known: give some of {', '.join(COMPARISONS)}")
    for name in ("repeats", "runs"):
        if flags[name] < 1:
            raise InputError(f"{name} {flags[name]} is out of range: give 1 or more")
    if "airbench" in names:
        missing = [name for name in AIRBENCH if not (Path(flags.airbench or "") / name).is_file()]
        if flags.airbench is None or missing:
            raise InputError(
                f"airbench {flags.airbench}: give --airbench DIR, a checkout of "
                f"https://github.com/KellerJordan/cifar10-airbench with {' and '.join(AIRBENCH)}"
            )

    data: dict[str, Any]
    if flags.data.data_dir is None and flags.data.source in (None, "synthetic"):
        data = {"source": "synthetic", "synthetic_size": 10_000 if flags.quick else 50_000}
    else:
        data_dir = flags.data.data_dir or "data"
        folders = (Path(data_dir) / "train").is_dir()
        data = {"source": flags.data.source or ("folder" if folders else "cifar10"), "data_dir": data_dir}
    machine = call("describe_machine", data=data)
    print("  ".join(f"{name} {value}" for name, value in machine.items() if value))
    if not machine["gpu"]:
        if "airbench" in names:
            raise InputError("airbench: its scripts need an NVIDIA GPU, and torch sees none here: leave it out")
        print("no GPU here: its rows are left out")
    if machine["load"] > 0.5:
        print(f"the machine is busy (load {machine['load']:.1f}): trust the columns in CPU time only")

    report: dict[str, Any] = {"machine": machine, "data": data, "quick": flags.quick, "repeats": flags.repeats}
    report["comparisons"] = {}
    with tempfile.TemporaryDirectory() as folder:
        recipes = recipes_for(machine, flags.recipes)
        job = Job(data, machine, flags.repeats, flags.quick, recipes, Path(folder), flags.airbench, flags.runs)
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            tables = COMPARISONS[name](job)
            for table in tables:
                print_table(table)
            report["comparisons"][name] = [asdict(table) for table in tables]
            if flags.json is not None:  # after each: an interrupted benchmark keeps what it has
                Path(flags.json).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(script)
