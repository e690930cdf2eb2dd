"""Tests a trained network, and writes figures and a page as fit does.

cifar-lightning evaluate lightning_logs/version_0
cifar-lightning evaluate lightning_logs/version_0/checkpoints/best.ckpt
cifar-lightning evaluate quick --data.source folder --data.data_dir pictures
cifar-lightning evaluate lightning_logs/version_0 --data.data_dir CIFAR-10-C
"""

from collections.abc import Sequence

from cifar_lightning.data.absent import NO_FLAGS
from cifar_lightning.flags import add_net, arguments_in, new_parser, parse
from cifar_lightning.run import presence
from cifar_lightning.signatures import signature_of
from cifar_lightning.startup import importing


def script(arguments: Sequence[str]) -> None:
    """Evaluates a checkpoint."""
    presence.begin()
    parser = new_parser("evaluate CHECKPOINT [flags]", __doc__, elsewhere="data.")
    parser.add_function_arguments(signature_of("run.testing", "evaluate"), skip={"data", "net"}, as_positional=True)
    add_net(parser)
    # Only what is given: all else is as it was in the training.
    parser.add_function_arguments(signature_of("data.datamodule", "CIFAR10DataModule"), "data", skip=set(NO_FLAGS))
    settings = arguments_in(parse(parser, arguments))
    net = settings.pop("model")["net"]
    given = arguments_in(parse(parser, arguments, defaults=False))

    with importing():  # not before: torch and Lightning take seconds
        from cifar_lightning.run.testing import evaluate

    evaluate(**{**settings, "data": given.get("data", {}), "net": net})
