"""Describes the images of a folder, or writes them in another layout.

cifar-lightning data pictures                    # and how fit reads it
cifar-lightning data pictures --json
cifar-lightning data data --to parquet for-hf    # for Hugging Face
cifar-lightning data data --to folders pngs      # as PNG files
"""

import json
from collections.abc import Sequence

from cifar_lightning.console import output, say
from cifar_lightning.errors import InputError
from cifar_lightning.flags import arguments_in, new_parser, parse
from cifar_lightning.signatures import signature_of
from cifar_lightning.startup import importing


def script(arguments: Sequence[str]) -> None:
    """Describes images, and writes them if asked to."""
    parser = new_parser("data DIR [flags]", __doc__)
    parser.add_argument("data_dir", type=str, help="folder of images in a layout of docs/data.md, or their one file")
    parser.add_function_arguments(signature_of("data.survey", "survey"), "data", skip={"data_dir"})
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--to",
        type=str,
        nargs=2,
        metavar=("folders|parquet", "OUT"),
        help="write the images as fit sees them into OUT, a new folder: PNG files in class folders, or parquet",
    )
    settings = parse(parser, arguments)

    with importing():  # imported late: torch and Lightning take seconds
        from cifar_lightning.data.survey import survey
        from cifar_lightning.data.writing import check_target, write
        from cifar_lightning.report.survey_table import print_survey
        from cifar_lightning.run import signals

    format, out = settings.to or ("", "")
    if format:
        check_target(format, out)
    found = survey(settings.data_dir, **arguments_in(settings.data))
    if format and len(found) > 1:
        sources = " and ".join(one.source for one in found)
        raise InputError(f"{settings.data_dir} has images for {sources}: pass one of them as --data.source to write it")
    with output():
        if settings.json:
            print(json.dumps([one.plain() for one in found], indent=2), flush=True)
        else:
            for number, one in enumerate(found):
                print(end="\n" * bool(number))
                print_survey(one.plain())
    if format:
        with signals.deferred():
            write(found[0].sets, out, format)
        count = sum(len(images.labels) for images in found[0].sets.values())
        say(f"{out}: {count:,} images written")
