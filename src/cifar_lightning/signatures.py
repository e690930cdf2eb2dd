"""Reads the arguments of this package's functions and classes, and of Lightning's Trainer, without importing them.

A script's flags are the arguments of the function that it calls, and importing that function takes seconds (torch,
Lightning). Neither the help nor an error about a flag should wait for them.
"""

import ast
import importlib.util
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Union, get_args, get_origin

# What annotations and defaults may refer to, besides constants that the module imports. Objects such as networks are
# `str` here: a flag can only name them.
NAMES = {
    "Any": Any,
    "Callable": Callable,
    "Callbacks": Any,
    "LitNet": str,
    "Literal": Literal,
    "Loggers": str,
    "Mapping": Mapping,
    "Path": Path,
    "Preprocessing": Any,
    "Sequence": Sequence,
    "nn": SimpleNamespace(Module=str),
    "torch": SimpleNamespace(device=str),
}


# What a value of each type must be, as a user is told, by the type's name.
WORDS = {
    "int": ["a whole number"],
    "float": ["a number"],
    "bool": ["true", "false"],
    "str": ["text (in quotes)"],
    "Path": ["a path"],
    "dict": ["--trainer.KEY VALUE"],
    "list": ["a list of whole numbers, such as [16,24]"],
    "Sequence": ["a list of names"],
    "Callable": ["a callable that takes images"],
    "Module": ["a torch.nn.Module"],
    "Preprocessing": ["a Preprocessing"],
    "Mapping": ["a dictionary"],
}
IN_ORDER = [word for words in WORDS.values() for word in words]


def words_of(kind: Any) -> list[str]:
    """Says what may be given for a value of an annotated type, other than None."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return [str(choice) for choice in get_args(kind)]
    if origin in (Union, types.UnionType):
        words = dict.fromkeys(word for part in get_args(kind) for word in words_of(part))
        if "a number" in words:
            words.pop("a whole number", None)
        # In our own order: typing returns Union[int, float] as Union[float, int] if the process made that one first.
        return sorted(words, key=lambda word: IN_ORDER.index(word) if word in IN_ORDER else len(IN_ORDER))
    return WORDS.get(getattr(origin, "__name__", ""), [])


def refusal(name: str, value: object, kind: Any) -> str:
    """Makes the message for a value that is not of an annotated type."""
    words, parts = words_of(kind), get_args(kind) if get_origin(kind) in (Union, types.UnionType) else [kind]
    if all(get_origin(part) is Literal for part in parts if part is not types.NoneType):
        return f"unknown {name} {value}: choose from {', '.join(words)}"
    *others, last = words or ["of another type"]
    return f"{name} {value}: must be {', '.join(others)}{' or ' if others else ''}{last}"


def signature_of(module: str, name: str) -> Callable[..., None]:
    """Makes an empty function with the arguments, types, defaults and docstring of a function or class.

    Args:
        module: A module of this package, such as "run.training".
        name: The name of the function, or of the class, whose constructor is read.
    """
    tree = ast.parse(Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
    doc = ast.Expr(ast.Constant(ast.get_docstring(found)))
    if isinstance(found, ast.ClassDef):
        (found,) = (node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        del found.args.args[0]  # self
    found.name, found.body, found.decorator_list, found.returns = name, [doc], [], None
    stub = ast.fix_missing_locations(ast.Module([found], []))
    names: dict[str, Any] = {**NAMES, "__name__": __package__}  # jsonargparse would import the module itself
    for default in (d for d in found.args.defaults if isinstance(d, ast.Name)):
        names[default.id] = _imported(tree, default.id)
    exec(compile(stub, f"signature of {name}", "exec"), names)
    function: Callable[..., None] = names[name]
    return function


def trainer_arguments() -> list[str]:
    """Returns the names of the arguments of Lightning's Trainer."""
    found = importlib.util.find_spec("lightning")
    source = Path(str(found and found.origin)).parent / "pytorch" / "trainer" / "trainer.py"
    nodes = ast.walk(ast.parse(source.read_text("utf-8")))
    init = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return [argument.arg for argument in (*init.args.args[1:], *init.args.kwonlyargs)]


def _imported(tree: ast.Module, name: str) -> Any:
    """Imports the constant `name` from the module that `tree` imports it from, which must be quick to import."""
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    (home,) = (node.module for node in imports if name in [alias.name for alias in node.names])
    return getattr(importlib.import_module(str(home)), name)
