"""What other data modules are told and this one is not, and why: for who looks for it."""

_WORKERS = (
    "there are no workers, for the images lie in memory and batches are made in the training process: leave it out"
)

# by the argument's name
WHY = {
    "num_workers": _WORKERS,
    "workers": _WORKERS,
    "persistent_workers": _WORKERS,
    "prefetch_factor": _WORKERS,
    "multiprocessing_context": _WORKERS,
    "pin_memory": "the images lie on the device, and none are copied to it for a batch: leave it out",
    "shuffle": "training images come in a new order in every epoch, and evaluation images in one: leave it out",
    "drop_last": "training batches are always whole, and an evaluation has every image once: leave it out",
    "normalize": "images always are, and data.normalization says by what: give that",
    "download": "what is not there is downloaded: leave it out",
}


def why_absent(name: str) -> str | None:
    """Why there is no such argument, alone or of the group `data`; None where there is no more to say of it."""
    group, _, argument = name.rpartition(".")
    return WHY.get(argument) if group in ("", "data") else None
