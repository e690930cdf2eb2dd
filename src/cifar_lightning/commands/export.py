"""Writes a trained network into a file or folder for other programs.

cifar-lightning export lightning_logs/version_0 --format onnx
cifar-lightning export lightning_logs/version_0 --format pt2 --output net.pt2
cifar-lightning export best.ckpt --format safetensors --test_views six
cifar-lightning export lightning_logs/version_0 --format hf
"""

from collections.abc import Sequence

from cifar_lightning.console import say
from cifar_lightning.flags import add_net, arguments_in, new_parser, parse
from cifar_lightning.signatures import signature_of
from cifar_lightning.startup import importing


def script(arguments: Sequence[str]) -> None:
    """Exports a checkpoint."""
    parser = new_parser("export CHECKPOINT [flags]", __doc__)
    parser.add_function_arguments(signature_of("run.export", "export"), skip={"net"}, as_positional=True)
    add_net(parser)
    settings = arguments_in(parse(parser, arguments))
    net = settings.pop("model")["net"]

    with importing():  # imported late: torch and Lightning take seconds
        from cifar_lightning.run.export import export

    path = export(**settings, net=net)
    files = path.iterdir() if path.is_dir() else [path]
    say(f"{path} ({sum(file.stat().st_size for file in files) / 1e6:.1f} MB)", 1)
