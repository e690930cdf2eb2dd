"""Names what is in a picture, with the three most probable classes.

cifar-lightning predict lightning_logs/version_0 cat.jpg holiday/
cifar-lightning predict lightning_logs/version_0 cat.jpg --json
cifar-lightning predict lightning_logs/version_0 holiday/ --html seen.html
cifar-lightning predict quick cat.jpg    # by weights of the package
"""

import math
import os
import shlex
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from cifar_lightning.commands.output import output
from cifar_lightning.console import say
from cifar_lightning.data.kinds import USUAL, passed_over
from cifar_lightning.errors import InputError, quoted
from cifar_lightning.files import readable, strict_json
from cifar_lightning.flags import add_net, new_parser, parse
from cifar_lightning.startup import importing

if TYPE_CHECKING:
    from cifar_lightning.data.decoding import Pixels
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
    files = _files(settings.images)
    unread: list[str] = []
    seen: list[Seen] = []  # up to as many as a page has room for
    odd: list[tuple[str, str]] = []
    total = blank = 0

    def see(picture: "Seen") -> None:
        nonlocal total, blank
        total += 1
        blank += math.isnan(picture.top[0]["probability"])
        if page is not None and len(seen) < PICTURES:
            seen.append(picture)
        if picture.unlike:
            odd.append((picture.file, picture.unlike))

    # Ends when the reader of the output does, such as `head`.
    with output(), closing(_rows(model, files, unread, see)) as rows:
        if settings.json:
            _print_json(rows)
        else:
            predictions_table(rows, files, model.classes)
            if len(unread) < len(files):
                print(f"\nby {path}, step {saved['global_step']:,}", flush=True)
        _say_what_is_unlike(odd)
        if total and saved.get("datamodule_hyper_parameters", {}).get("source") == "synthetic":
            say(
                "note: the network was trained on generated images (coloured shapes): its guess about a photograph "
                "says nothing"
            )
        if blank:
            say(f"note: the network says nothing about {blank:,} of {total:,} images: its logits are NaN or infinite")
    if page is not None and total:
        network = f"{path}, step {saved['global_step']:,}"
        write_predictions_page(seen, total, network, page)
        say(f"{page} written")
    return 1 if unread else 0


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


def _rows(
    model: "LitNet", files: Sequence[str], unread: list[str], see: "Callable[[Seen], None]"
) -> Generator[Row, None, None]:
    """Yields the prediction for each file, in order, and calls `see` with the picture.

    If a file cannot be read, prints why and adds the file to `unread`.
    """
    from cifar_lightning.data.cifar10 import CLASSES
    from cifar_lightning.data.likeness import unlike
    from cifar_lightning.data.pictures import read_each
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
                    unread.append(file)
                    say(f"error: {picture}")
                    continue
                for note in picture[1]:
                    say(f"note: {note}")
                top = next(tops)
                see(Seen(file, picture[0], top, next(how)))
                yield {"file": file, "class": top[0]["class"], "top": top}


def _say_what_is_unlike(odd: Sequence[tuple[str, str]]) -> None:
    """Prints one note on all images that are unlike the training images."""
    if odd:
        file, words = odd[0]
        more = f", and so {'are' if len(odd) > 2 else 'is'} {len(odd) - 1:,} more" if len(odd) > 1 else ""
        first = f"{quoted(file)} is unlike 999 of 1,000 of CIFAR-10's images ({words}){more}"
        say(f"note: {first}: the guess says little; --html shows what the network saw")


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
    from cifar_lightning.data.folder import Walk

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
