"""fit_many(): many runs of one recipe, each with another seed or held-out fold, and the summary of their results."""

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cifar_lightning.console import printing, say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.pictures.helpers import usable_cores
from cifar_lightning.errors import InputError, NonFiniteError, RunError, in_short
from cifar_lightning.files import check_reachable, moved, remove_parts, user_path
from cifar_lightning.report.group import print_group, summary, write_figure
from cifar_lightning.report.results import read_results, write_results
from cifar_lightning.run import signals
from cifar_lightning.run.additions import Additions, additions_of
from cifar_lightning.run.changes import changed, changes_in, check_changes
from cifar_lightning.run.checks import check
from cifar_lightning.run.cluster import this_rank
from cifar_lightning.run.cpu import restored_torch, step_work
from cifar_lightning.run.ended import results_in
from cifar_lightning.run.folder import held, newest_left
from cifar_lightning.run.group import Group, counted, members, new_group, read_group
from cifar_lightning.run.networks import lit_net
from cifar_lightning.run.no_run import instead_of_run, is_run
from cifar_lightning.run.plan import KINDS, PLAN, is_group
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.recipe import bound, over_recipe
from cifar_lightning.run.resuming import go_on
from cifar_lightning.run.settings import Settings, read_settings, settings_of
from cifar_lightning.run.side_by_side import can_train_forked, side_by_side
from cifar_lightning.run.status import ANEW
from cifar_lightning.run.training import fit

# Runs whose step takes at most this many operations in its forward pass train side by side, with one thread each
# (docs/performance.md has the gain). Larger steps keep several threads busy, and would need the memory of several runs.
SIDE_BY_SIDE_STEP = 5e9


@quietly()
def fit_many(
    data: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Trains and tests a group of runs, one for each seed or fold, and sums up their results.

    The new folder `default_root_dir/lightning_logs/version_N` has a folder for each run: an ordinary run, without
    figures. Runs with small steps on a CPU train side by side with one thread each (a setting of each run); others
    train one after another. The images are read once.

    Args:
        data: As for `fit`.
        model: As for `fit`.
        seeds: Number of runs to make, with the seeds from `seed` on.
        folds: Number of folds to split the training images into, each with the same share of every class. Each run is
            validated on its own fold and learns from the others. All are tested on the test images.
        settings: Other arguments of `fit`, except objects: `callbacks`, and loggers given other than by name.

    Returns:
        The contents of the group's results.json. `runs`: name, seed and figures of each. `figures`: for each accuracy
        and loss of test and validation `n`, `mean`, `sd` and the 95 % `interval` of the mean (Student's t; None if the
        values have no spread). `per_class_acc`: the same by class.

    Raises:
        InputError: A setting is wrong, or the images are not available. No folder has been made.
        KeyboardInterrupt: Ctrl-C was pressed; `resume_many` goes on.
        NonFiniteError, RunError: A run has failed. The others have been trained nevertheless.

    Example:
        >>> small = {"source": "synthetic", "synthetic_size": 400, "batch_size": 20}
        >>> found = fit_many(small, seeds=2, max_epochs=1, accelerator="cpu", report=False)
        >>> [run["name"] for run in found["runs"]], sorted(found["figures"]["test_acc"])
        (['seed_0', 'seed_1'], ['interval', 'mean', 'n', 'sd'])
    """
    base = settings_of_fit({"data": data or {}, "model": model or {}, **settings})
    kind, count = counted(seeds, folds)
    runs = members(base, kind, count)
    _check_alone(kind, count)
    images, at_once = _prepared(next(iter(runs.values())), len(runs))
    with new_group(kind, runs) as group:
        return _train(group, images, at_once, {"model.net": base.model["net"]}, base.report)


@quietly()
def resume_many(folder: str | Path, changes: Mapping[str, Any] | None = None, *, report: bool = True) -> dict[str, Any]:
    """Resumes an interrupted `fit_many`: finished runs stay as they are, begun ones go on from their last checkpoints.

    Args:
        folder: The group's folder.
        changes: As for `resume`, except a higher max_epochs, max_steps or trainer.max_time, since all runs have the
            same length.
        report: As for `fit`, for the group.

    Returns:
        What `fit_many` returns.

    Raises:
        InputError: There is nothing to resume, or a change would change the result.

    Example:
        >>> resume_many("lightning_logs/version_0")
        Traceback (most recent call last):
        cifar_lightning.errors.InputError: ...
    """
    folder, changes = user_path(folder), changes_in(changes)
    if not is_group(folder):
        raise InputError(f"nothing to resume: {folder} {_why_no_group(folder)}")
    group = read_group(folder)
    _check_alone(group.kind, len(group.names))
    with held(folder):
        return _go_on(group, changes, report)


def _why_no_group(folder: Path) -> str:
    """Returns the part of a message after a folder that is not a group's: what it is, and what to use."""
    if is_run(folder):
        return "is a single run: use resume"
    if what := instead_of_run(folder):
        return what
    check_reachable(folder)
    if not os.path.lexists(folder):
        return "does not exist: use a folder of fit_many"
    return "is not a folder of fit_many: use one that is"


@quietly()
def resume_newest_many(
    default_root_dir: str | Path,
    changes: Mapping[str, Any],
    *,
    seeds: int | None = None,
    folds: int | None = None,
    report: bool = True,
) -> dict[str, Any] | None:
    """Resumes the newest unfinished group of this kind and size that `changes` would not alter; see `resume_newest`.

    Args:
        default_root_dir: The folder that holds `lightning_logs/`.
        changes: As for `resume_many`; `seed` means the seed of the first run.
        seeds: As for `fit_many`.
        folds: As for `fit_many`.
        report: As for `fit_many`.

    Returns:
        What `fit_many` returns; None if there is no such group.
    """
    kind, count = counted(seeds, folds)
    _check_alone(kind, count)
    changes = check_changes(changes)  # so that a mistake in them is an error, instead of every group being passed over

    def check(folder: Path) -> None:
        group = read_group(folder)
        if (group.kind, len(group.names)) != (kind, count):
            raise InputError(f"it is a group of {len(group.names)} {group.kind}, not of {count} {kind}")
        group.for_each(changes)

    with newest_left(default_root_dir, PLAN, check) as found:
        say(f"resuming {found[0]}" if found else f"no unfinished group of {count} {kind}: starting a new one", 1)
        return None if found is None else _go_on(read_group(found[0]), changes, report)


def _check_alone(kind: str, count: int) -> None:
    if rank := this_rank():
        raise InputError(
            f"{kind} {count}: a group of runs trains without a launcher, but {rank.launcher} started this process as "
            f"rank {rank.rank} of {rank.world_size}; start it without {rank.launcher}"
        )


def _go_on(group: Group, changes: Mapping[str, Any], report: bool) -> dict[str, Any]:
    """Resumes a group whose folder this job holds."""
    left, changes = group.left(), group.for_each(check_changes(changes))
    with suppress(OSError):  # leftover parts of files do no harm
        for folder in (group.folder, group.folder / "figures"):
            remove_parts(folder)
    if not left:
        if results_in(group.folder) is not None:
            raise InputError(f"nothing to resume: all runs of {group.folder} have finished")
        return _summed_up(group, report)
    first = changed(read_settings(group.folder / left[0]), changes, group.folder / left[0])
    images, at_once = _prepared(first, len(left))
    return _train(group, images, at_once, changes, report)


def settings_of_fit(given: Mapping[str, Any]) -> Settings:
    """Returns the settings of a run from arguments of `fit` that are not objects.

    Raises:
        InputError: An argument is an object, or cannot be a setting.
    """
    arguments = bound(fit, **over_recipe(given))
    arguments.apply_defaults()
    values = arguments.arguments
    additions, names = additions_of(values["callbacks"], values["logger"])
    if objects := (*additions.callbacks, *additions.loggers):
        raise InputError(
            f"{type(objects[0]).__name__} is an object for one run: call fit in a loop, with a new object for each run"
        )
    return settings_of({**values, "logger": names})


def _prepared(settings: Settings, runs: int) -> tuple[CIFAR10DataModule | None, int]:
    """Checks the settings, reads the images, and returns how many runs to train at once; 0 means in this process."""
    with restored_torch():
        torch.set_num_threads(1)  # so that processes forked later find no OpenMP threads
        checked = check(settings)
        if checked.images is None:
            return None, 0
        checked.images.image_set("test")
        checked.images.fingerprint  # noqa: B018  # computed once for all runs
        at_once = min(runs, usable_cores())
        work = step_work(lit_net(settings.model, checked.images.classes), checked.images.hparams["batch_size"])
        too_much = work > SIDE_BY_SIDE_STEP or settings.threads not in (None, 1)
        if too_much or at_once < 2 or not can_train_forked():
            return checked.images, 0
        checked.images.keep_bordered()
        return checked.images, at_once


def _train(
    group: Group, images: CIFAR10DataModule | None, at_once: int, changes: Mapping[str, Any], report: bool
) -> dict[str, Any]:
    """Trains the unfinished runs of a group, and sums up the results of all runs."""
    left, total = group.left(), len(group.names)
    folder = str(group.folder)
    next_step = signals.go_on_with(folder, "resume_many")
    if report:
        how = f"{at_once} at a time, with one thread each" if at_once else "one after another"
        which = f"{left[0]} to {left[-1]}" if len(left) == total else f"{len(left)} left of {total}"
        say(f"{folder}: {len(left)} runs, {which}, {how}", 1)
    changes = {**changes, **({"threads": 1} if at_once else {})}
    works = {name: partial(_fit_one, group.folder / name, changes, images, next_step) for name in left}
    signals.next_step = next_step
    ended, failures = side_by_side(works, at_once) if at_once else _one_by_one(works), {}
    for done, (name, error) in enumerate(ended, total - len(left) + 1):
        if error is not None:
            failures[name] = error
            say(f"{name} failed: {error}")
        elif report:
            results = read_results(group.folder / name)
            seconds = results["fit_seconds"]
            say(f"{name}: {100 * results['test_acc']:.2f} % in {seconds:.1f} s ({done} of {total})", 1)
    if failures:
        name, error = next(iter(failures.items()))
        message = str(error).removesuffix(next_step)
        what_next = "" if moved(group.folder / name) else next_step  # another group may have taken the name since
        if all(isinstance(failure, NonFiniteError) for failure in failures.values()):
            what_next = f"; {ANEW}"
        raise type(error)(f"{len(failures)} of {total} runs failed, first {name}: {message}{what_next}") from error
    return _summed_up(group, report)


def _one_by_one(works: Mapping[str, Callable[[], object]]) -> Iterator[tuple[str, Exception | None]]:
    """Calls functions in this process, in turn. As with `side_by_side`, an error in one does not end the others."""
    for name, work in works.items():
        error: Exception | None = None
        try:
            work()
        except (InputError, NonFiniteError, RunError) as raised:
            error = type(raised)(str(raised))  # a copy without the frames, which keep the run's memory alive
        except Exception as raised:
            with printing(2):
                traceback.print_exc()
            error = RunError(in_short(raised))
        signals.begin_again()
        yield name, error


def _fit_one(
    folder: Path, changes: Mapping[str, Any], images: CIFAR10DataModule | None, next_step: str
) -> dict[str, Any]:
    with held(folder) as lock:
        return go_on(folder, lock, changes, Additions(), others=images, next_step=next_step)


def _summed_up(group: Group, report: bool) -> dict[str, Any]:
    """Writes the summary of a group's results; with `report`, also draws and prints it. Returns it."""
    found = summary(group.kind, {name: read_results(group.folder / name) for name in group.names})
    paths: Sequence[Path] = [group.folder / "results.json"]
    if report:
        paths = [*paths, write_figure(found, KINDS[group.kind], group.folder / "figures")]
    write_results(found, group.folder)
    signals.finish()
    if report:
        with printing(1):
            print_group(found, paths)
    return found
