"""Tests a network on corrupted images, those of CIFAR-10-C or CIFAR-100-C, one corruption at a time."""

import hashlib
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Trainer

from cifar_lightning.console import percent, say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.layouts.test_sets import SEVERITIES
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.report.corrupted import CorruptedOutcome, report_corrupted
from cifar_lightning.report.outcome import not_finite
from cifar_lightning.report.predictions import add_images
from cifar_lightning.run.reporting import facts_of, note_not_finite


def part_of(images: CIFAR10DataModule, part: Path) -> CIFAR10DataModule:
    """Returns a data module for one of the `parts` of `images`."""
    return CIFAR10DataModule(**{**images.hparams, "data_dir": part})


def test_corrupted(
    trainer: Trainer, model: LitNet, images: CIFAR10DataModule, facts: dict[str, Any], output: Path
) -> None:
    """Tests on each of the images' `parts`, with one part at a time in memory, and has the first rank report.

    `facts` are further entries of results.json; see `report.outcome.Outcome`.
    """
    accuracies, losses, confusion, odd, digest = {}, [], [], 0, hashlib.sha256()
    for done, part in enumerate(images.parts, start=1):
        data = part_of(images, part)
        data.count_as(model.classes)
        trainer.test(model, data, verbose=False)
        found = model.last_evaluation
        right = (found["predicted"] == data.image_set("test").labels).double()
        accuracies[part.stem] = right.view(SEVERITIES, -1).mean(1).tolist()
        losses.append(found["loss"].item())
        confusion.append(found["confusion"])
        odd += int(not_finite(found["logits"]).sum())
        if trainer.is_global_zero:
            add_images(digest, data.image_set("test"))
            say(f"{done}/{len(images.parts)}  {part.stem}  accuracy {percent(right.mean().item(), 2)}")
    if trainer.is_global_zero:
        loss = fmean(losses)  # all parts have equally many images
        counts = torch.stack(confusion).sum(0)
        note_not_finite(odd, model, output)
        facts = facts_of(trainer, model, images, facts)
        outcome = CorruptedOutcome(accuracies, counts, loss, model.classes, digest.hexdigest(), facts, odd)
        report_corrupted(outcome, output)
