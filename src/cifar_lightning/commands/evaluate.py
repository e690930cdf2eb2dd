"""Tests a trained network, and writes figures and a page as fit does.

cifar-lightning evaluate lightning_logs/version_0
cifar-lightning evaluate lightning_logs/version_0/checkpoints/best.ckpt
cifar-lightning evaluate quick --data.source folder --data.data_dir pictures
cifar-lightning evaluate lightning_logs/version_0 --data.data_dir CIFAR-10-C
"""

from collections.abc import Sequence

from cifar_lightning.data.absent import NO_FLAGS
from cifar_lightning.errors import InputError
from cifar_lightning.flags import add_net, arguments_in, new_parser, parse, value_of
from cifar_lightning.run import presence
from cifar_lightning.signatures import signature_of
from cifar_lightning.startup import importing

# Flags of a fit that do nothing here: the rest of the message, with what to do instead.
NOTHING = {
    "batch_size": ": use --data.eval_batch_size",
    **dict.fromkeys(("augment", "crop_padding", "flip", "cutout"), ", which does not augment images: leave it out"),
}


def script(arguments: Sequence[str]) -> None:
    """Evaluates a checkpoint."""
    presence.begin()
    parser = new_parser("evaluate CHECKPOINT [flags]", __doc__, elsewhere="data.")
    parser.add_function_arguments(signature_of("run.testing", "evaluate"), skip={"data", "net"}, as_positional=True)
    add_net(parser)
    # Only the flags that are given count: all other settings are those of the training.
    skip: set[str | int] = {*NO_FLAGS, *NOTHING}
    parser.add_function_arguments(signature_of("data.datamodule", "CIFAR10DataModule"), "data", skip=skip)
    for name, why in NOTHING.items():
        if (value := value_of(f"--data.{name}", arguments)) is not None:
            raise InputError(f"--data.{name} {value} has no effect in an evaluation{why}")
    settings = arguments_in(parse(parser, arguments))
    net = settings.pop("model")["net"]
    given = arguments_in(parse(parser, arguments, defaults=False))

    with importing():  # imported late: torch and Lightning take seconds
        from cifar_lightning.run.testing import evaluate

    evaluate(**{**settings, "data": given.get("data", {}), "net": net})
