"""evaluate(), and the report on a test: the Trainer's figures are handed to it as plain values."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightning.pytorch import Trainer
from torch import Tensor, nn

from cifar_lightning.console import say
from cifar_lightning.data.cifar10 import CLASSES_OF
from cifar_lightning.data.class_names import numbers_in
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.labels import distributions
from cifar_lightning.data.sharing import check_evaluation
from cifar_lightning.errors import InputError, some
from cifar_lightning.files import absolute, exists, readable, user_path, why_unwritable
from cifar_lightning.model.evaluation import VIEWS, against_people
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.report.outcome import Outcome
from cifar_lightning.report.predictions import write_predictions
from cifar_lightning.report.report import PAGE, report, shown
from cifar_lightning.report.results import read_results
from cifar_lightning.report.template import page_at
from cifar_lightning.run import signals
from cifar_lightning.run.again import Again
from cifar_lightning.run.callbacks.computing import Computing
from cifar_lightning.run.callbacks.stop_on_signal import StopOnSignal
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.checks import try_trainer
from cifar_lightning.run.cluster import is_first_rank, this_rank
from cifar_lightning.run.corrupted import note_not_finite, part_of, test_corrupted
from cifar_lightning.run.cpu import restored_torch
from cifar_lightning.run.devices import check_ranks, resolve_devices, shared_out
from cifar_lightning.run.ended import results_in
from cifar_lightning.run.launch import launch
from cifar_lightning.run.memory import within_memory
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.no_run import is_run
from cifar_lightning.run.plan import is_group
from cifar_lightning.run.precision import check_precision, crawls, resolve_precision
from cifar_lightning.run.process_group import check_same_images, on_first_rank, process_group
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.saved import data_of, home_of, model_of, output_of, select_checkpoint
from cifar_lightning.run.settings import Arguments, check_group, plain, read_settings
from cifar_lightning.run.trained import is_trained
from cifar_lightning.run.trainer import new_trainer

T = TypeVar("T")


@quietly()
def evaluate(
    checkpoint: str | Path,
    data: Mapping[str, Any] | None = None,
    *,
    accelerator: str = "auto",
    devices: str | int | None = None,
    precision: str | int | None = None,
    test_views: Literal["one", "mirror", "six"] | None = None,
    soft_labels: str | Path | None = None,
    output_dir: str | Path | None = None,
    html: str | Path | None = None,
    net: str | nn.Module | None = None,
) -> dict[str, Any]:
    """Tests a trained network: prints the table and writes the same figures and page as `fit`.

    Args:
        checkpoint: A run's folder (its selected checkpoint is tested), a .ckpt file, or anything else that load_model
            takes, such as quick.
        data: Arguments of CIFAR10DataModule that replace those of the training.
        accelerator: As for `fit`.
        devices: As for `fit`.
        precision: As for `fit`; by default the training's, but 32-true instead of 16-true on a CPU.
        test_views: Views to average over, as for LitNet; by default the training's.
        soft_labels: People's answers for the test images, to compare with, such as CIFAR-10H's cifar10h-probs.npy.
        output_dir: Folder for results.json and figures/, not a run's own; by default `evaluation/` in the run's folder
            or beside the .ckpt file, or, for weights that come with the package, `evaluation-NAME/` here.
        html: File for the page, NAME.html; by default report.html beside results.json.
        net: Your own network, if the checkpoint is of one: its import path (package.module:Net), or in Python a module.

    Returns:
        The contents of results.json.

    Raises:
        InputError: The checkpoint or the images are not available, or do not belong together.
        RunError: Something outside the test failed, such as a full disk or too little memory.

    Example:
        >>> results = evaluate("lightning_logs/version_0", test_views="mirror")
        Accuracy ... % on 600 test images, loss ... (best.ckpt, step 375)
        ...
        >>> results["test_views"], results["test_acc"] > 0.5
        ('mirror', True)
    """
    signals.next_step = ""
    if test_views not in (None, *VIEWS):
        raise InputError(f"unknown test_views {test_views}: choose from {', '.join(VIEWS)}")
    devices, num_nodes = shared_out(devices, None)
    accelerator, here = resolve_devices(accelerator, devices)
    check_ranks(devices, here, num_nodes)
    processes = here * num_nodes
    check_group("data", data or {}, "evaluate", "test(model, data)")
    data = plain(data or {})
    with process_group():  # of a launcher's ranks, if there are any: rank 0 reads and writes for all
        page = None if html is None else Path(on_first_rank(lambda: str(page_at(html, PAGE))))
        name, saved = on_first_rank(lambda: _selected(checkpoint))
        path = Path(name)
        trained = saved.get("precision", "32-true")
        if precision is None and crawls(trained, accelerator):  # float32 holds every 16-bit weight exactly
            precision = "32-true"
            if is_first_rank():
                say(f"note: evaluating in {precision}: the precision of the training, {trained}, is slow on a CPU")
        precision = resolve_precision(precision or trained, accelerator)
        check_precision(precision, accelerator)
        where = {"accelerator": accelerator, "devices": devices, "precision": precision}
        try_trainer(where)
        where["num_nodes"] = num_nodes
        if processes > 1 and isinstance(net, nn.Module):
            raise InputError(
                f"devices {devices}: a module exists only in this process; pass net as an import path, such as "
                "my.nets:Net"
            )
        model, images = model_of(saved, path, net), data_of(saved, data)
        images.prepare_data()
        if soft_labels is not None:
            soft_labels = absolute(soft_labels)
            if images.parts:
                raise InputError(
                    f"soft_labels {soft_labels} belong to the official test images: leave out --data.data_dir"
                )
        if html is not None and images.parts:
            raise InputError(
                f"html {html}: a test on corrupted images has a table and a figure but no page; leave out html"
            )
        _check_images(part_of(images, images.parts[0]) if images.parts else images, model, path, soft_labels, processes)
        home = home_of(path)
        own = f"evaluation-{path.stem}" if is_trained(path) else "evaluation"  # one's figures replace no other's
        output = user_path(output_dir) if output_dir is not None else output_of(path) / own
        if of := on_first_rank(lambda: _folder_of(output, home)):
            raise InputError(
                f"output_dir {output} is a {of}'s folder and holds the results of its training: choose another folder"
            )
        if why := on_first_rank(lambda: why_unwritable(output)):  # checked now, not after a long test
            raise InputError(f"output_dir {output} cannot be written ({why}): choose another folder")
        seed = saved.get("datamodule_hyper_parameters", {}).get("seed")  # missing in a file of weights
        job: dict[str, Any] = {
            "facts": {"checkpoint": str(path), "step": saved["global_step"], "seed": seed},
            "where": where,
            "views": test_views or model.hparams["test_views"],
            "soft_labels": soft_labels,
            "output": str(output),
            "metrics": str(home / "metrics.csv"),
            "page": str(page or output / PAGE),
        }
        if processes > 1 and this_rank() is None:
            launch("cifar_lightning.run.testing:evaluate_rank", {**job, "data": data, "net": net}, processes)
        else:
            _test(saved, model, images, **job)
        return on_first_rank(lambda: read_results(output))


def _selected(checkpoint: str | Path) -> tuple[str, dict[str, Any]]:
    path = select_checkpoint(checkpoint)
    return str(path), load_checkpoint(path)


@quietly()
def evaluate_rank(facts: dict[str, Any], data: Arguments, net: str | None, **job: Any) -> None:
    """Runs one rank of an evaluation; see `evaluate`."""
    saved = load_checkpoint(facts["checkpoint"])
    model, images = model_of(saved, Path(facts["checkpoint"]), net), data_of(saved, data)
    if not images.parts:
        images.count_as(model.classes)
    with process_group():
        _test(saved, model, images, facts, **job)


def _folder_of(output: Path, home: Path) -> str:
    """Returns "run" or "group" if the output is such a folder, otherwise ""; `home` is the checkpoint's run."""
    if is_group(output):
        return "group"
    if not is_run(output):
        return ""
    with suppress(InputError):  # another program's folder may have a config.yaml, too
        if output.resolve() == home.resolve() or "fit_seconds" in (results_in(output) or {}) or read_settings(output):
            return "run"
    return ""


def _check_images(
    images: CIFAR10DataModule, model: LitNet, path: Path, soft_labels: str | None, processes: int
) -> None:
    """Checks that images and network belong together, and numbers the images' classes as the network does."""
    if numbers_in(model.classes, images.classes) is None:
        raise InputError(
            f"checkpoint {path} was trained on the classes {some(model.classes)}, "
            f"but these images have {some(images.classes)}: use images with its classes"
        )
    images.count_as(model.classes)
    if soft_labels is not None:
        _soft_labels(soft_labels, images)
    if processes > 1:
        check_evaluation(len(images.image_set("test").labels), processes)


def _soft_labels(path: str, images: CIFAR10DataModule) -> Tensor:
    """Reads people's distributions over the classes; their columns are in CIFAR's order if the classes are CIFAR's."""
    orders = (*CLASSES_OF.values(), images.classes)
    columns = next(order for order in orders if numbers_in(images.classes, order) is not None)
    return distributions(path, images.image_set("test"), columns)


def _test(
    saved: Mapping[str, Any],
    model: LitNet,
    images: CIFAR10DataModule,
    facts: dict[str, Any],
    where: Arguments,
    views: str,
    soft_labels: str | None,
    output: str,
    metrics: str,
    page: str,
) -> None:
    if not images.parts:
        check_same_images(images, "test")
    with restored_torch():
        model.hparams["test_views"] = views
        trainer = new_trainer(
            **where,
            logger=False,
            callbacks=[StopOnSignal(), Computing()],
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        with signals.deferred(), within_memory(images, fits=False):
            if images.parts:
                facts = _facts(trainer, model, images, facts)
                test_corrupted(trainer, model, images, facts, Path(output))
            else:
                trainer.test(model, images, verbose=False)
                if soft_labels is not None:
                    people = _soft_labels(soft_labels, images)
                    compared = against_people(people, model.last_evaluation["logits"])
                    facts = {**facts, "soft_labels": {"file": soft_labels, **compared}}
                report_on(trainer, model, images, facts, Path(output), Path(metrics), page=Path(page), saved=saved)
            signals.finish()


def _has_learnt_from(data: CIFAR10DataModule, saved: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint was trained on the training images of `data`, with the same ones held out."""
    before, state = saved.get("datamodule_hyper_parameters", {}), saved.get("CIFAR10DataModule", {})
    if any(before.get(name) != data.hparams[name] for name in ("val_split", "split_seed")):
        return False
    fingerprint = _if_readable("the training images", lambda: data.fingerprint, None)
    return fingerprint is not None and bool(state.get("fingerprint") == fingerprint)


def report_on(
    trainer: Trainer,
    model: LitNet,
    data: CIFAR10DataModule,
    facts: dict[str, Any],
    output: Path,
    metrics: Path,
    aloud: bool = True,
    page: Path | None = None,
    saved: Mapping[str, Any] | None = None,
) -> None:
    """Reports, on rank 0, on the test that `trainer` has just run; see report/report.py.

    Args:
        trainer: The Trainer that ran the test.
        model: The network that was tested.
        data: The data module it was tested on.
        facts: Further entries of results.json, among them `checkpoint`, which was tested, and its `step`.
        output: The folder to write into.
        metrics: The metrics.csv of the training, for its curves; they are left out if there is no such file.
        aloud: Whether to draw and print, or only to write the results.
        page: The page's file, if not the one in `output`.
        saved: The checkpoint that was tested, if it was trained in another process: then whether it was trained on the
            images of `data` is checked.
    """
    if not trainer.is_global_zero:
        return
    evaluation, again = model.last_evaluation, Again(trainer, model, data)
    # Checked before `train_indices` is used: other images may be too few for the split of the training.
    learnt = "train" in data.splits and (saved is None or _has_learnt_from(data, saved))
    shown_index = data.train_indices[shown(len(data.train_indices))] if learnt else None
    tested = data.test_indices[: len(evaluation["predicted"])]
    test = data.image_set("test").part(tested)
    write_predictions(output, evaluation["predicted"], test)
    outcome = Outcome(
        confusion=evaluation["confusion"],
        loss=evaluation["loss"].item(),
        classes=model.classes,
        facts=_facts(trainer, model, data, facts),
        training_images=None if shown_index is None else data.image_set("train").part(shown_index),
        test_images=test,
        numbers=tested,
        predicted=evaluation["predicted"],
        logits=evaluation["logits"],
        rows=_if_readable("the curves", lambda: read_rows(metrics), []),
        label_smoothing=model.hparams["label_smoothing"],
        network=model.hparams.get("net", type(model.net).__name__),
        lr=model.hparams["lr"],
        settings=_if_readable("the settings", lambda: _text(metrics.with_name("config.yaml")), ""),
        held_out=again.held_out() if aloud and learnt else None,
        grad_cam=again.grad_cam,
    )
    note_not_finite(int(outcome.not_finite.sum()), model, output)
    report(outcome, output, page or output / PAGE, aloud)


def _text(path: Path) -> str:
    """Returns the text of a file; "" if there is no such file."""
    try:
        with readable(path):
            return path.read_text("utf-8") if exists(path) else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text ({error.reason}): fix the file") from error


def _if_readable(what: str, read: Callable[[], T], otherwise: T) -> T:
    """Returns what `read` returns; on an InputError, notes it and returns `otherwise`: the test does not need it."""
    try:
        return read()
    except InputError as error:
        say(f"note: the report leaves out {what}: {error}")
        return otherwise


def _facts(trainer: Trainer, model: LitNet, data: CIFAR10DataModule, facts: Mapping[str, Any]) -> dict[str, Any]:
    device = trainer.strategy.root_device.type
    told = ("source", "data_dir", "normalization", "train_labels")
    return {
        "test_views": model.hparams["test_views"],
        "parameters": sum(weights.numel() for weights in model.net.parameters()),
        "data": {name: value for name in told if (value := data.hparams[name]) is not None},
        **facts,
        "precision": trainer.precision,
        "devices": trainer.world_size,
        "accelerator": {"cuda": "gpu"}.get(device, device),
    }
