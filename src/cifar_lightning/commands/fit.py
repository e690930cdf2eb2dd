"""Trains a network on CIFAR-10, tests it, draws and reports.

cifar-lightning fit                                    # the tutorial
cifar-lightning fit --data.source synthetic            # without a download
cifar-lightning fit --accelerator gpu --devices 2      # on two GPUs
cifar-lightning fit --recipe resnet18 --model.lr 0.05  # a recipe, changed
cifar-lightning fit --recipe speed54 --seeds 10        # ten runs, their mean
cifar-lightning fit --resume lightning_logs/version_0  # an interrupted run
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]  # but documented

from cifar_lightning.data.absent import NO_FLAGS
from cifar_lightning.errors import InputError
from cifar_lightning.files import user_path
from cifar_lightning.flags import arguments_in, new_parser, parse, value_of
from cifar_lightning.run import presence
from cifar_lightning.run.cluster import is_first_rank
from cifar_lightning.run.recipe import over_recipe
from cifar_lightning.settings_file import recipes
from cifar_lightning.signatures import signature_of
from cifar_lightning.startup import importing

OFFICIAL = ("cifar10", "cifar100", "cifar100-coarse")  # sources that are downloaded
# Flags that do nothing with some settings: whether they do something, and what they need. They are allowed in a file of
# settings nevertheless.
NEEDS: dict[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
    "data.data_dir": (lambda s: s["data"].get("source") != "synthetic", "--data.source cifar10, cifar100 or folder"),
    "data.mirror": (
        lambda s: s["data"].get("source", "cifar10") in OFFICIAL,
        f"--data.source {', '.join(OFFICIAL[:-1])} or {OFFICIAL[-1]}",
    ),
    "data.sha256": (lambda s: s["data"].get("source") != "synthetic", "--data.source cifar10, cifar100 or folder"),
    "data.synthetic_size": (lambda s: s["data"].get("source") == "synthetic", "--data.source synthetic"),
    "data.crop_padding": (lambda s: s["data"].get("augment"), "--data.augment true"),
    "data.flip": (lambda s: s["data"].get("augment") or s["data"]["flip"] != "random", "--data.augment true"),
    "model.muon_momentum": (lambda s: s["model"].get("muon_lr"), "--model.muon_lr 0.1"),
}


def script(arguments: Sequence[str]) -> None:
    """Fits a network, or resumes a run."""
    presence.begin()
    given = arguments_in(parse(_parser(), arguments, defaults=False))
    for name in ("recipe", "resume"):  # read before files are
        if (value := given.get(name)) != value_of(f"--{name}", arguments):
            raise InputError(f"{name} {value} in a file of settings does nothing: pass --{name} {value} as a flag")
    given.pop("config", None)
    run, recipe = given.pop("resume", None), given.get("recipe")
    settings = over_recipe(given)
    if recipe is not None and settings == {name: value for name, value in given.items() if name != "recipe"}:
        raise InputError(f"recipe {recipe} does nothing: all of its settings are given separately; leave it out")
    if run is None:
        _check_effects(arguments, settings)
    many = {name: value for name in ("seeds", "folds") if (value := settings.pop(name, None)) is not None}
    if run not in (None, "auto"):
        for name, value in many.items():
            raise InputError(f"{name} {value}: --resume continues what {run} already has; leave out {name}")
        if recipe is not None:  # or an error would name settings of the recipe, which nobody gave
            raise InputError(f"recipe {recipe}: --resume continues with the run's own settings; leave out --recipe")
    _train(run, settings, many)


def _parser() -> ArgumentParser:
    parser = new_parser("fit [flags]", __doc__)
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        metavar="FILE",
        help="YAML file of settings, e.g. a run's config.yaml; later flags win.",
    )
    parser.add_argument("--recipe", type=str, default=None, help=f"One of {', '.join(recipes())}.")
    parser.add_argument("--resume", type=str, default=None, help="Folder of a run; auto: the newest unfinished run.")
    parser.add_argument("--seeds", type=int, default=None, help="Number of runs, with consecutive seeds from --seed.")
    parser.add_argument("--folds", type=int, default=None, help="Number of runs, each validated on its own fold.")
    parser.add_function_arguments(signature_of("run.training", "fit"), skip={"data", "model", "callbacks", "recipe"})
    parser.add_function_arguments(signature_of("data.datamodule", "CIFAR10DataModule"), "data", skip=set(NO_FLAGS))
    kept: set[str | int] = {"classes", "preprocessing"}  # taken from the images
    parser.add_function_arguments(signature_of("model.lit_net", "LitNet"), "model", skip=kept)
    return parser


def _check_effects(arguments: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raises an InputError for a flag that does nothing with these settings."""
    for name, (does_something, other) in NEEDS.items():
        if (value := value_of(f"--{name}", arguments)) is not None and not does_something(settings):
            raise InputError(f"--{name} {value} does nothing here: use it with {other}, or leave out --{name}")


def _train(run: str | None, settings: dict[str, Any], many: dict[str, Any]) -> None:
    """Trains one run, or `many`; resumes `run`, or the newest one if that is "auto", unless it is None."""
    with importing():  # imported late: torch and Lightning take seconds
        from cifar_lightning.run import signals
        from cifar_lightning.run.many import fit_many, resume_many, resume_newest_many
        from cifar_lightning.run.plan import is_group
        from cifar_lightning.run.resuming import resume, resume_newest
        from cifar_lightning.run.training import fit

    signals.requeues = run == "auto"  # started again with the same flags, it resumes
    root, report = settings.get("default_root_dir", "."), settings.get("report", True)
    # In a group of runs, `report` is a setting of the group.
    of_runs = {name: value for name, value in settings.items() if name != "report"}
    if run not in (None, "auto"):
        if is_first_rank() and is_group(user_path(run)):
            resume_many(run, of_runs, report=report)
        else:
            resume(run, settings)
    elif many:
        if run is None or resume_newest_many(root, of_runs, **many, report=report) is None:
            fit_many(**many, **settings)
    elif run is None or resume_newest(root, settings) is None:
        fit(**settings)
