"""evaluate(): tests a trained network, in this process or in one for each device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from torch import Tensor, nn

from cifar_lightning.console import say
from cifar_lightning.data.cifar10 import CLASSES_OF
from cifar_lightning.data.class_names import numbers_in
from cifar_lightning.data.datamodule import CIFAR10DataModule
from cifar_lightning.data.labels import distributions
from cifar_lightning.data.sharing import check_evaluation
from cifar_lightning.errors import InputError, some
from cifar_lightning.files import absolute, user_path, why_unwritable
from cifar_lightning.model.evaluation import against_people
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.model.views import VIEWS
from cifar_lightning.report.report import PAGE
from cifar_lightning.report.results import read_results
from cifar_lightning.report.template import page_at
from cifar_lightning.run import signals
from cifar_lightning.run.callbacks.computing import Computing
from cifar_lightning.run.callbacks.stop_on_signal import StopOnSignal
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.checks import try_trainer
from cifar_lightning.run.cluster import is_first_rank, this_rank
from cifar_lightning.run.corrupted import part_of, test_corrupted
from cifar_lightning.run.cpu import restored_torch
from cifar_lightning.run.devices import check_ranks, devices_and_nodes, resolve_devices
from cifar_lightning.run.ended import results_in
from cifar_lightning.run.launch import launch
from cifar_lightning.run.memory import within_memory
from cifar_lightning.run.no_run import is_run
from cifar_lightning.run.plan import is_group
from cifar_lightning.run.precision import check_precision, crawls, resolve_precision
from cifar_lightning.run.process_group import check_same_images, on_first_rank, process_group
from cifar_lightning.run.quiet import quietly
from cifar_lightning.run.reporting import report_on
from cifar_lightning.run.saved import data_of, home_of, model_of, output_of, select_checkpoint
from cifar_lightning.run.settings import check_group, plain, read_settings
from cifar_lightning.run.trained import is_trained
from cifar_lightning.run.trainer import new_trainer


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
    devices, num_nodes = devices_and_nodes(devices, None)
    accelerator, here = resolve_devices(accelerator, devices)
    check_ranks(devices, here, num_nodes)
    processes = here * num_nodes
    check_group("data", data or {}, "evaluate", "test(model, data)")
    data = plain(data or {})
    with process_group():  # of a launcher's ranks, if there are any: rank 0 reads and writes for all
        saved, *paths = on_first_rank(lambda: _chosen(checkpoint, output_dir, html))
        path, output, page = map(Path, paths)
        precision = _precision(precision, saved, accelerator)
        where = {"accelerator": accelerator, "devices": devices, "precision": precision}
        try_trainer(where)
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
        _check_images(images, model, path, processes)
        people = None if soft_labels is None else _people(soft_labels, images)
        if processes > 1 and this_rank() is None:
            same = plain({"output_dir": output_dir, "html": html, "soft_labels": soft_labels})
            same |= {"checkpoint": str(path), "data": data, "test_views": test_views, "net": net}
            launch("cifar_lightning.run.testing:evaluate", where | same, processes)
            return read_results(output)
        seed = saved.get("datamodule_hyper_parameters", {}).get("seed")  # missing in a file of weights
        facts = {"checkpoint": str(path), "step": saved["global_step"], "seed": seed}
        model.hparams["test_views"] = test_views or model.hparams["test_views"]
        with _trainer(images, **where, num_nodes=num_nodes) as trainer:
            if images.parts:
                test_corrupted(trainer, model, images, facts, output)
            else:
                trainer.test(model, images, verbose=False)
                if people is not None:
                    compared = against_people(people, model.last_evaluation["logits"])
                    facts["soft_labels"] = {"file": soft_labels, **compared}
                report_on(trainer, model, images, facts, output, home=home_of(path), page=page, saved=saved)
        return on_first_rank(lambda: read_results(output))


def _chosen(
    checkpoint: str | Path, output_dir: str | Path | None, html: str | Path | None
) -> tuple[dict[str, Any], str, str, str]:
    """Reads the checkpoint; returns it with its path, the folder for the results and the path of the page, checked."""
    page = None if html is None else page_at(html, PAGE)
    path = select_checkpoint(checkpoint)
    saved = load_checkpoint(path)
    # the figures of one of the package's networks replace no other's
    own = f"evaluation-{path.stem}" if is_trained(path) else "evaluation"
    output = user_path(output_dir) if output_dir is not None else output_of(path) / own
    if of := _folder_of(output, home_of(path)):
        raise InputError(
            f"output_dir {output} is a {of}'s folder and holds the results of its training: choose another folder"
        )
    if why := why_unwritable(output):  # checked now, not after a long test
        raise InputError(f"output_dir {output} cannot be written ({why}): choose another folder")
    return saved, str(path), str(output), str(page or output / PAGE)


def _precision(given: str | int | None, saved: Mapping[str, Any], accelerator: str) -> str:
    """Chooses the precision to test a checkpoint in: the one that is given, else the one of its training."""
    trained = saved.get("precision", "32-true")
    if given is None and crawls(trained, accelerator):  # float32 holds every 16-bit weight exactly
        given = "32-true"
        if is_first_rank():
            say(f"note: evaluating in {given}: the precision of the training, {trained}, is slow on a CPU")
    precision = resolve_precision(given or trained, accelerator)
    check_precision(precision, accelerator)
    return precision


def _check_images(images: CIFAR10DataModule, model: LitNet, path: Path, processes: int) -> None:
    """Checks that images and network belong together, and numbers the images' classes as the network does."""
    one = part_of(images, images.parts[0]) if images.parts else images
    if numbers_in(model.classes, one.classes) is None:
        raise InputError(
            f"checkpoint {path} was trained on the classes {some(model.classes)}, "
            f"but these images have {some(one.classes)}: use images with its classes"
        )
    images.count_as(model.classes)
    if processes > 1:
        check_evaluation(len(one.image_set("test").labels), processes)
    if not images.parts:
        check_same_images(images, "test")


def _people(path: str, images: CIFAR10DataModule) -> Tensor:
    """Reads people's distributions over the classes; their columns are in CIFAR's order if the classes are CIFAR's."""
    orders = (*CLASSES_OF.values(), images.classes)
    columns = next(order for order in orders if numbers_in(images.classes, order) is not None)
    return distributions(path, images.image_set("test"), columns)


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


@contextmanager
def _trainer(images: CIFAR10DataModule, **arguments: Any) -> Iterator[Trainer]:
    """A context that gives a Trainer to test on these images; a signal that comes within it ends the test."""
    with restored_torch():
        trainer = new_trainer(
            **arguments,
            logger=False,
            callbacks=[StopOnSignal(), Computing()],
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        with signals.deferred(), within_memory(images, fits=False):
            yield trainer
            signals.finish()
