"""A data module whose arguments are attributes that can be set, as users and Lightning's tuner do."""

import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from lightning.pytorch import LightningDataModule

from cifar_lightning.arguments import typed
from cifar_lightning.data.absent import TRANSFORMS, WHY
from cifar_lightning.data.ranges import check_ranges
from cifar_lightning.errors import InputError
from cifar_lightning.files import absolute

PATHS = ("data_dir", "mirror", "train_labels")


class SettableDataModule(LightningDataModule):
    """A data module whose arguments are also attributes and, except transforms, in `hparams`, which checkpoints save.

    Both can be set: everything that depends on arguments gets them from `_follow`, which notices changes. The value of
    an attribute is checked when it is set; if it is refused, the attribute keeps its old value.

    Attributes:
        signature: Signature of the constructor.
        arguments: Names of the arguments, in order.
        nothing_else: Whether setting an attribute that only other people's data modules have raises an error that
            explains why.
    """

    signature: ClassVar[inspect.Signature] = inspect.Signature()
    arguments: ClassVar[tuple[str, ...]] = ()
    nothing_else: bool = False

    def _keep(self, arguments: Mapping[str, Any]) -> None:
        """Takes the initial values: all arguments that the constructor was given."""
        for name in self.arguments:  # which a subclass may have set before it called this constructor
            self.__dict__.pop(name, None)
        arguments = self._plain(arguments)
        self.__dict__.update({name: arguments[name] for name in TRANSFORMS})  # code, which checkpoints do not hold
        rest = {name: arguments[name] for name in (*self.arguments, *arguments) if name not in TRANSFORMS}
        # Not to the logger: Lightning stops a fit if the LightningModule has, for example, a `batch_size` of its own
        # with another value.
        self.save_hyperparameters(rest, logger=False)
        self._followed: dict[str, Any] = {}
        self._follow()

    def _follow(self) -> dict[str, Any]:
        """Returns the current values of all arguments; if some have changed, has `_take_up` discard what used them.

        Raises:
            InputError: An argument has been set to an invalid value.
        """
        now = self._plain({name: self._home(name)[name] for name in self.arguments})
        self.hparams.update({name: now[name] for name in self.arguments if name not in TRANSFORMS})
        if changed := {name for name in now if not self._followed or now[name] != self._followed[name]}:
            check_ranges(now)
            self._take_up(now, changed)
            self._followed = now
        return now

    def _take_up(self, arguments: Mapping[str, Any], changed: set[str]) -> None:
        """Discards what was made from arguments that have changed since."""

    def _plain(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments in the right types, as checkpoints save them: weights_only refuses a Path in one."""
        plain = typed(arguments, self.signature)
        paths = {name: absolute(plain[name]) for name in PATHS if plain[name] is not None}
        seed = _global_seed() if plain["seed"] is None else plain["seed"]
        return {**plain, **paths, "seed": seed, "device": str(plain["device"])}

    def _home(self, name: str) -> Any:
        return self.__dict__ if name in TRANSFORMS else self.hparams

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Declares what `settable` makes. A real `__getattr__` would hide which attribute a property lacks."""

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
            raise InputError(f"{name} is not an argument of {type(self).__name__}: {WHY[name]}")
        elif name == "trainer" and type(value).__module__.startswith("pytorch_lightning."):
            raise InputError(
                f"the Trainer is pytorch_lightning's, which does not take {type(self).__name__}: import it from "
                "lightning.pytorch, or pass data.train_dataloader() and data.val_dataloader() in place of data"
            )
        else:
            super().__setattr__(name, value)

    def __iter__(self) -> NoReturn:
        """Explains what to iterate over, also to pytorch_lightning's Trainer, which takes this class for a loader."""
        raise InputError(
            f"{type(self).__name__} is not a loader: iterate over data.train_dataloader(); if this is a Trainer of "
            "pytorch_lightning, import it from lightning.pytorch, or pass data.train_dataloader() in place of data"
        )

    def __repr__(self) -> str:
        """Returns the class and its arguments; Lightning's version would ask the loaders for what a DataLoader has."""
        transforms = {name: value for name in TRANSFORMS if (value := self.__dict__[name]) is not None}
        return f"{type(self).__name__}({', '.join(f'{n}={x!r}' for n, x in {**self.hparams, **transforms}.items())})"

    __str__ = __repr__


Module = TypeVar("Module", bound=SettableDataModule)


def settable(kind: type[Module]) -> type[Module]:
    """Makes the arguments of a data module's constructor its attributes, which Python looks up like any others."""
    kind.signature = inspect.signature(kind)
    kind.arguments = tuple(kind.signature.parameters)
    for name in kind.arguments:
        if name not in TRANSFORMS:
            setattr(kind, name, _Argument(name))
    return kind


class _Argument:
    """A descriptor of an argument's value. A subclass that sets it before it calls the constructor loses that value."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, module: SettableDataModule | None, kind: type) -> Any:
        if module is None:
            return self
        if "_hparams" not in module.__dict__:
            raise AttributeError(f"{kind.__name__} has no {self._name} yet: call super().__init__() first")
        return module.hparams[self._name]


def _global_seed() -> int:
    """Returns the seed of `lightning.seed_everything`, which keeps it in the environment, or 0 if there is none."""
    given = os.environ.get("PL_GLOBAL_SEED", "0")
    try:
        return int(given)
    except ValueError as error:
        raise InputError(f"PL_GLOBAL_SEED {given!r} is not a whole number: set it to one, or pass seed") from error
