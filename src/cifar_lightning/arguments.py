"""The arguments that a constructor was given."""

import inspect
from types import FrameType
from typing import Any


def arguments_of(module: object) -> dict[str, Any]:
    """The arguments with which `module` is being made: of the constructor that calls this, and of its subclasses'.

    Where both have one of the same name it is the former's, which is what it works with. Lightning's
    `save_hyperparameters` takes the latter, and also those of any other module whose constructor makes this one.
    """
    arguments: dict[str, Any] = {}
    frame: FrameType | None = inspect.currentframe()
    frame = frame and frame.f_back
    while frame is not None:
        names, _, keywords, values = inspect.getargvalues(frame)
        if frame.f_code.co_name != "__init__" or not names or values[names[0]] is not module:
            break
        given = {name: values[name] for name in names[1:]} | (values[keywords] if keywords else {})
        arguments = {**given, **arguments}
        frame = frame.f_back
    return arguments
