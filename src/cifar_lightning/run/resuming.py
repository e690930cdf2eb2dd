"""resume(): continues an interrupted run, in its own folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_lightning.console import say
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.errors import InputError, RunError
from cifar_lightning.files import exists, remove_parts, user_path
from cifar_lightning.run.additions import Additions, Callbacks, Loggers, additions_of
from cifar_lightning.run.changes import changed, changes_in, check_changes, places_in
from cifar_lightning.run.checkpoint import BEST, FINAL, newest_readable, step_checkpoints, step_of, why_not_best
from cifar_lightning.run.checks import check
from cifar_lightning.run.cluster import is_first_rank
from cifar_lightning.run.ended import DIVERGED, RESULTS, results_in
from cifar_lightning.run.folder import held, newest_unfinished
from cifar_lightning.run.group import check_member
from cifar_lightning.run.plan import is_group
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.settings import Settings, read_settings
from cifar_lightning.run.training import join, launch_or_train


@quietly()
def resume(
    run: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    callbacks: Callbacks = None,
    logger: Loggers = None,
) -> dict[str, Any]:
    """Resumes an interrupted run, in its own folder, from its newest readable checkpoint.

    Args:
        run: The run's folder.
        changes: Settings to change, named like `fit`'s arguments ("data.data_dir" for one of `data`): those that do not
            change the result, and a higher max_epochs, max_steps or trainer.max_time.
        callbacks: As for `fit`: give the ones that the run began with, and their state is restored; an empty list
            leaves them out.
        logger: As for `fit`; by default those of the run that were given by name.

    Returns:
        The contents of results.json.

    Raises:
        InputError: There is nothing to resume, or a change would change the result.

    Example:
        >>> results = resume("lightning_logs/version_0", {"max_epochs": 4})
        lightning_logs/version_0 resumes from step-375.ckpt: 1 x cpu, batch size 20, 4 epochs
        ...
        >>> results["step"]
        500
    """
    additions, names = additions_of(callbacks, logger)
    changes = {**changes_in(changes), **({} if names is None else {"logger": names})}
    if not is_first_rank():
        return join(additions, places_in(changes))  # unread: here the folder may be another run's
    folder = user_path(run)
    if is_group(folder):
        raise InputError(f"{folder} holds several runs: use resume_many, or pass one of them")
    changed(read_settings(folder), changes, folder)  # reports wrong changes before waiting for the folder
    with held(folder) as lock:
        return go_on(folder, lock, changes, additions)


@quietly()
def resume_newest(default_root_dir: str | Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Resumes the newest unfinished run in a log folder whose result `changes` do not alter; see `resume`.

    In a SLURM job, for example a requeued one, the run that the job was in before comes first: see folder.py.

    Returns:
        The contents of results.json; None if there is no such run.
    """
    changes = changes or {}
    if not is_first_rank():
        return join(Additions(), places_in(changes))  # the first rank chooses
    check_changes(changes)  # wrong changes would otherwise make it skip every run
    with newest_unfinished(default_root_dir, changes) as found:
        say(f"resuming {found[0]}" if found else "no unfinished run: starting a new one", 1)
        if found is None:
            return None
        try:
            return go_on(*found, changes, Additions())
        except InputError as error:
            raise InputError(f"{error}; --resume auto chooses {found[0]} again as long as it exists") from error


def go_on(
    folder: Path,
    lock: int,
    changes: Mapping[str, Any],
    additions: Additions,
    others: CIFAR10DataModule | None = None,
    next_step: str | None = None,
) -> dict[str, Any]:
    """Resumes a run whose folder this process holds.

    Args:
        folder: The run's folder.
        lock: The file descriptor that `held` yields.
        changes: Changes of its settings.
        additions: Callbacks and loggers that take part.
        others: The data module of another run in this process, to share its images.
        next_step: Text for messages on how to resume, if the run is one of several.
    """
    before = read_settings(folder)  # only now: another job that held the folder may have changed them
    settings = changed(before, changes, folder)
    check_member(folder, before, settings)
    _check_unfinished(folder, before, settings)
    checked = check(settings, additions, others)
    checkpoints = folder / "checkpoints"
    # Files that state how the training ended. Results go first: they must never be without their checkpoints.
    outdated = [folder / RESULTS, folder / DIVERGED, checkpoints / FINAL]
    start, saved, warnings = None, dict[str, Any](), []  # of a run that was stopped before its first step
    if step_checkpoints(checkpoints):
        newest, saved, problems = newest_readable(checkpoints)
        start, warnings = str(newest), [f"{problem}; resuming from {newest.name}" for problem in problems]
        if not_best := why_not_best(checkpoints, newest):
            warnings.append(f"{not_best}; the best checkpoint is chosen anew from step {step_of(newest):,} on")
            outdated.append(checkpoints / BEST)
    if saved and settings != before:  # now, before a finished run loses its results
        (checked.images or settings.images()).check_images(saved["CIFAR10DataModule"])
    if missing := additions.missing_in(saved):
        raise InputError(
            f"{folder} was started with callbacks ({', '.join(missing)}), which checkpoints do not hold: resume it "
            f"in Python with resume({str(folder)!r}, callbacks=[...]); [] leaves them out"
        )
    _clear(folder, outdated)
    settings.write(folder)
    for warning in warnings:
        say(f"warning: {warning}")
    return launch_or_train(folder, settings, checked, lock, additions, start, next_step)


def _clear(folder: Path, outdated: Sequence[Path]) -> None:
    """Removes `outdated` files from a run's folder, and parts of files that were being written when it was stopped."""
    try:
        for part in (folder, folder / "checkpoints", folder / "figures"):
            remove_parts(part)
        for path in outdated:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"could not write to {folder}: {error.strerror}; fix the folder") from error


def _check_unfinished(folder: Path, before: Settings, settings: Settings) -> None:
    """Raises an InputError if a run has no training left to do, or was trained and has lost its checkpoints."""
    saved = step_checkpoints(folder / "checkpoints")
    traces = (RESULTS, "metrics.csv", f"checkpoints/{BEST}")
    if not saved and any(exists(folder / name) for name in traces):
        raise InputError(
            f"nothing to resume: {folder} has been trained, but its checkpoints/step-*.ckpt are gone: start a new run"
        )
    by_steps = bool(saved) and 0 < before.max_steps <= step_of(saved[-1])
    limit = "max_steps" if by_steps else "max_epochs"
    max_time = before.trainer.get("max_time")
    longer = getattr(settings, limit) != getattr(before, limit)
    longer = longer or (max_time and settings.trainer.get("max_time") != max_time)
    if not longer and results_in(folder) is not None:
        needs = [f"a longer --trainer.max_time than {max_time}"] if max_time else []
        needs += [f"a higher --{limit} than {getattr(before, limit)}", *(["a higher --max_epochs"] if by_steps else [])]
        use = ", and if needed ".join(needs)
        raise InputError(f"nothing to resume: {folder} has finished; to train it further, use {use}")
