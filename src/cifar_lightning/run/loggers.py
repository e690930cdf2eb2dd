"""Logs a run's figures elsewhere than in metrics.csv: TensorBoard, Weights & Biases, MLflow, or a user's own logger.

A logger never ends a run: if it fails, one line says so, and the run goes on without it. The ids by which loggers
continue their own run after an interruption are kept in loggers.json in the run's folder.
"""

import importlib.util
import json
import os
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

from lightning.fabric.loggers import tensorboard
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning.console import say
from cifar_lightning.errors import InputError, in_short
from cifar_lightning.files import exists, write_atomically
from cifar_lightning.run.additions import Additions
from cifar_lightning.run.cluster import is_first_rank, this_rank
from cifar_lightning.run.environment import environment
from cifar_lightning.run.settings import Settings

NAMES = ("csv", "tensorboard", "wandb", "mlflow")
IDS = "loggers.json"
PROJECT = "cifar_lightning"  # W&B's project and MLflow's experiment, unless their environment variables name another
# The methods of a logger that Lightning calls.
METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")


def check_logger(given: str) -> None:
    """Raises an InputError if a name is not known, or its package is missing."""
    for name in _names(given):
        if name not in (*NAMES, "auto"):
            raise InputError(f"unknown logger {name}: choose from {', '.join(NAMES)} (several with commas), or auto")
        if name in NAMES[1:] and not _is_installed(name):
            raise InputError(f"logger {name} needs a package; install it with: pip install 'cifar-lightning[{name}]'")


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",")]


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a mere folder of that name has no origin


@contextmanager
def loggers_of(settings: Settings, folder: Path, additions: Additions) -> Iterator[list[Logger]]:
    """A context that gives the loggers of a run besides metrics.csv: on rank 0 all, on other ranks the user's own."""
    names = _names(settings.logger)
    if "auto" in names and (tensorboard._TENSORBOARD_AVAILABLE or tensorboard._TENSORBOARDX_AVAILABLE):
        names.append("tensorboard")
    if settings.fast_dev_run:
        yield []
        return
    # `new_trainer` sets this too, but the loggers read it before there is a Trainer.
    rank = this_rank()
    rank_zero_only.rank = rank.rank if rank else 0  # type: ignore[attr-defined]
    with ExitStack() as stack:
        made: list[Logger] = []
        kinds = (("tensorboard", _tensorboard), ("wandb", _wandb), ("mlflow", _mlflow))
        for name, make in kinds if is_first_rank() else ():
            if name in names:
                with _said(name), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # warnings of these packages at start-up do not concern the user
                    made.append(stack.enter_context(make(settings, folder)))
        found = []
        for logger in (*made, *additions.loggers):
            with _said(type(logger).__name__):
                _ = getattr(logger, "experiment", None)  # a logger first contacts its server here
                stack.enter_context(_lasting(logger))
                found.append(logger)
        rest = asdict(settings)
        flat = {**rest.pop("data"), **rest.pop("model"), **rest}  # named as Lightning names a model's arguments
        for logger in found:
            logger.log_hyperparams(flat)
        yield found


@contextmanager
def _said(name: str) -> Iterator[None]:
    """A context in which any error only prints one line: there is no knowing what these packages raise, and when."""
    try:
        yield
    except Exception as error:
        # Lightning turns any error of TensorBoard's writer into a ValueError about what may be logged.
        cause = (isinstance(error, ValueError) and error.__cause__) or error
        say(f"note: {name} failed and logs nothing from here on ({in_short(cause)})")


@contextmanager
def _lasting(logger: Logger) -> Iterator[None]:
    """A context in which a logger's first error prints one line, and the logger does nothing from then on."""
    failed = False

    def lasting(method: Callable[..., object]) -> Callable[..., None]:
        @wraps(method)
        def attempt(*args: Any, **kwargs: Any) -> None:
            nonlocal failed
            if failed:
                return
            with _said(type(logger).__name__):
                try:
                    method(*args, **kwargs)
                except Exception:
                    failed = True
                    raise

        return attempt

    for name in METHODS:
        setattr(logger, name, lasting(getattr(logger, name)))
    try:
        yield
    finally:
        for name in METHODS:
            delattr(logger, name)


@contextmanager
def _tensorboard(settings: Settings, folder: Path) -> Iterator[Logger]:
    """A context that gives TensorBoard's logger, which writes event files into the run's folder."""
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    _ = logger.experiment  # imports TensorBoard, and opens the file
    hook = threading.excepthook
    threading.excepthook = lambda failed: None if _is_writer(failed.thread) else hook(failed)
    try:
        yield logger
    finally:
        threading.excepthook = hook


def _is_writer(thread: threading.Thread | None) -> bool:
    """Returns whether TensorBoard writes in this thread: its error is raised again, and printed, in the next call."""
    return type(thread).__module__.partition(".")[0] in ("tensorboard", "tensorboardX")


@contextmanager
def _wandb(settings: Settings, folder: Path) -> Iterator[Logger]:
    """A context that gives W&B's logger, which writes into the run's folder; WANDB_MODE is offline if it is not set."""
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    with environment({"WANDB_SILENT": "true"} | ({"WANDB_ERROR_REPORTING": "false"} if mode == "offline" else {})):
        import wandb

        if wandb.run is not None:  # the user has begun a run: log to that
            yield WandbLogger(experiment=wandb.run)
            return
        ids = {"wandb": secrets.token_hex(4), **_ids(folder)}
        _keep(folder, ids)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        run = wandb.init(project=project, name=folder.name, dir=folder, id=ids["wandb"], resume="allow", mode=mode)
        run.define_metric("trainer/global_step")  # as Lightning's logger does for a run that it makes itself
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        try:
            yield WandbLogger(experiment=run)
        finally:
            with _said("wandb"):
                run.finish()
                wandb.teardown()  # ends the process in which W&B writes


@contextmanager
def _mlflow(settings: Settings, folder: Path) -> Iterator[Logger]:
    """A context that gives MLflow's logger: it logs to mlflow.db beside lightning_logs/, or to MLFLOW_TRACKING_URI."""
    # Not in default_root_dir: it may be relative to a working directory other than the resumed run's.
    logs = next((parent for parent in folder.absolute().parents if parent.name == "lightning_logs"), None)
    database = (logs.parent if logs else Path(settings.default_root_dir).absolute()) / "mlflow.db"
    given = os.environ.get("MLFLOW_TRACKING_URI")
    with environment({"MLFLOW_LOGGING_LEVEL": "WARNING"} | ({} if given else {"MLFLOW_DISABLE_TELEMETRY": "true"})):
        import mlflow

        logger = _MLFlow(
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
            run_name=folder.name,
            tracking_uri=given or f"sqlite:///{database}",
            run_id=_ids(folder).get("mlflow"),
        )
        try:
            _keep(folder, {**_ids(folder), "mlflow": logger.run_id})
            yield logger
        finally:
            if not given:
                mlflow.set_tracking_uri(None)  # Lightning has set it for the whole process


class _MLFlow(MLFlowLogger):
    """Lightning's logger, except that a resumed run keeps its parameters: MLflow accepts no second value for one."""

    def __init__(self, *, run_id: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs, run_id=run_id)
        self._goes_on = run_id is not None
        if run_id is not None:
            self.experiment.update_run(run_id, "RUNNING")

    def log_hyperparams(self, params: Any) -> None:
        """Logs the parameters, unless the run is resumed."""
        if not self._goes_on:
            super().log_hyperparams(params)


def _ids(folder: Path) -> dict[str, str]:
    """Returns the ids that `_keep` has written."""
    path = folder / IDS
    ids: dict[str, str] = json.loads(path.read_text()) if exists(path) else {}
    return ids


def _keep(folder: Path, ids: Mapping[str, str | None]) -> None:
    text = json.dumps(ids) + "\n"
    write_atomically(folder / IDS, text.encode())
