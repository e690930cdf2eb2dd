"""Names what is in a picture, with the three most probable classes.

cifar-lightning predict lightning_logs/version_0 cat.jpg holiday/
cifar-lightning predict lightning_logs/version_0 cat.jpg --json
cifar-lightning predict lightning_logs/version_0 holiday/ --html seen.html
cifar-lightning predict quick cat.jpg    # by weights of the package
"""

import math
import os
import shlex
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from cifar_lightning.console import output, say
from cifar_lightning.data.pictures.kinds import USUAL, passed_over
from cifar_lightning.errors import InputError, quoted
from cifar_lightning.files import readable, strict_json
from cifar_lightning.flags import add_net, new_parser, parse
from cifar_lightning.startup import importing

if TYPE_CHECKING:
    from cifar_lightning.data.pictures.decoding import Pixels
    from cifar_lightning.model.lit_net import LitNet
    from cifar_lightning.report.prediction_page import Seen

BATCH = 256  # at most this many pictures go through the network at once
Row = dict[str, Any]


def script(arguments: Sequence[str]) -> int:
    """Predicts; returns 1 if some images could not be read."""
    parser = new_parser("predict CHECKPOINT IMAGE ... [flags]", __doc__)
    parser.add_argument("checkpoint", type=str, help="a run's folder, a .ckpt file, or trained weights such as quick")
    parser.add_argument(
        "images", type=str, nargs="+", help="image files of any format and size, or folders, with everything in them"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--html", type=str, default=None, help="page to write (.html) that shows what the network saw")
    add_net(parser)
    try:
        settings = parse(parser, arguments)
    except InputError as error:
        if "required: images" in str(error) and not arguments[0].startswith("-"):
            _check_order(arguments[0], [])
        raise
    _check_order(settings.checkpoint, settings.images)

    with importing():  # imported late: torch and Lightning take seconds
        from cifar_lightning.report.prediction_page import PICTURES, write_predictions_page
        from cifar_lightning.report.prediction_table import predictions_table
        from cifar_lightning.report.template import page_at
        from cifar_lightning.run.checkpoint import load_checkpoint
        from cifar_lightning.run.saved import model_of, select_checkpoint

    page = None if settings.html is None else page_at(settings.html, "predictions.html")
    path = select_checkpoint(settings.checkpoint)
    saved = load_checkpoint(path)
    model = model_of(saved, path, settings["model.net"])
    network = f"{path}, step {saved['global_step']:,}"
    files = _files(settings.images)
    tally = Tally(room=0 if page is None else PICTURES)
    # Ends when the reader of the output does, such as `head`.
    with output(), closing(_rows(model, files, tally)) as rows:
        if settings.json:
            _print_json(rows)
        else:
            predictions_table(rows, files, model.classes)
            if tally.total:
                print(f"\nby {network}", flush=True)
        tally.say_notes(saved.get("datamodule_hyper_parameters", {}).get("source"))
    if page is not None and tally.total:
        write_predictions_page(tally.shown, tally.total, network, page)
        say(f"{page} written")
    return 1 if tally.unread else 0


@dataclass
class Tally:
    """What is known of all pictures once the last one has been classified.

    Attributes:
        room: The number of pictures that a page has room for.
        shown: The first pictures, for the page.
        total: How many pictures have been classified.
        blank: How many of them have only logits of NaN or infinity.
        unlike: The names of those that are unlike the training images, and in what.
        unread: How many files cannot be read.
    """

    room: int
    shown: "list[Seen]" = field(default_factory=list)
    total: int = 0
    blank: int = 0
    unlike: list[tuple[str, str]] = field(default_factory=list)
    unread: int = 0

    def add(self, picture: "Seen") -> None:
        """Counts a picture that has been classified."""
        self.total += 1
        self.blank += math.isnan(picture.top[0]["probability"])
        if len(self.shown) < self.room:
            self.shown.append(picture)
        if picture.unlike:
            self.unlike.append((picture.file, picture.unlike))

    def say_notes(self, source: str | None) -> None:
        """Prints what makes the guesses doubtful, given the source of the training images."""
        if self.unlike:
            (file, words), count = self.unlike[0], len(self.unlike)
            more = f", and so {'are' if count > 2 else 'is'} {count - 1:,} more" if count > 1 else ""
            first = f"{quoted(file)} is unlike 999 of 1,000 of CIFAR-10's images ({words}){more}"
            say(f"note: {first}: the guess says little; --html shows what the network saw")
        if self.total and source == "synthetic":
            say(
                "note: the network was trained on generated images (coloured shapes): its guess about a photograph "
                "says nothing"
            )
        if self.blank:
            which = f"{self.blank:,} of {self.total:,} images"
            say(f"note: the network says nothing about {which}: its logits are NaN or infinite")


def _check_order(checkpoint: str, images: Sequence[str]) -> None:
    """Raises an InputError if the run or the images are missing, or an image is in the place of the run."""
    if checkpoint.lower().endswith(USUAL) and not os.path.isdir(checkpoint):
        example = f"predict quick {shlex.quote(checkpoint)}"
        raise InputError(
            f"{quoted(checkpoint)} is a picture, not a run: name a run or weights before the images, such as {example}"
        )
    if not images:
        name = quoted(checkpoint)
        raise InputError(
            f"no images after {name}: pass a run or weights, and then images, such as predict quick cat.jpg"
        )


def _rows(model: "LitNet", files: Sequence[str], tally: Tally) -> Generator[Row, None, None]:
    """Yields the prediction for each file, in order, and counts it; prints why a file cannot be read."""
    from cifar_lightning.data.cifar10 import CLASSES
    from cifar_lightning.data.likeness import unlike
    from cifar_lightning.data.pictures.reading import read_each
    from cifar_lightning.report.prediction_page import Seen

    size = 1  # doubles with each batch, so that the first line need not wait for many photographs
    with closing(read_each(files)) as pictures:
        left = zip(files, pictures, strict=True)
        while batch := list(islice(left, size)):
            size = min(2 * size, BATCH)
            images = [picture[0] for _, picture in batch if not isinstance(picture, InputError)]
            tops = iter(_top(model, images))
            # for other classes we do not know what the training images look like
            how = iter(unlike(images) if tuple(model.classes) == CLASSES else [None] * len(images))
            for file, picture in batch:
                if isinstance(picture, InputError):
                    tally.unread += 1
                    say(f"error: {picture}")
                    continue
                for note in picture[1]:
                    say(f"note: {note}")
                top = next(tops)
                tally.add(Seen(file, picture[0], top, next(how)))
                yield {"file": file, "class": top[0]["class"], "top": top}


def _top(model: "LitNet", images: "Sequence[Pixels]") -> list[list[Row]]:
    """Returns the three most probable classes of each image, the most probable first."""
    import numpy as np
    import torch

    if not images:
        return []
    _, probabilities = model.predict(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    # Not topk: among equal values, and NaN, the first must come first, as with `argmax`.
    shares, indices = (x[:, :3].tolist() for x in probabilities.sort(dim=1, descending=True, stable=True))
    return [
        [{"class": model.classes[i], "probability": share} for share, i in zip(*pair, strict=True)]
        for pair in zip(shares, indices, strict=True)
    ]


def _print_json(rows: Iterable[Row]) -> None:
    """Prints the rows as one JSON list, each as soon as it is known."""
    before = "["
    for row in rows:
        print(f"{before}\n{indent(strict_json(row, indent=2), '  ')}", end="", flush=True)
        before = ","
    print("[]" if before == "[" else "\n]", flush=True)


def _files(paths: Sequence[str]) -> list[str]:
    """Lists the named files, and the pictures in named folders. A missing file is reported when it is read."""
    from cifar_lightning.data.layouts.class_folders import Walk

    files: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        walk = Walk(goes_on=True)
        with readable(Path(path)):
            found = [file for file, _ in walk.pictures(path)]
        if not found and not walk.dead:
            raise InputError(f"{path} contains no pictures: pass an image or a folder of images")
        if note := passed_over(walk.passed_over):
            say(f"note: {note}")
        files += [str(Path(file)) for file in (*found, *walk.dead)]  # without the ./ of `predict quick .`
    return files
