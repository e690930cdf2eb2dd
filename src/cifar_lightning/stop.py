"""The request to stop: set by run/signals.py, and checked between the parts of whatever takes long."""

from cifar_lightning.errors import Stopped

requested = 0  # the number of the signal that asked this process to stop; 0 if none has


def raise_if_requested() -> None:
    """Raises `Stopped` if this process has been asked to stop."""
    if requested:
        raise Stopped(requested)
