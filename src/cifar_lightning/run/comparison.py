"""compare(): what runs differ in, how accurate they are, and whether the difference is more than noise."""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cifar_lightning import console
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.preprocessing import data_set_of
from cifar_lightning.data.sources import Source
from cifar_lightning.errors import InputError
from cifar_lightning.files import check_reachable, exists, user_path
from cifar_lightning.report.comparison import Tested, compared
from cifar_lightning.report.predictions import digest_of, read_predictions
from cifar_lightning.report.results import read_results
from cifar_lightning.report.template import page_at
from cifar_lightning.run.changes import INDIFFERENT
from cifar_lightning.run.ended import RESULTS, divergence_in
from cifar_lightning.run.group import runs_in
from cifar_lightning.run.no_run import instead_of_run, is_run, numbered, runs_below
from cifar_lightning.run.plan import is_group
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.saved import home_of
from cifar_lightning.run.settings import read_settings

NEEDED = {"test_acc", "test_count", "confusion", "checkpoint"}


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
    tested = [_tested(folder) for folder in folders]
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


def _tested(folder: Path) -> Tested:
    check_reachable(folder)
    if not folder.is_dir():
        cause = "is not a folder" if os.path.lexists(folder) else "does not exist"
        what = instead_of_run(folder) or f"{cause}: use one that fit or evaluate wrote"
        raise InputError(f"run {folder} {what}")
    try:
        results = read_results(folder)
    except FileNotFoundError as error:
        if divergence_in(folder) is not None:
            what = "diverged and has no results: leave it out, and compare the others"
        elif is_run(folder):
            what = f"has not finished: resume it with fit --resume {shlex.quote(str(folder))}, or leave it out"
        else:
            what = instead_of_run(folder) or "has no results.json: use a folder that fit or evaluate wrote"
        raise InputError(f"run {folder} {what}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / 'results.json'} cannot be read: evaluate the run, and compare its evaluation/ instead"
        ) from error
    if not isinstance(results, dict) or not results.keys() >= NEEDED:
        raise InputError(
            f"{folder / 'results.json'} does not hold the results of a test: use a folder that fit or evaluate wrote"
        )
    predictions = read_predictions(folder)
    if predictions and predictions.confusion(len(results["confusion"])) != results["confusion"]:
        raise InputError(
            f"predictions.npz and results.json in {folder} come from different tests: evaluate the run, and compare "
            "its evaluation/ instead"
        )
    home = _home_of(folder, results)
    of_fit: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # the run may have been interrupted, and one of its checkpoints evaluated
        of_fit = read_results(home)
    settings = _settings(folder, home, results, of_fit)
    return Tested(str(folder), results, settings, predictions, of_fit.get("train_images"))


def _home(folder: Path, checkpoint: Path) -> Path | None:
    """Returns the folder of the run whose results are in `folder`: that folder, or the run of the tested checkpoint.

    The checkpoint's path may be out of date, if the run was moved with its evaluation in it. A relative path may now
    lead to another run of that name.
    """
    tested, around = home_of(checkpoint), folder.parent
    untrue = not exists(tested / "config.yaml") or (
        not checkpoint.is_absolute() and around.name == tested.absolute().name
    )
    # The default folder of an evaluation, in a run that may have been moved without its checkpoints.
    by_default = folder.name == "evaluation" and checkpoint.parent.name == "checkpoints"
    inside = untrue and (by_default or exists(around / "checkpoints" / checkpoint.name))
    return next((home for home in (folder, around if inside else tested) if exists(home / "config.yaml")), None)


def _home_of(folder: Path, results: Mapping[str, Any]) -> Path:
    """Returns `_home`; raises an InputError if there is none."""
    home = _home(folder, Path(results["checkpoint"]))
    if home is None:
        if os.path.exists(results["checkpoint"]):  # weights that come with the package, or that export wrote
            raise InputError(
                f"run {folder} is an evaluation of {results['checkpoint']}, which is not in a run's folder, so its "
                "settings are unknown: use runs of fit, or evaluations of them"
            )
        where = f"run compare in the folder from which {results['checkpoint']} can be reached"
        raise InputError(f"run {folder}: there is no config.yaml in it or in the run that it evaluates; {where}")
    return home


def _settings(folder: Path, home: Path, results: Mapping[str, Any], of_fit: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run by the names of their flags, with those that its test has changed.

    Args:
        folder: The folder with the results.
        home: The run's folder.
        results: The results of the test.
        of_fit: The results that `fit` wrote, if any.
    """
    try:
        settings = read_settings(home).by_flags()
    except InputError as error:
        raise InputError(f"run {folder}: {str(error).removeprefix('nothing to resume: ')}") from error
    del settings["default_root_dir"]  # it is known from the folder
    tested = {f"data.{name}": value for name, value in results.get("data", {}).items()}
    tested |= {"model.test_views": results["test_views"]} if "test_views" in results else {}
    settings |= tested
    if labels := settings["data.train_labels"]:  # a path, which may differ between machines
        settings["data.train_labels"] = Path(labels).name
    if callbacks := of_fit.get("callbacks"):  # config.yaml does not hold them
        settings["callbacks"] = ", ".join(callbacks)
    # Name the data set that the normalization stands for, as `evaluate` does.
    settings["data.normalization"] = data_set_of(settings["data.normalization"], settings["data.source"])
    return settings
