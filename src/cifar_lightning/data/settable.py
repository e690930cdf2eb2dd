"""The arguments of a data module as attributes that may be set, as users and Lightning's tuner do."""

import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from lightning.pytorch import LightningDataModule

from cifar_lightning.arguments import typed
from cifar_lightning.data.absent import TRANSFORMS, WHY
from cifar_lightning.data.ranges import check_ranges
from cifar_lightning.errors import InputError
from cifar_lightning.files import absolute

PATHS = ("data_dir", "mirror", "train_labels")


class SettableDataModule(LightningDataModule):
    """A data module whose arguments are attributes, too, and in `hparams`, which checkpoints keep: but for transforms.

    Whichever is set, `_follow` finds it: all that depends on arguments asks that for them. An attribute is checked when
    it is set, and is as it was where its value is refused.

    Attributes:
        signature: The constructor's.
        arguments: Their names, in order.
        nothing_else: Whether it refuses, in words, to be given what data modules of other people's have.
    """

    signature: ClassVar[inspect.Signature] = inspect.Signature()
    arguments: ClassVar[tuple[str, ...]] = ()
    nothing_else: bool = False

    def _keep(self, arguments: Mapping[str, Any]) -> None:
        """Begins with these, all that the constructor has been given."""
        for name in self.arguments:  # what a subclass has set before
            self.__dict__.pop(name, None)
        arguments = self._plain(arguments)
        self.__dict__.update({name: arguments[name] for name in TRANSFORMS})  # code, which no checkpoint holds
        rest = {name: arguments[name] for name in (*self.arguments, *arguments) if name not in TRANSFORMS}
        # not to the logger: Lightning ends a fit whose LightningModule has another `batch_size`, say, among its own
        self.save_hyperparameters(rest, logger=False)
        self._followed: dict[str, Any] = {}
        self._follow()

    def _follow(self) -> dict[str, Any]:
        """All arguments, as they are now.

        Raises:
            InputError: One has been set to what it cannot be.
        """
        now = self._plain({name: self._home(name)[name] for name in self.arguments})
        self.hparams.update({name: now[name] for name in self.arguments if name not in TRANSFORMS})
        if changed := {name for name in now if not self._followed or now[name] != self._followed[name]}:
            check_ranges(now)
            self._take_up(now, changed)
            self._followed = now
        return now

    def _take_up(self, arguments: Mapping[str, Any], changed: set[str]) -> None:
        """Forgets what has been made of those that have changed since."""

    def _plain(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, of the right types, as checkpoints keep them: one with a Path is refused by weights_only."""
        plain = typed(arguments, self.signature)
        paths = {name: absolute(plain[name]) for name in PATHS if plain[name] is not None}
        seed = _global_seed() if plain["seed"] is None else plain["seed"]
        return {**plain, **paths, "seed": seed, "device": str(plain["device"])}

    def _home(self, name: str) -> Any:
        return self.__dict__ if name in TRANSFORMS else self.hparams

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What `settable` makes. Python's own would hide which attribute it is that a property lacks."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.arguments and "_followed" in self.__dict__:
            home = self._home(name)
            before, home[name] = home[name], value
            try:
                self._follow()
            except BaseException:
                home[name] = before
                raise
        elif name in WHY and self.nothing_else:
            raise InputError(f"{name} is no argument of {type(self).__name__}: {WHY[name]}")
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The class and its arguments: Lightning's would ask the loaders for what a DataLoader has."""
        transforms = {name: value for name in TRANSFORMS if (value := self.__dict__[name]) is not None}
        return f"{type(self).__name__}({', '.join(f'{n}={x!r}' for n, x in {**self.hparams, **transforms}.items())})"

    __str__ = __repr__


Module = TypeVar("Module", bound=SettableDataModule)


def settable(kind: type[Module]) -> type[Module]:
    """Has the arguments of a data module's constructor as its attributes, which Python finds as it does others."""
    kind.signature = inspect.signature(kind)
    kind.arguments = tuple(kind.signature.parameters)
    for name in kind.arguments:
        if name not in TRANSFORMS:
            setattr(kind, name, _Argument(name))
    return kind


class _Argument:
    """The value of an argument; not of what a subclass has set under its name before it calls the constructor."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, module: SettableDataModule | None, kind: type) -> Any:
        if module is None:
            return self
        if "_hparams" not in module.__dict__:
            raise AttributeError(f"{kind.__name__} has no {self._name} yet: call super().__init__() first")
        return module.hparams[self._name]


def _global_seed() -> int:
    """That of `lightning.seed_everything`, which keeps it in the environment; else 0."""
    given = os.environ.get("PL_GLOBAL_SEED", "0")
    try:
        return int(given)
    except ValueError as error:
        raise InputError(f"PL_GLOBAL_SEED {given!r} is no whole number: give one, or a seed") from error
