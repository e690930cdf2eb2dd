"""Flags from typed functions, in our own words: their help, and what is wrong with them."""

import difflib
import re
import shutil
import sys
from argparse import Action
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse._actions import _ActionConfigLoad

from cifar_lightning import settings_file
from cifar_lightning.errors import InputError
from cifar_lightning.run import refused
from cifar_lightning.signatures import refusal, words_of

EXAMPLE = "trainer.gradient_clip_val"  # of the settings that only the Trainer knows


class _Formatter(DefaultHelpFormatter):
    """Our own layout of the help: the docstring as it is, then a line or two per flag, with its default at the end."""

    unsaid = "-"  # the prefix of flags whose default is not said

    def __init__(self, prog: str) -> None:
        width = shutil.get_terminal_size().columns - 2 if sys.stdout.isatty() else 100
        super().__init__(prog, max_help_position=32, width=width)  # type: ignore[no-untyped-call]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text.rstrip()

    def add_argument(self, action: Action) -> None:
        if not _is_group(action):
            super().add_argument(action)

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        name = (self._get_type_str(action) or "").replace(", ", "|").replace(" | ", "|")
        name = name.removeprefix("Union[").removesuffix("]" * name.startswith("Union[")).removesuffix("|null")
        if "list[" in name:
            return "[INT,…]"
        if "Literal[" in name:
            return "{" + ",".join(re.findall(r"'([\w-]+)'", name)) + "}"
        return "DICT" if "dict[" in name else name.upper()

    def _get_help_string(self, action: Action) -> str:
        help_ = action.help or ""
        has_none = action.default in (None, "==SUPPRESS==", []) or action.dest.startswith(self.unsaid)
        return help_ if has_none else f"{help_.rstrip('.')} [%(default)s]"


def new_parser(usage: str, doc: str | None, elsewhere: str = "-", folder: str = "scripts") -> ArgumentParser:
    """Makes a parser whose help opens with the script's docstring, in its own layout, then has a line or two per flag.

    Args:
        usage: The command's name, and how it is called.
        doc: The command's docstring, whose examples begin with "cifar-lightning NAME".
        elsewhere: The prefix of flags that default to a run's values, not to those of the signature.
        folder: The script's folder in a checkout.
    """

    class Formatter(_Formatter):
        unsaid = elsewhere

    name, called = usage.partition(" ")[0], Path(sys.argv[0]).stem
    installed, program = f"cifar-lightning {name}", f"python {folder}/{name}.py" if called == name else None
    return ArgumentParser(
        prog=program or installed,
        usage=usage.replace(name, program or installed, 1),
        description=(doc or "").replace(installed, program or installed),
        formatter_class=Formatter,
        exit_on_error=False,
        print_config=None,  # a run writes its config.yaml
    )


def _is_group(action: Action) -> bool:
    """Whether this is `--data` or `--model`, which take a settings file for one group: --config does so for all."""
    return isinstance(action, _ActionConfigLoad)


def add_net(parser: ArgumentParser) -> None:
    """Adds --model.net to a command that reads a checkpoint, which may be of a user's own network."""
    doc = "import path of your own network, if the checkpoint is of one: package.module:Net"
    parser.add_argument("--model.net", type=str, default=None, help=doc)


def parse(parser: ArgumentParser, arguments: Sequence[str], defaults: bool = True) -> Namespace:
    """Parses the flags in `arguments`; without `defaults`, returns only those that are given.

    Raises:
        InputError: One of them is unknown or has a wrong value.
    """
    known = [option for action in parser._actions if not _is_group(action) for option in action.option_strings]
    flags = [flag for argument in arguments if (flag := argument.partition("=")[0]).startswith("--")]
    where = dict.fromkeys(flags, "")  # where each flag is given: on the command line, or in a file
    files: list[str] = []
    if "--config" in known:
        optional = {action.dest for action in parser._actions if action.default is None}
        expected = {action.dest: _expected(action) for action in parser._actions if not _is_group(action)}
        if "trainer" in expected:  # a group too, whose settings the Trainer checks
            expected[EXAMPLE] = "a number"
            optional.add(EXAMPLE)
        files = _values_of("--config", arguments)
        for path in files:
            for name in settings_file.names_in(path, expected, optional):
                where.setdefault(f"--{name}", f" in {path}")
    for flag, place in where.items():
        # --trainer.KEY takes any key: the Trainer checks it
        if flag not in known and not flag.startswith("--trainer."):
            raise InputError(f"unknown flag {flag}{place}: {_instead(flag, known)}")
    try:
        # Environment variables are no flags, even if JSONARGPARSE_DEFAULT_ENV is set.
        return parser.parse_args(list(arguments), env=False, defaults=defaults)
    except ArgumentError as error:
        said = " ".join(str(error).split())
        place = next((f" in {path}" for path in files if _is_wrong(path, said, parser)), "")
        raise InputError(_in_our_words(said, parser, place)) from error


def _is_wrong(path: str, error: str, parser: ArgumentParser) -> bool:
    """Whether jsonargparse has found that error in this file for --config."""
    try:
        parser.parse_args(["--config", path], env=False, defaults=False)
    except ArgumentError as alone:
        return " ".join(str(alone).split()) == error
    return False


def _instead(flag: str, known: Sequence[str]) -> str:
    """Says what to give in place of an unknown flag."""
    if why := refused.why_absent(flag[2:]):
        return why
    of_fit = "--trainer" in known
    # --trainer is no flag without a .NAME
    flags = [option for option in known if option not in ("-h", "--help", "--trainer")]
    if of_fit:
        flags += [f"--trainer.{name}" for name in refused.trainer_settings() if f"--{name}" not in known]
    name = flag[2:].rpartition(".")[2]
    name = refused.NAMED.get(name, name)
    if same := [option for option in flags if option == f"--{name}" or option.endswith(f".{name}")]:
        return f"did you mean {same[0]}?"
    if of_fit and (why := refused.why_refused(name)):
        return why
    if of_group := [option for option in flags if option.startswith(f"{flag}.")]:
        return f"use its settings, such as {', '.join(of_group[:3])}"
    # a name without a group is compared with names without their groups
    spelt = {option[2:] if "." in flag else option[2:].rpartition(".")[2]: option for option in reversed(flags)}
    near = difflib.get_close_matches(flag[2:], spelt, n=1)
    return f"did you mean {spelt[near[0]]}?" if near else "see --help"


def _expected(action: Action) -> str:
    """Says what values a flag takes."""
    return " or ".join(words_of(getattr(action, "_typehint", None))) or "a value"


def _in_our_words(error: str, parser: ArgumentParser, place: str) -> str:
    """Rewords jsonargparse's message for a value of the wrong type, without Python's names; keeps any other message.

    Args:
        error: The message.
        parser: The parser that raised it.
        place: " in FILE", if the value is from a file.
    """
    parts = re.fullmatch(r'Parser key "(\S+)": .+ (?:Got|Given) value: ?(.*)', error)
    if parts is None:
        return f"{error}; see --help"
    flag, value = parts[1], parts[2] or "(nothing)"
    kinds = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    return refusal(f"--{flag}", f"{value}{place}", kinds.get(flag))


def named_in(arguments: Sequence[str]) -> set[str]:
    """Returns the names of the flags, and of settings or groups in files for --config, without parsing values.

    Raises:
        InputError: A file cannot be read, or holds no settings.
    """
    names = {argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")}
    return names.union(*(settings_file.names_in(path, {}, ()) for path in _values_of("--config", arguments)))


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Returns the last value of `flag`, without parsing the arguments; None if the flag is not given."""
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


def arguments_in(namespace: Namespace) -> dict[str, Any]:
    """Converts a parsed group of flags to keyword arguments."""
    return dict(namespace.as_dict())
