"""`cifar-lightning COMMAND`, which is also `python -m cifar_lightning COMMAND`."""

import difflib
import importlib.metadata
import sys
from collections.abc import Sequence

from cifar_lightning import cli, commands
from cifar_lightning.console import say
from cifar_lightning.errors import InputError


def script(arguments: Sequence[str]) -> int | None:
    """Runs the command that the first argument names."""
    name, *rest = arguments or ("--help",)
    if name in commands.NAMES:
        return commands.load(name)(rest)
    if name in ("-h", "--help"):
        say(_help(), 1)
    elif name == "--version":
        say(importlib.metadata.version("cifar-lightning"), 1)
    else:
        near = difflib.get_close_matches(name, commands.NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(commands.NAMES)}, or use --help"
        raise InputError(f"unknown command {name}: {hint}")
    return None


def _help() -> str:
    lines = ["usage: cifar-lightning COMMAND [flags]", ""]
    for name in commands.NAMES:
        doc = sys.modules[commands.load(name).__module__].__doc__ or ""
        lines.append(f"  {name:10}{doc.splitlines()[0]}")
    return "\n".join([*lines, "", "cifar-lightning COMMAND --help says more; --version gives the version."])


def main() -> None:
    """Runs `script` and ends the process; see `cli.main`."""
    cli.main(script)


if __name__ == "__main__":
    main()
