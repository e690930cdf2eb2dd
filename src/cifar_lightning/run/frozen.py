"""Which layers are frozen: callbacks that fine-tune a network change it in training, and a state_dict lacks it."""

from collections.abc import Mapping, Sequence

from lightning.pytorch import Trainer


def frozen_in(trainer: Trainer) -> dict[str, list[str]]:
    """Returns the names of what is frozen in training, as plain values for a checkpoint.

    They are the `parameters` without gradients, the norms without running `statistics`, and the `modules` that train in
    evaluation mode.
    """
    module = trainer.lightning_module
    # A validation has put all modules into evaluation mode, and gives them back these modes when it ends.
    modes = trainer.fit_loop.epoch_loop.val_loop._module_mode.mode if trainer.validating else {}
    parts = dict(module.named_modules())
    return {
        "parameters": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        "statistics": [name for name, part in parts.items() if not getattr(part, "track_running_stats", True)],
        "modules": [name for name, part in parts.items() if not modes.get(name, part.training)],
    }


def freeze(trainer: Trainer, frozen: Mapping[str, Sequence[str]]) -> None:
    """Freezes exactly what `frozen_in` has named."""
    module = trainer.lightning_module
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen["parameters"])
    for name, part in module.named_modules():
        part.training = name not in frozen["modules"]
        if hasattr(part, "track_running_stats"):
            part.track_running_stats = name not in frozen["statistics"]
