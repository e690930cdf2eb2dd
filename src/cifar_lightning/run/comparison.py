"""compare(): what runs differ in, how accurate they are, and whether the difference is more than noise."""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cifar_lightning import console
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.sources import Source
from cifar_lightning.errors import InputError
from cifar_lightning.files import exists, user_path
from cifar_lightning.report.comparison import Tested, compared
from cifar_lightning.report.predictions import digest_of
from cifar_lightning.report.template import page_at
from cifar_lightning.run.changes import INDIFFERENT
from cifar_lightning.run.ended import RESULTS
from cifar_lightning.run.group import runs_in
from cifar_lightning.run.no_run import is_run, numbered, runs_below
from cifar_lightning.run.plan import is_group
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.tested import read_tested


@quietly()
def compare(runs: Sequence[str | Path], html: str | Path | None = None) -> dict[str, Any]:
    """Compares tested runs: their settings, their accuracies, and their answers image by image.

    Runs form a group if they differ only in the seed, and, as far as is known, learnt from and were tested on the same
    images. The first group is compared with each other group: two single runs by McNemar's exact test on the images
    that only one of them got right, groups of seeds by Welch's test. Intervals are 95 % intervals; accuracies are
    fractions.

    Args:
        runs: Two or more folders: of runs, of evaluations that `evaluate` wrote, or of `fit_many` for all its runs.
        html: File for a page with the comparison, overall and by class; for two runs also the pictures on which they
            disagree, if the test images are still there. By default there is no page.

    Returns:
        Plain values. `settings`: those that differ, by name and group. `runs`: the figures of each, with Wilson's
        interval. `groups`: mean, standard deviation and t interval over seeds. `comparisons`: the difference, its
        interval (for seeds also a bootstrap's), `p`, `p_holm` (Holm's correction over all comparisons) and
        `more_than_noise`; if p is None, `why` tells the reason. `seeds_needed`: how many seeds each group would need to
        find a difference of 0.2 points with a power of 80 %.

    Raises:
        InputError: A run does not exist, has not been tested or is given twice, or the page cannot be written.

    Example:
        >>> results = evaluate("lightning_logs/version_0", test_views="six")
        Accuracy ... % on 600 test images, ...
        >>> found = compare(["lightning_logs/version_0", "lightning_logs/version_0/evaluation"])
        >>> found["comparisons"][0]["test"], 0 <= found["comparisons"][0]["p"] <= 1
        ('mcnemar', True)
    """
    if isinstance(runs, str | os.PathLike):
        raise InputError(f"runs {os.fspath(runs)!r} is one path: pass a list of two or more, as in compare([a, b])")
    page = None if html is None else page_at(html, "comparison.html")
    folders = runs_in([user_path(run) for run in runs])
    if len(folders) < 2:
        raise InputError(_too_few(folders))
    for i, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:i]]:
            raise InputError(f"run {folder} is given twice: leave one out")
    tested = [read_tested(folder) for folder in folders]
    precisions = [run.results.get("precision", run.settings["precision"]) for run in tested]
    if precisions != [run.settings["precision"] for run in tested]:  # otherwise it would repeat the run's precision
        named = zip(tested, precisions, strict=True)
        tested = [replace(run, settings={**run.settings, "test.precision": precision}) for run, precision in named]
    comparison = compared(tested, INDIFFERENT)
    if page is not None:
        from cifar_lightning.report.comparison_page import write_comparison  # imported late: only a page needs it

        write_comparison(comparison, tested, _test_images(tested[0]) if len(tested) == 2 else None, page)
    return comparison


def _too_few(folders: Sequence[Path]) -> str:
    """Words the error for fewer than two runs: of a folder of runs, it names those that can be compared."""
    found = runs_below(folders[0]) if folders and not is_run(folders[0]) else []
    tested = [run for run in found if exists(run / RESULTS)]
    names = [shlex.quote(str(run)) for run in tested]
    what = "is not a run's folder but a folder of runs: use"
    if len(tested) > 1:
        logs, some = tested[0].parent, "two that have finished"
        if len(tested) == len(numbered(logs)):
            some = f"{shlex.quote(str(logs))}/version_* for all of them, or two"
        return f"{folders[0]} {what} {some}, such as {names[1]} {names[0]}"
    if tested and is_group(tested[0]):
        return f"{folders[0]} {what} {names[0]}"
    return f"compare needs at least two runs, not {len(folders)}: pass two or more folders of runs"


def _test_images(run: Tested) -> ImageSet | None:
    """Returns the images that a run was tested on; None if they are not here or have changed. Downloads nothing."""
    names = ("data_dir", "synthetic_size")  # settings that not every version has
    told = {name: value for name in names if (value := run.settings.get(f"data.{name}")) is not None}
    # The checksum in the training's settings may not belong to the test images: then try without it.
    for digest in dict.fromkeys((run.settings.get("data.sha256"), None)):
        with suppress(InputError), console.notes(silent=True):  # `fit` has printed the notes on these images
            images = Source(run.settings["data.source"], sha256=digest, **told).load("test")
            images = images.counted_as(list(run.results["per_class_acc"]))
            if run.predictions and digest_of(images) == run.predictions.images:
                return images
    return None
