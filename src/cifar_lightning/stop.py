"""The request to stop: raised by run/signals.py, and looked at by whatever takes long, between two of its parts."""

from cifar_lightning.errors import Stopped

requested = 0  # number of the signal that asks this process to stop; 0: none has


def raise_if_requested() -> None:
    """Raises `Stopped` where this process is asked to stop."""
    if requested:
        raise Stopped(requested)
