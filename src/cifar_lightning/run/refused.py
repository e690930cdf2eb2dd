"""Arguments of the data module, the network and the Trainer that a run does not take, and what to do instead."""

from cifar_lightning.data import absent
from cifar_lightning.data.absent import TRANSFORMS
from cifar_lightning.model import absent as absent_of_model
from cifar_lightning.signatures import trainer_arguments

# By group and name of the argument: why a run does not take it, and what to do.
WHY: dict[str, tuple[str, str]] = {
    "data.seed": ("is set by the run's seed", "use seed"),
    **dict.fromkeys(
        (f"data.{name}" for name in TRANSFORMS),
        (
            "is code, which config.yaml cannot hold",
            "pass it to CIFAR10DataModule, and pass that to lightning.pytorch.Trainer().fit",
        ),
    ),
    "model.classes": ("is set by the images", "leave it out"),
    "model.preprocessing": ("is set by the images", "leave it out"),
    "trainer.callbacks": ("takes objects, which a file cannot hold", "pass them to fit(callbacks=[...]) in Python"),
    "trainer.logger": (
        "is a setting of its own",
        "use --logger csv, tensorboard, wandb or mlflow, or in Python fit(logger=...)",
    ),
    "trainer.enable_checkpointing": (
        "cannot be changed, because a run resumes from its checkpoints",
        "use --checkpoint_every_n_steps for more of them",
    ),
    "trainer.enable_progress_bar": ("cannot be changed", "use --report false to print nothing"),
    "trainer.use_distributed_sampler": ("cannot be changed, because the loaders divide the images", "leave it out"),
    "trainer.limit_predict_batches": ("does nothing, because a run predicts nothing", "leave it out"),
    "trainer.model_registry": ("does nothing, because nothing is uploaded", "leave it out"),
    "trainer.barebones": ("cannot be changed, because a run logs and saves", "leave it out"),
    "trainer.plugins": ("takes objects, and this package brings its own", "use --precision, --strategy or --num_nodes"),
}

# Names that are common elsewhere, and a run's name for the same setting: the two are too different to be matched.
NAMED = {
    **absent.NAMED,
    **absent_of_model.NAMED,
    "device": "accelerator",
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "n_epochs"), "max_epochs"),
    **dict.fromkeys(("steps", "num_steps", "n_steps"), "max_steps"),
    **dict.fromkeys(("gpus", "num_gpus", "nproc_per_node"), "devices"),
    **dict.fromkeys(("wandb", "tensorboard", "mlflow"), "logger"),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "log_dir"), "default_root_dir"),
    **dict.fromkeys(("amp", "fp16", "bf16"), "precision"),
}


def why_absent(name: str) -> str | None:
    """Returns why there is no such flag, without a group or in the group `data`; None if no reason is known."""
    group, _, argument = name.rpartition(".")
    no_flags = dict.fromkeys(TRANSFORMS, "a transform is code: pass it to CIFAR10DataModule in Python")
    return {**absent.WHY, **no_flags}.get(argument) if group in ("", "data") else None


def why_refused(name: str) -> str | None:
    """Returns why a run does not take an argument of any group, given by its name alone; None if no reason is known."""
    for group in ("data", "model", "trainer"):
        if reason := WHY.get(f"{group}.{name}"):
            why, instead = reason
            return f"it {why}; {instead}"
    return None


def trainer_settings() -> list[str]:
    """Returns the names of the Trainer's arguments that a run takes, also those that are settings of its own."""
    return [name for name in trainer_arguments() if f"trainer.{name}" not in WHY]
