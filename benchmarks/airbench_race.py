"""The two sides of benchmark.py's comparison `airbench`: its scripts, unmodified, and our recipes, in one process."""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from cifar_lightning import CIFAR10DataModule, LitNet, fit
from cifar_lightning.data import transforms
from cifar_lightning.model.networks import SpeedNet

Run = dict[str, float]


def race(
    data: dict[str, Any],
    script: str,
    settings: dict[str, Any],
    turns: Sequence[int],
    mode: str,
    folder: str,
    accelerator: str,
) -> dict[str, list[Run]]:
    """Trains both sides in turns on the same images. A first turn, for ours of one epoch, compiles and is not counted.

    Args:
        data: Arguments of CIFAR10DataModule that say where the images are.
        script: Path of one of airbench's scripts.
        settings: The settings of our recipe.
        turns: Numbers of the turns that count, from 1; also our seeds.
        mode: Mode of torch.compile, for both sides.
        folder: Folder that the runs may write to.
        accelerator: gpu; or cpu, to try the race itself on a script that runs there.

    Returns:
        For `airbench` and `ours`, for each run: `acc`, the accuracy with six views of each test image; `clock`, the
        seconds of training and of that evaluation, counted as airbench does: with the whitening and the mirrored
        borders, but without compilation, loading, and checks and checkpoints in between; `wall`, all seconds of
        airbench's main, or of our fit() without its figures. Ours also has `fit`, the part of `clock` that is training,
        and `trainer.fit`, the part of `wall` that is the Trainer's fit.
    """
    os.chdir(folder)
    _write_images(data, Path(folder) / "cifar10")
    theirs = _their_side(Path(script), mode)
    sides: dict[str, Callable[[int], Run]] = {
        "airbench": theirs,
        "ours": lambda turn: _our_run(
            data, settings if turn in turns else {**settings, "max_epochs": 1}, turn, mode, folder, accelerator
        ),
    }
    found: dict[str, list[Run]] = {name: [] for name in sides}
    # Our seeds seed airbench too, so the warm-up's seed must differ from those of this process's turns.
    for turn in (turns[0] - 1, *turns):
        counts = turn in turns
        for name, side in sides.items():
            # Lightning frees GPU memory after a run; airbench would have to allocate it again while its clock runs.
            with mock.patch("torch.cuda.empty_cache"):
                result = side(turn)
            if counts:
                found[name].append(result)
            print(f"  {name}, {f'turn {turn}' if counts else 'warm-up'}: {result}", file=sys.stderr, flush=True)
    return found


def _write_images(data: dict[str, Any], folder: Path) -> None:
    """Writes the files that airbench's loaders read instead of downloading."""
    folder.mkdir(parents=True, exist_ok=True)
    module = CIFAR10DataModule(**data)
    for split in ("train", "test"):
        images = module.image_set(split)
        content = {"images": images.images.permute(0, 2, 3, 1).contiguous(), "labels": images.labels}
        torch.save({**content, "classes": list(images.classes)}, folder / f"{split}.pt")


def _their_side(script: Path, mode: str) -> Callable[[int], Run]:
    """Makes airbench's networks as its own last lines do, compiled in `mode`; returns its `main` with its own clock."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module  # torch.compile may look for it there
    with mock.patch.object(sys, "argv", [str(script)]):  # the script reads its own source
        spec.loader.exec_module(module)
    warm = False
    last: dict[str, Any] = {}
    module.print_training_details = lambda variables, is_final_entry: last.update(variables)
    if hasattr(module, "CifarNet"):
        model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
        model.compile(mode=mode)
        arguments: tuple[Any, ...] = (model,)
    else:
        nets = [module.make_net(module.hyp[name]) for name in ("proxy", "net", "net")]
        for net in (nets[0], nets[2]):
            net[0].bias.requires_grad = False
        arguments = (module.hyp, *(torch.compile(net, mode=mode) for net in nets))

    def run(turn: int) -> Run:
        start = _now()
        nonlocal warm
        acc = module.main(turn if warm or len(arguments) > 1 else "warmup", *arguments)
        warm = True
        wall = _now() - start
        clock = last.get("time_seconds", last.get("total_time_seconds"))
        last.clear()  # it holds all variables of main, including the images on the GPU
        return {"acc": acc, "clock": clock, "wall": wall}

    return run


def _our_run(
    data: dict[str, Any], settings: dict[str, Any], seed: int, mode: str, folder: str, accelerator: str
) -> Run:
    model = {**settings["model"], "test_views": "six", "compile": mode if accelerator == "gpu" else "none"}
    with _clocks() as seconds:
        start = _now()
        results = fit(
            data={**settings["data"], **data},
            model=model,
            accelerator=accelerator,
            devices=1,
            seed=seed,
            default_root_dir=folder,
            **{name: value for name, value in settings.items() if name not in ("data", "model")},
        )
        wall = _now() - start
    training = seconds["begin"] + seconds["train"] - seconds["checkpoints"]
    clock = training + seconds["test"]
    return {
        "acc": results["test_acc"],
        "clock": clock,
        "wall": wall,
        "fit": training,
        "trainer.fit": seconds["trainer.fit"],
    }


@contextmanager
def _clocks() -> Iterator[dict[str, float]]:
    """A context that measures the seconds of Trainer.fit and of the test.

    Of the fit it also measures the whitening and the mirrored borders (`begin`), the training from the first step to
    the last (`train`), and the `checkpoints`.
    """
    from lightning.pytorch import Trainer

    from cifar_lightning.run import networks
    from cifar_lightning.run.callbacks.checkpoints import Checkpoints

    seconds = {"checkpoints": 0.0, "begin": 0.0}
    trainer_fit, save = Trainer.fit, Checkpoints.save
    whiten, pad = SpeedNet.init_from_images, transforms.reflect_pad

    def timed_beginning(step: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = _now()
            result = step(*args)
            seconds["begin"] += _now() - start
            return result

        return timed

    def timed_fit(*args: Any, **kwargs: Any) -> None:
        start = _now()
        trainer_fit(*args, **kwargs)
        seconds["trainer.fit"] = _now() - start

    def timed_save(*args: Any, **kwargs: Any) -> None:
        start = _now()
        save(*args, **kwargs)
        seconds["checkpoints"] += _now() - start

    class Timed(LitNet):
        def on_train_start(self) -> None:
            super().on_train_start()
            seconds["checkpoints"] = 0.0  # without the checkpoint of the start
            seconds["train"] = -_now()

        def on_train_end(self) -> None:
            seconds["train"] += _now()

        def on_test_start(self) -> None:
            super().on_test_start()
            seconds["test"] = -_now()

        def on_test_epoch_end(self) -> None:
            super().on_test_epoch_end()
            seconds["test"] += _now()

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Trainer, "fit", timed_fit))
        patches.enter_context(mock.patch.object(Checkpoints, "save", timed_save))
        patches.enter_context(mock.patch.object(SpeedNet, "init_from_images", timed_beginning(whiten)))
        patches.enter_context(mock.patch.object(transforms, "reflect_pad", timed_beginning(pad)))
        patches.enter_context(mock.patch.object(networks, "LitNet", Timed))
        patches.enter_context(mock.patch("cifar_lightning.report.report.draw"))  # figures belong to neither side
        yield seconds


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
