"""Names what is in a picture, with the three most probable classes.

cifar-lightning predict lightning_logs/version_0 cat.jpg holiday/
cifar-lightning predict lightning_logs/version_0 cat.jpg --json
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cifar_lightning.cli import add_net, new_parser, parse
from cifar_lightning.console import printing, say
from cifar_lightning.errors import InputError
from cifar_lightning.startup import importing


def script(arguments: Sequence[str]) -> int:
    """Predicts; returns 1 where some of the images could not be read."""
    parser = new_parser("predict CHECKPOINT IMAGE ... [flags]", __doc__)
    parser.add_argument("checkpoint", type=str, help="a run's folder, or a .ckpt file")
    parser.add_argument("images", type=str, nargs="+", help="image files of any kind and size, or folders of them")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    add_net(parser)
    settings = parse(parser, arguments)

    with importing():  # not before: torch and Lightning take seconds
        import torch

        from cifar_lightning.data.pictures import read_image
        from cifar_lightning.report.table import predictions_table
        from cifar_lightning.run.checkpoint import load_checkpoint
        from cifar_lightning.run.saved import model_of, select_checkpoint

    path = select_checkpoint(Path(settings.checkpoint))
    saved = load_checkpoint(path)
    model = model_of(saved, path, settings["model.net"])
    rows, unread = [], 0
    for file in _files(settings.images):
        try:
            pixels, notes = read_image(file)
        except InputError as error:
            unread += 1
            say(f"error: {error}")
            continue
        for note in notes:
            say(f"note: {note}")
        _, probabilities = model.predict(torch.tensor(pixels).permute(2, 0, 1))
        top = probabilities[0].topk(min(3, len(model.classes)))
        named = [
            {"class": model.classes[index], "probability": probability}
            for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        rows.append({"file": str(file), "class": named[0]["class"], "top": named})
    if settings.json:
        say(json.dumps(rows, indent=2), 1)
    elif rows:
        with printing(1):
            predictions_table(rows)
            print(f"\nby {path}, step {saved['global_step']:,}", flush=True)
    return 1 if unread else 0


def _files(paths: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if os.path.isdir(path):  # False, where Path's raises, for one that this user may not see
            try:
                found = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}): make it readable") from error
            if not found:
                raise InputError(f"{path} holds no files: give an image, or a folder of images")
            files += found
        else:
            files.append(path)  # a missing one is reported with those that cannot be read
    return files
