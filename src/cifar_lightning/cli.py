"""What the scripts have in common: flags from typed functions, and errors as one line with an exit code."""

import atexit
import difflib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cifar_lightning import console, settings_file
from cifar_lightning.data.absent import why_absent
from cifar_lightning.errors import InputError, LostRankError, NonFiniteError, RunError, Stopped, exit_code
from cifar_lightning.run import cluster, presence, refused, signals
from cifar_lightning.signatures import words_of
from cifar_lightning.startup import check_system

if TYPE_CHECKING:
    from argparse import Action

    from jsonargparse import ArgumentParser, Namespace

FIRST_RANK_SECONDS = 5.0  # for a launcher to see that the first rank has ended
FIRST_RANK_READS_SECONDS = 25.0  # for the first rank to come, by way of its images, to where it waits for the others


def main(script: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs a script on the command line's arguments and ends the process; see `run`.

    Not by `sys.exit`: it would wait for threads of a broken process group, and takes a second to take apart what torch
    and Lightning have made; with torch 2.15 it also prints a page of "leaks", for Triton's objects are frozen (see
    `startup.importing` and findings/triton-gc-freeze.sh). What was registered to be done at the end is done.
    """
    code = run(script)
    with suppress(OSError):
        atexit._run_exitfuncs()
    console.flush()
    os._exit(code)


def run(script: Callable[[Sequence[str]], int | None]) -> int:
    """Runs a script on the command line's arguments, and says how it has ended.

    Returns:
        The exit code: 0; 1 for a failed run; 2 for a user's mistake; 3 for NaN; 128 + the signal for one that was
        stopped; what the script gives.
    """
    console.open_closed()
    try:
        check_system()
        os.getcwd()
        first = cluster.is_first_rank()
    except (ImportError, InputError) as error:
        console.say(f"error: {error}")
        return 2
    except FileNotFoundError:  # torch would end the process without a word of it
        console.say("error: the folder that this was started in has been deleted: cd to another")
        return 2
    signals.install()
    console.print_anything()
    try:
        with console.notes(silent=not first):
            code = script(sys.argv[1:]) or 0
    except (InputError, NonFiniteError, RunError) as error:
        code = exit_code(error)
        presence.keep_quiet()
        mine = not isinstance(error, LostRankError) or cluster.is_first_of_its_machine()
        if code == 2 and not first:
            # Every rank comes here with the same mistake, and most launchers end all at the end of one: leave it to the
            # first rank, unless the mistake is not its own.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(FIRST_RANK_SECONDS)
            mine = cluster.first_rank_waits(FIRST_RANK_READS_SECONDS)
        if mine:
            console.say(f"error: {error}")
    except SystemExit as end:  # --help
        code = int(end.code or 0)
    except Stopped as error:
        code = exit_code(error)
        signals.finish()  # one line is enough
        if first:
            console.say(signals.farewell(error.signum))
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        code = 2
        console.say(f"error: {_mismatch()}")
    return code


def _mismatch() -> str:
    from importlib.metadata import version

    return (
        f"torch {version('torch')} and torchvision {version('torchvision')} are not builds that belong together: "
        "pip install --force-reinstall torch torchvision"
    )


def new_parser(usage: str, doc: str | None, elsewhere: str = "-") -> "ArgumentParser":
    """A parser whose help opens with the script's docstring as it is laid out there, and takes a line or two a flag.

    Args:
        usage: The command's name, and how it is called.
        doc: Its docstring, whose examples begin with "cifar-lightning NAME".
        elsewhere: How the flags begin that are by default not what the signature says, but as they were in a run.
    """
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def __init__(self, prog: str) -> None:
            width = shutil.get_terminal_size().columns - 2 if sys.stdout.isatty() else 100
            super().__init__(prog, max_help_position=32, width=width)  # type: ignore[no-untyped-call]

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text.rstrip()

        def add_argument(self, action: "Action") -> None:
            if not _is_group(action):
                super().add_argument(action)

        def _get_default_metavar_for_optional(self, action: "Action") -> str:
            name = (self._get_type_str(action) or "").replace(", ", "|").replace(" | ", "|")
            name = name.removeprefix("Union[").removesuffix("]" * name.startswith("Union[")).removesuffix("|null")
            if "list[" in name:
                return "[INT,…]"
            if "Literal[" in name:
                return "{" + ",".join(re.findall(r"'([\w-]+)'", name)) + "}"
            return "DICT" if "dict[" in name else name.upper()

        def _get_help_string(self, action: "Action") -> str:
            help_ = action.help or ""
            unsaid = action.default in (None, "==SUPPRESS==", []) or action.dest.startswith(elsewhere)
            return help_ if unsaid else f"{help_.rstrip('.')} [%(default)s]"

    name, called = usage.partition(" ")[0], Path(sys.argv[0]).stem
    installed, program = f"cifar-lightning {name}", f"python scripts/{name}.py" if called == name else None
    return ArgumentParser(
        prog=program or installed,
        usage=usage.replace(name, program or installed, 1),
        description=(doc or "").replace(installed, program or installed),
        formatter_class=Formatter,
        exit_on_error=False,
        print_config=None,  # a run's config.yaml is that
    )


def _is_group(action: "Action") -> bool:
    """Whether this is `--data` or `--model`, which take a file of settings for one group: --config does for all."""
    from jsonargparse._actions import _ActionConfigLoad

    return isinstance(action, _ActionConfigLoad)


def add_net(parser: "ArgumentParser") -> None:
    """Has a command that reads a checkpoint take the network of one's own that it may be of."""
    doc = "your own network, where it is of one, by its import path: package.module:Net"
    parser.add_argument("--model.net", type=str, default=None, help=doc)


def parse(parser: "ArgumentParser", arguments: Sequence[str], defaults: bool = True) -> "Namespace":
    """The flags of `arguments`; without `defaults`, only those that are given.

    Raises:
        InputError: One of them is unknown or has a wrong value.
    """
    from jsonargparse import ArgumentError

    known = [option for action in parser._actions if not _is_group(action) for option in action.option_strings]
    flags = [flag for argument in arguments if (flag := argument.partition("=")[0]).startswith("--")]
    if "--config" in known:
        # --trainer, too, is to be left out rather than null
        optional = {action.dest for action in parser._actions if action.default is None} - {"trainer"}
        expected = {action.dest: _expected(action) for action in parser._actions if not _is_group(action)}
        for path in _values_of("--config", arguments):
            flags += [f"--{name}" for name in settings_file.names_in(path, expected, optional)]
    for flag in flags:
        # --trainer.KEY takes any key: the Trainer checks it
        if flag not in known and not flag.startswith("--trainer."):
            raise InputError(f"unknown flag {flag}: {_instead(flag, known)}")
    try:
        # whatever JSONARGPARSE_DEFAULT_ENV says: a variable is no flag
        return parser.parse_args(list(arguments), env=False, defaults=defaults)
    except ArgumentError as error:
        raise InputError(_in_our_words(" ".join(str(error).split()), parser)) from error


def _instead(flag: str, known: Sequence[str]) -> str:
    """What to give in place of a flag that is not known."""
    if why := why_absent(flag[2:]) or ("--trainer" in known and refused.why_refused(flag[2:])):
        return why
    # --trainer is no flag without a name of its own
    flags = [option for option in known if option not in ("-h", "--help", "--trainer")]
    near = [option for option in flags if option.endswith("." + flag[2:])]
    near = near or difflib.get_close_matches(flag, flags, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "see --help"
    if not near and "--trainer" in known:
        hint += "; for an argument of Lightning's Trainer give --trainer.NAME"
    return hint


def _expected(action: "Action") -> str:
    """What is to be given for a flag."""
    return " or ".join(words_of(getattr(action, "_typehint", None))) or "a value"


def _in_our_words(error: str, parser: "ArgumentParser") -> str:
    """Jsonargparse's message for a value of the wrong type, without Python's names; any other as it is."""
    parts = re.fullmatch(r'Parser key "(\S+)": .+?( Given value type: .+?)?\.? (Got|Given) value: ?(.*)', error)
    if parts is None:
        return f"{error}; see --help"
    flag, value = parts[1], parts[4] or "(nothing)"
    expected = {action.dest: _expected(action) for action in parser._actions}
    return f"--{flag} {value} is not valid: give {expected.get(flag, 'another')}"


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Puts the settings of `--recipe NAME` before all others, which then overrule them.

    With a --max_epochs and no --max_steps, a recipe's own max_steps does not count.

    Raises:
        InputError: There is no such recipe.
    """
    name = value_of("--recipe", arguments)
    if name is None:
        return list(arguments)
    path = settings_file.recipe(name)
    given = {flag for flag in ("--max_epochs", "--max_steps") if value_of(flag, arguments) is not None}
    return ["--config", str(path), *(["--max_steps", "-1"] if given == {"--max_epochs"} else []), *arguments]


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The last value of `flag`, before the arguments are parsed; None where it is not given."""
    values = _values_of(flag, arguments)
    return values[-1] if values else None


def _values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    values = []
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            values.append(arguments[i + 1])
        elif argument.startswith(f"{flag}="):
            values.append(argument.partition("=")[2])
    return values


def arguments_in(namespace: "Namespace") -> dict[str, Any]:
    """A parsed group of flags as keyword arguments."""
    return dict(namespace.as_dict())
