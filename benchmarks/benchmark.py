"""Compares this package with the usual ways of doing the same, on this machine.

python benchmarks/benchmark.py                          # every comparison, on drawn images: hours
python benchmarks/benchmark.py loader overhead --quick  # two of them, roughly, in a minute
python benchmarks/benchmark.py tutorial --data.source folder --data.data_dir DIR --json figures.json

tutorial     the script of PyTorch's CIFAR-10 tutorial, as of 2018 and of 2026, and fit.py's default recipe
transforms   CPU time per image of the transforms of these two scripts, in which they differ
to-accuracy  seconds of training to 54, 80, 85 and 89 %: the tutorial's script (as of 2018), and our recipes
loader       crop, flip and normalise: torchvision through a DataLoader, and our loader
decode       the first reading of class folders, by torchvision's ImageFolder and by ours; thumbnails and photographs
predict      time and memory of predict for many small pictures, and for one
overhead     the cost of a step besides the network: a bare loop, our fit, Lightning's defaults
width        the time of a step by the network's width and the batch size; CPU and GPU
beside       steps of the recipes cpu and quick in bf16: each image alone, or images side by side in the late blocks
devices      one process and two
scaling      how much two processes send each other in a step, and how long that takes, by network
seeds        ten runs of speed54: by ten processes, one after another, and by fit.py --seeds 10
growth       time and memory by batch size, number of images and epochs; start-up
airbench     the fastest known scripts, and our recipes for the same, on a GPU; needs --airbench DIR, a checkout of
             https://github.com/KellerJordan/cifar10-airbench

The sides of a comparison take turns, --repeats times; tables give the median (least–most). Ratios are between
measurements of the same turn, so a machine that slows down for a while slows both. On a busy machine use only the
columns in CPU time. Needs Linux or macOS: each measured process runs in its own terminal.
"""

import itertools
import json
import math
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from tables import Row, Table, columns, interleaved, mean_and_interval, print_table, quotients, straight_line

from cifar_lightning.cli import main
from cifar_lightning.errors import InputError, RunError
from cifar_lightning.flags import new_parser, parse
from cifar_lightning.settings_file import RECIPES, recipes

# This process imports no torch, so that it neither competes with what it measures nor adds to its peak memory.
# Everything is measured in fresh processes: fit.py, the tutorial's script, or a function of sides.py.

HERE = Path(__file__).resolve().parent
FIT = HERE.parent / "scripts" / "fit.py"
LEVELS = (0.54, 0.80, 0.85, 0.89)
OTHER_LENGTHS = ("quick:1.8", "quick:5.5")  # epochs
AIRBENCH = {"airbench94_muon.py": "speed94", "airbench96_faster.py": "speed96"}
MODES = Literal["default", "reduce-overhead", "max-autotune"]
QUICK_STEPS = 1_500
IMPORTS = "from cifar_lightning.startup import importing\nwith importing():\n    import cifar_lightning.run.training"
WHOLE_PROCESS = {"seconds": "process_seconds", "CPU seconds": "cpu_seconds", "peak MB": "peak_mb"}
RACE_TURNS = 10  # per process: each turn keeps the CUDA graphs of its network


@dataclass(frozen=True)
class Job:
    """The images, the machine and the options of the comparisons.

    Attributes:
        data: Arguments of CIFAR10DataModule.
        machine: The result of `describe_machine`.
        repeats: Number of turns of each side.
        quick: Whether to measure fewer steps and sizes.
        recipes: Recipes for `to-accuracy`; `airbench` uses those for which it has a script.
        folder: A temporary folder for the runs.
        airbench: Folder of airbench's scripts.
        runs: Number of turns of `airbench`.
        compile: Mode of torch.compile in `airbench`.
    """

    data: dict[str, Any]
    machine: dict[str, Any]
    repeats: int
    quick: bool
    recipes: list[str]
    folder: Path
    airbench: str | None
    runs: int
    compile: str


# ---- the comparisons


def compare_tutorial(job: Job) -> list[Table]:
    """Compares the tutorial's script with fit.py's default recipe."""
    limit = {"images": 4 * QUICK_STEPS, "epochs": 1} if job.quick else {}
    flags = ("--max_steps", str(QUICK_STEPS)) if job.quick else ()
    turns = interleaved(
        job.repeats,
        {
            "2018": partial(tutorial_script, job, text="2018", **limit),
            "2026": partial(tutorial_script, job, text="2026", **limit),
            "fit.py": seed_after_seed(job, "--accelerator", "cpu", *flags),
        },
    )

    def row(what: str, key: str, factor: float = 1.0) -> Row:
        older, newer, ours = ([factor * run[key] for run in runs] for runs in turns.values())
        return {
            "": what,
            "script of 2018": older,
            "script of 2026": newer,
            "fit.py": ours,
            "to 2018": quotients(ours, older),
            "to 2026": quotients(ours, newer),
        }

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
    ]
    if not job.quick:  # so few steps reach no accuracy that means anything
        rows.append(row("test accuracy, %", "test_acc", 100.0) | {"to 2018": None, "to 2026": None})
    note = f"The first {QUICK_STEPS:,} steps only; seconds are projected from them." if job.quick else ""
    return [Table("tutorial: the published script, and fit.py's default recipe", rows, note)]


def compare_transforms(job: Job) -> list[Table]:
    """Compares the CPU time per image of the transforms of the tutorial's two versions."""
    older, newer = call("transform_costs", data=job.data, quick=job.quick, repeats=job.repeats).values()
    row: Row = {"": "CPU µs/image", "2018, ToTensor": older, "2026, v2": newer, "ratio": quotients(newer, older)}
    return [Table("transforms: those of the tutorial's two versions, which give the same pixels", [row])]


def compare_to_accuracy(job: Job) -> list[Table]:
    """Compares training time and accuracy of the tutorial's script and of recipes, some of them shorter or longer.

    The test images are not used during training: a recipe reaches a level if its final accuracy does.
    """
    count = job.machine["train_images"]
    limit = {"images": 4 * QUICK_STEPS, "epochs": 1} if job.quick else {}

    def shortened(run: str) -> tuple[str, ...]:
        """Flags for as many images as the script trains on, but at least ten steps."""
        if not job.quick:
            return ()
        batch_size = recipe_settings(run.partition(":")[0])["data"]["batch_size"]
        return "--max_steps", str(max(10, limit["images"] // batch_size))

    turns = interleaved(
        job.repeats,
        {
            "tutorial's script": partial(tutorial_script, job, **limit),
            **{
                run: seed_after_seed(job, *recipe_flags(run, count), *device_flags(run), *shortened(run))
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
    """Compares the images per second of crop, flip and normalise."""
    rows = []
    for device in ["cpu", "cuda"][: 1 + bool(job.machine["gpu"])]:
        rates = call("loader_rates", data=job.data, device=device, quick=job.quick, repeats=job.repeats)
        for batch_size, (theirs, ours, once) in rates.items():
            clock = "per CPU second" if device == "cpu" else "per second"
            rows.append(
                {
                    "device": device,
                    "batch size": int(batch_size),
                    "torchvision, images": theirs,
                    "ours, images": ours,
                    "": clock,
                    "ratio": quotients(ours, theirs),
                    "ours, once, s": once,
                }
            )
    note = (
        "One thread, no DataLoader workers. For a GPU, one CPU thread makes torchvision's batches and copies them. "
        "Once: before its first batch our loader mirrors all images' borders; rates and ratio do not include this."
    )
    return [Table("loader: crop + flip + normalise", rows, note)]


def compare_decode(job: Job) -> list[Table]:
    """Compares the milliseconds per picture of the first reading, on all cores; drawn pictures, saved as JPEG."""
    rows = []
    for side, count in ((32, 500 if job.quick else 10_000), (4_000, 4 if job.quick else 20)):
        theirs, ours = call("decode_times", side=side, count=count, repeats=job.repeats).values()
        for clock in ("CPU", "wall"):
            row = {"ImageFolder": theirs[clock], "ours": ours[clock], "ratio": quotients(ours[clock], theirs[clock])}
            rows.append({"": f"{count:,} of {side} pixels a side, {clock} ms", **row})
    note = "ImageFolder without workers; on both sides PIL scales the pictures, bicubic with antialiasing."
    return [Table("decode: milliseconds per picture", rows, note)]


def compare_predict(job: Job) -> list[Table]:
    """Compares predict on many small pictures with predict on one; the difference does not include the start."""
    count = 200 if job.quick else 20_000
    run = job.folder / "trained"
    few = ("--data.source", "synthetic", "--data.synthetic_size", "100", "--max_steps", "5", "--accelerator", "cpu")
    execute([str(FIT), *few, "--default_root_dir", str(run)])
    call("draw_pictures", folder=str(job.folder / "many"), side=32, count=count)
    call("draw_pictures", folder=str(job.folder / "one"), side=32, count=1)
    checkpoint = str(run / "lightning_logs" / "version_0")
    sides = {
        name: partial(execute, [str(FIT.with_name("predict.py")), checkpoint, str(job.folder / name)])
        for name in ("one", "many")
    }
    turns = interleaved(job.repeats, sides)
    titles = {"one": "1 picture", "many": f"{count:,} pictures"}
    rows = [{"": titles[name], **columns(runs, WHOLE_PROCESS)} for name, runs in turns.items()]
    return [Table("predict: the whole process", rows)]


def compare_overhead(job: Job) -> list[Table]:
    """Compares microseconds and waits per step of a bare loop, our fit and Lightning's defaults."""
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
            "Waits: operations in which the host must wait for the device."
        )
        tables.append(Table(f"overhead of a training step, {accelerator}", rows, note))
    return tables


def compare_width(job: Job) -> list[Table]:
    """Measures the time of a training step by the width of the tutorial's network and the batch size."""
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


def compare_beside(job: Job) -> list[Table]:
    """Compares steps of SpeedNet in bfloat16 with and without images side by side, by width, batch and image size."""
    shapes = (
        [(32, 500, 16)]
        if job.quick
        else [(32, 500, s) for s in (16, 24, 32)] + [(64, 1000, s) for s in (16, 20, 24, 32)]
    )
    rows = []
    for width, batch_size, side in shapes:
        found = call("beside_times", width=width, batch_size=batch_size, side=side, repeats=job.repeats)
        ratio = {"ratio": quotients(found["side by side"], found["each alone"])}
        rows.append({"width": width, "batch": batch_size, "side": side, **found, **ratio})
    note = "" if job.machine["bfloat16"] else "This CPU has neither AMX nor avx512_bf16: fit computes each image alone."
    return [Table("beside: ms per training step, forward and backward", rows, note)]


def compare_devices(job: Job) -> list[Table]:
    """Compares the same job by one process and by two."""
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


def compare_scaling(job: Job) -> list[Table]:
    """Measures what one of two ranks sends in a step, and the time that this takes."""
    kinds = {"gradients": "MB", "batch norms": "KB"}
    count = 2 if job.quick else 5
    rows, messages, networks = [], set[int](), []
    for recipe, batch_size, quick in (("tutorial", 4, 4), ("speed94", 200, 8), ("resnet18", 64, 4)):
        model = recipe_settings(recipe)["model"] | {"compile": "none"}
        share = (quick if job.quick else batch_size) // 2
        sides = {
            name: partial(call, "steps_of_ranks", data={"batch_size": n * share}, model=model, processes=n, count=count)
            for n, name in ((1, "half alone"), (2, "two"))
        }
        turns = interleaved(job.repeats, sides)
        both = turns["two"][0]["sent"]
        row: Row = {"": recipe, "batch": 2 * share}
        for kind, unit in kinds.items():
            sent = both.pop(kind, [])
            row |= {f"{kind}, messages": len(sent), unit: sum(sent) / {"MB": 1e6, "KB": 1e3}[unit]}
            messages |= {*sent}
            networks.append(sent)
        row["others"] = sum(map(len, both.values()))
        ms = {f"ms, {name}": [statistics.median(run["ms"]) for run in runs] for name, runs in turns.items()}
        rows.append(row | ms)
    times = {int(size): ms for size, ms in call("sums_of_ranks", sizes=sorted(messages), repeats=job.repeats).items()}
    for row, *sent in zip(rows, networks[::2], networks[1::2], strict=True):
        row["ms, sums"] = sum(statistics.median(times[size]) for part in sent for size in part)
    sums = [{"bytes": size, "ms": ms, "GB/s": [size / 1e6 / one for one in ms]} for size, ms in times.items()]
    note = (
        f"CPU, one thread per process, float32; for each turn the median of {count} steps. ms, sums: all sums "
        "one after another, without overlap with computation."
    )
    return [
        Table("scaling: a step of two ranks", rows, note),
        Table("scaling: a sum over two processes, by its bytes", sums),
    ]


def compare_seeds(job: Job) -> list[Table]:
    """Compares many runs of a recipe by one process each, one after another, with the same runs by one command."""
    count = 2 if job.quick else 10
    flags = ["--recipe", "speed54", "--accelerator", "cpu"]
    figures = ("process_seconds", "cpu_seconds")

    def in_turn() -> dict[str, float]:
        runs = [fit(job, *flags, "--seed", str(seed)) for seed in range(count)]
        return {name: sum(run[name] for run in runs) for name in figures}

    one, many = f"{count} x fit.py", f"fit.py --seeds {count}"
    turns = interleaved(job.repeats, {one: in_turn, many: partial(fit, job, *flags, "--seeds", str(count))})
    seconds, cpu = ({side: [run[name] for run in runs] for side, runs in turns.items()} for name in figures)
    rows: list[Row] = [
        {
            "": side,
            "seconds, whole processes": seconds[side],
            "ratio": quotients(seconds[side], seconds[one]),
            "CPU seconds": cpu[side],
            "ratio of CPU seconds": quotients(cpu[side], cpu[one]),
        }
        for side in turns
    ]
    return [Table(f"seeds: {count} runs of speed54", rows, "The second side draws no figures of the single runs.")]


def compare_growth(job: Job) -> list[Table]:
    """Measures time and peak memory of fit.py by batch size, number of images and epochs; and start-up."""
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
    shown = {"seconds to train": "fit_seconds", "CPU seconds, whole process": "cpu_seconds", "peak MB": "peak_mb"}
    points, lines = [], []
    for what, settings in growing.items():
        no_data = replace(job, data={})
        turns = interleaved(job.repeats, {str(n): partial(fit, no_data, *base, *f) for n, f in settings.items()})
        line: Row = {"": what}
        for name, key in (("s", "fit_seconds"), ("MB", "peak_mb")):
            line |= straight_line({int(n): [run[key] for run in runs] for n, runs in turns.items()}, name)
        lines.append(line)
        for n, runs in turns.items():
            shown = {
                "seconds to train": "fit_seconds",
                "CPU seconds, whole process": "cpu_seconds",
                "peak MB": "peak_mb",
            }
            points.append({"": what, "n": int(n), **columns(runs, shown)})
    commands = {
        "python -c pass": ["-c", "pass"],
        "import cifar_lightning": ["-c", "import cifar_lightning"],
        "import torch": ["-c", "import torch"],
        "import lightning.pytorch": ["-c", "import lightning.pytorch"],
        "what fit.py imports": ["-c", IMPORTS],
        "fit.py --help": [str(FIT), "--help"],
    }
    turns = interleaved(job.repeats, {name: partial(execute, arguments) for name, arguments in commands.items()})
    start = [{"": name, **columns(runs, WHOLE_PROCESS)} for name, runs in turns.items()]
    return [
        Table("growth: time and peak memory of the process", points),
        Table("growth: as straight lines", lines, "Off: the largest distance between a median and the line."),
        Table("growth: start-up", start),
    ]


def compare_airbench(job: Job) -> list[Table]:
    """Compares airbench's unmodified scripts with our recipes for the same accuracies."""
    assert job.airbench is not None
    tables = []
    for script, recipe in AIRBENCH.items():
        if recipe not in job.recipes:
            continue
        path = Path(job.airbench).resolve() / script
        found: dict[str, list[dict[str, float]]] = {"airbench": [], "ours": []}
        for first in range(1, job.runs + 1, RACE_TURNS):
            turns = list(range(first, min(first + RACE_TURNS, job.runs + 1)))
            part = call(
                "airbench_race",
                data=job.data,
                script=str(path),
                settings=recipe_settings(recipe),
                turns=turns,
                mode=job.compile,
            )
            for name, side in found.items():
                side += part[name]
        theirs, ours = found["airbench"], found["ours"]
        clocks = [run["clock"] for run in theirs], [run["clock"] for run in ours]
        walls = [run["wall"] for run in theirs], [run["wall"] for run in ours]
        fits = [run["trainer.fit"] for run in ours]

        def row(what: str, airbench: Any = None, ours: Any = None, ratio: Any = None) -> Row:
            return {"": what, "airbench": airbench, "ours": ours, "ratio": ratio}

        cold = [
            fit(job, "--recipe", recipe, "--accelerator", "gpu", "--devices", "1", "--model.test_views", "six")
            for _ in range(job.repeats)
        ]
        around = "seconds with all around: airbench's main; our fit(), without figures"
        rows = [
            row("seconds, training + evaluation", *clocks, quotients(clocks[1], clocks[0])),
            row(around, *walls, quotients(walls[1], walls[0])),
            row("trainer.fit", ours=fits),
            row("trainer.fit over our training", ratio=quotients(fits, [run["fit"] for run in ours])),
            row("trainer.fit over our training + evaluation", ratio=quotients(fits, clocks[1])),
            row("seconds, a process from its start to its results", ours=[run["process_seconds"] for run in cold]),
        ]
        accuracies = [
            {"": name, "test accuracy, %": 100 * mean, "± 95 %": half and 100 * half, "n": len(runs)}
            for name, runs in found.items()
            for mean, half in [mean_and_interval([run["acc"] for run in runs])]
        ]
        note = (
            f"Turns in one process, a new process after {RACE_TURNS}; the first turn of each is not counted. The same "
            f"images, six views and compile mode {job.compile} on both sides."
        )
        tables += [
            Table(f"airbench: {script} and --recipe {recipe}, seconds", rows, note),
            Table(f"airbench: {script} and --recipe {recipe}, accuracy", accuracies, runs=found),
        ]
    return tables


COMPARISONS: dict[str, Callable[[Job], list[Table]]] = {
    "tutorial": compare_tutorial,
    "transforms": compare_transforms,
    "to-accuracy": compare_to_accuracy,
    "loader": compare_loader,
    "decode": compare_decode,
    "predict": compare_predict,
    "overhead": compare_overhead,
    "width": compare_width,
    "beside": compare_beside,
    "devices": compare_devices,
    "scaling": compare_scaling,
    "seeds": compare_seeds,
    "growth": compare_growth,
    "airbench": compare_airbench,
}


# ---- processes


def execute(arguments: Sequence[str]) -> dict[str, float]:
    """Runs Python in its own terminal, as a user would, so that progress bars are drawn.

    Returns:
        `process_seconds`, `cpu_seconds` and `peak_mb` of the process and of the processes it started.

    Raises:
        RunError: The process failed.
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
        lines = shown.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
        print("\n".join(lines), file=sys.stderr)
        raise RunError(f"{' '.join(arguments)} ended with {process.returncode}: {lines[-1]}")
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return {
        "process_seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / unit,
    }


def _chunks(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:  # Linux raises it when the other end is closed
            return
        if not chunk:
            return
        yield chunk


def call(name: str, **arguments: Any) -> Any:
    """Calls a function of sides.py, by name, in a new process."""
    return measure("sides.py", name, **arguments)["result"]


def tutorial_script(job: Job, **arguments: Any) -> dict[str, Any]:
    """Runs the tutorial's script; returns the same keys as `fit`."""
    run = measure("tutorial_script.py", data=job.data, **arguments)
    return {**run.pop("result"), **run}


def measure(script: str, *words: str, **arguments: Any) -> dict[str, Any]:
    """Runs a script of this folder with `words`, its arguments as JSON, and a file for its result.

    Returns:
        The measurements of `execute`, and `result`.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        run = execute([str(HERE / script), *words, json.dumps(arguments), str(output)])
        return {**run, "result": json.loads(output.read_text())}


def fit(job: Job, *flags: str) -> dict[str, Any]:
    """Runs fit.py with `flags`.

    Returns:
        The contents of results.json, and the measurements of `execute`.
    """
    data = [part for name, value in job.data.items() for part in (f"--data.{name}", str(value))]
    with tempfile.TemporaryDirectory(dir=job.folder) as root:
        run = execute([str(FIT), *data, *flags, "--default_root_dir", root])
        results = json.loads((Path(root) / "lightning_logs" / "version_0" / "results.json").read_text())
    return {**results, **run}


def seed_after_seed(job: Job, *flags: str) -> Callable[[], dict[str, Any]]:
    """Returns a side that runs fit.py with seed 0 in its first turn, with seed 1 in its second, and so on.

    The tutorial's script sets no seed, so its accuracies differ between turns, too.
    """
    seeds = itertools.count()
    return lambda: fit(job, "--seed", str(next(seeds)), *flags)


# ---- flags


def recipe_settings(name: str) -> dict[str, Any]:
    """Returns a recipe's settings."""
    settings: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    return settings


def recipe_epochs(run: str, images: int) -> float:
    """Returns the epochs that `to-accuracy` trains: "quick" as many as that recipe, "quick:0.25" a quarter of one.

    The learning rate's schedule is as long as the run.

    Raises:
        InputError: The number of epochs is not a number above 0.
    """
    name, _, text = run.partition(":")
    settings = recipe_settings(name)
    most = settings.get("max_steps", math.inf) * settings["data"]["batch_size"] / images
    try:
        epochs = float(text or min(settings["max_epochs"], most))
    except ValueError:
        epochs = math.nan
    if not 0 < epochs < math.inf:
        raise InputError(f"recipe {run}: the number of epochs must be above 0, as in quick:0.25, or left out")
    return epochs


def recipe_flags(run: str, images: int) -> list[str]:
    """Returns the flags of fit.py for a recipe and its length."""
    epochs, name = recipe_epochs(run, images), run.partition(":")[0]
    steps = round(epochs * images / recipe_settings(name)["data"]["batch_size"])
    return ["--recipe", name, "--max_epochs", str(math.ceil(epochs)), "--max_steps", str(steps)]


def device_flags(run: str) -> list[str]:
    """Returns the flags of fit.py for the device in a recipe's own command; the tutorial's script is on the CPU."""
    return ["--devices", "1", "--accelerator", "gpu" if needs_gpu(run.partition(":")[0]) else "cpu"]


def needs_gpu(recipe: str) -> bool:
    """Whether a recipe's own command asks for a GPU."""
    return "--accelerator gpu" in (RECIPES / f"{recipe}.yaml").read_text()


def check_recipes(names: Sequence[str]) -> None:
    """Raises an InputError if a recipe does not exist, or if its length is not a number above 0."""
    if unknown := sorted({name.partition(":")[0] for name in names} - set(recipes())):
        raise InputError(f"unknown recipe {unknown[0]}: choose from {','.join(recipes())} (several with commas)")
    for run in names:
        recipe_epochs(run, images=50_000)


def recipes_for(machine: dict[str, Any]) -> list[str]:
    """Returns the recipes whose own command this machine can run, and `quick` at other lengths."""
    return [*OTHER_LENGTHS, *(name for name in recipes() if machine["gpu"] or not needs_gpu(name))]


def check_flags(flags: Any, names: Sequence[str]) -> None:
    """Raises an InputError if a flag cannot be used for the comparisons of these names."""
    for name in names:
        if name not in COMPARISONS:
            raise InputError(f"unknown comparison {name}: choose from {', '.join(COMPARISONS)}")
    for name in ("repeats", "runs"):
        if flags[name] < 1:
            raise InputError(f"{name} {flags[name]}: must be at least 1")
    if flags.json is not None and not Path(flags.json).absolute().parent.is_dir():
        raise InputError(f"json {flags.json}: the folder {Path(flags.json).parent} does not exist; use another")
    if "airbench" in names:
        check_airbench(flags)
    if flags.recipes is not None:
        check_recipes(flags.recipes.split(","))


def check_airbench(flags: Any) -> None:
    """Raises an InputError if airbench's scripts are not there, or if no recipe races one of them."""
    if flags.airbench is None or not all((Path(flags.airbench) / name).is_file() for name in AIRBENCH):
        raise InputError(
            f"airbench {flags.airbench}: use --airbench DIR, a checkout of "
            f"https://github.com/KellerJordan/cifar10-airbench with {' and '.join(AIRBENCH)}"
        )
    if flags.recipes is not None and not set(flags.recipes.split(",")) & set(AIRBENCH.values()):
        raise InputError(f"recipes {flags.recipes}: airbench races {' and '.join(AIRBENCH.values())}: use these")


def images_of(flags: Any) -> dict[str, Any]:
    """Returns the arguments of the data module, as the flags or their lack say."""
    if flags.data.data_dir is None and flags.data.source in (None, "synthetic"):
        return {"source": "synthetic", "synthetic_size": 10_000 if flags.quick else 50_000}
    data_dir = os.path.expanduser(flags.data.data_dir or "data")
    folders = (Path(data_dir) / "train").is_dir()
    source = flags.data.source or ("folder" if folders else "cifar10")
    return {"source": source, "data_dir": str(Path(data_dir).resolve())}  # the race changes its folder


def script(arguments: Sequence[str]) -> None:
    """Runs the comparisons, prints their tables, and writes them to the file of --json."""
    parser = new_parser("benchmark [COMPARISON ...] [flags]", __doc__, folder="benchmarks")
    parser.add_argument("comparisons", nargs="*", default=[], help="names; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer steps and sizes, for a rough idea")
    parser.add_argument("--repeats", type=int, default=3, help="number of turns of each side")
    parser.add_argument(
        "--recipes", type=str, default=None, help="of to-accuracy, e.g. quick,quick:4 (epochs); airbench: speed94"
    )
    parser.add_argument("--airbench", type=str, default=None, help="folder of airbench's scripts")
    parser.add_argument("--runs", type=int, default=20, help="number of turns of airbench")
    parser.add_argument(
        "--compile", type=MODES, default="max-autotune", help="mode of torch.compile in airbench, for both sides"
    )
    parser.add_argument("--json", type=str, default=None, help="file to write the figures to")
    parser.add_argument("--data.source", type=str, default=None, help="as for fit.py; drawn images by default")
    parser.add_argument("--data.data_dir", type=str, default=None, help="as for fit.py")
    flags = parse(parser, arguments)
    names = flags.comparisons or [name for name in COMPARISONS if name != "airbench" or flags.airbench]
    check_flags(flags, names)
    load = os.getloadavg()[0]  # before this benchmark adds to it
    data = images_of(flags)
    machine = {**call("describe_machine", data=data), "load": load}
    print("  ".join(f"{name} {value}" for name, value in machine.items() if value))
    if not machine["gpu"]:
        if "airbench" in names:
            raise InputError("airbench: its scripts need an NVIDIA GPU, and torch sees none here: leave it out")
        print("no GPU here: the rows for a GPU are left out")
    if machine["load"] > 0.5:
        print(f"the machine is busy (load {machine['load']:.1f}): use only the columns in CPU time")

    report: dict[str, Any] = {"machine": machine, "data": data, "quick": flags.quick, "repeats": flags.repeats}
    report["comparisons"] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = flags.recipes.split(",") if flags.recipes is not None else recipes_for(machine)
        job = Job(
            data, machine, flags.repeats, flags.quick, runs, Path(folder), flags.airbench, flags.runs, flags.compile
        )
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
