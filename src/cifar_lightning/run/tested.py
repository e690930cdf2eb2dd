"""Reads what `compare` needs to know of a run, or of an evaluation of one, from its folder."""

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cifar_lightning.data.preprocessing import data_set_of
from cifar_lightning.errors import InputError
from cifar_lightning.files import check_reachable, exists
from cifar_lightning.report.comparison import Tested
from cifar_lightning.report.predictions import read_predictions
from cifar_lightning.report.results import read_results
from cifar_lightning.run.ended import RESULTS, divergence_in
from cifar_lightning.run.no_run import instead_of_run, is_run
from cifar_lightning.run.saved import home_of
from cifar_lightning.run.settings import read_settings

NEEDED = {"test_acc", "test_count", "confusion", "checkpoint"}


def read_tested(folder: Path) -> Tested:
    """Reads the test of a run, or of an evaluation, from its folder.

    Raises:
        InputError: There is no such test, or its files cannot be read or do not belong together.
    """
    results = _results_of(folder)
    predictions = read_predictions(folder)
    if predictions and predictions.confusion(len(results["confusion"])) != results["confusion"]:
        raise InputError(
            f"predictions.npz and {RESULTS} in {folder} come from different tests: evaluate the run, and compare its "
            "evaluation/ instead"
        )
    home = _home_of(folder, results["checkpoint"])
    of_fit: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # the run may have been interrupted, and one of its checkpoints evaluated
        of_fit = read_results(home)
    settings = _settings(folder, home, results, of_fit)
    return Tested(str(folder), results, settings, predictions, of_fit.get("train_images"))


def _results_of(folder: Path) -> dict[str, Any]:
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
            what = instead_of_run(folder) or f"has no {RESULTS}: use a folder that fit or evaluate wrote"
        raise InputError(f"run {folder} {what}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / RESULTS} cannot be read: evaluate the run, and compare its evaluation/ instead"
        ) from error
    if not isinstance(results, dict) or not results.keys() >= NEEDED:
        raise InputError(
            f"{folder / RESULTS} does not hold the results of a test: use a folder that fit or evaluate wrote"
        )
    return results


def _home_of(folder: Path, checkpoint: str) -> Path:
    """Returns the folder of the run whose results are in `folder`: that folder, or the run of the tested checkpoint.

    The checkpoint's path may be out of date, if the run was moved with its evaluation in it. A relative path may now
    lead to another run of that name.

    Raises:
        InputError: Neither is a run's.
    """
    path, around = Path(checkpoint), folder.parent
    tested = home_of(path)
    untrue = not exists(tested / "config.yaml") or (not path.is_absolute() and around.name == tested.absolute().name)
    # The default folder of an evaluation, in a run that may have been moved without its checkpoints.
    by_default = folder.name == "evaluation" and path.parent.name == "checkpoints"
    inside = untrue and (by_default or exists(around / "checkpoints" / path.name))
    for home in (folder, around if inside else tested):
        if exists(home / "config.yaml"):
            return home
    if os.path.exists(checkpoint):  # weights that come with the package, or that export wrote
        raise InputError(
            f"run {folder} is an evaluation of {checkpoint}, which is not in a run's folder, so its settings are "
            "unknown: use runs of fit, or evaluations of them"
        )
    raise InputError(
        f"run {folder}: there is no config.yaml in it or in the run that it evaluates; run compare in the folder from "
        f"which {checkpoint} can be reached"
    )


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
