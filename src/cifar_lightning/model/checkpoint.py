"""What a LitNet reads from a checkpoint besides its weights."""

from collections.abc import Mapping
from typing import Any

from cifar_lightning.data.preprocessing import NORMALIZATIONS, Preprocessing, preprocessing_of
from cifar_lightning.errors import InputError


def check_network(h: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Raises an InputError if the checkpoint is of a user's own network, but the network to load was built by name."""
    if "net" in h and "net" not in checkpoint.get("hyper_parameters", {"net": None}):
        raise InputError(
            "the checkpoint has the weights of your own network, but not the network itself: "
            "use LitNet.load_from_checkpoint(path, net=...)"
        )


def preprocessing_in(checkpoint: Mapping[str, Any]) -> Preprocessing | None:
    """Reads the preprocessing from a checkpoint; one of an older version has it in the settings of our data module."""
    arguments = checkpoint.get("hyper_parameters", {})
    if "preprocessing" in arguments:  # None: how the images were prepared is not known
        kept = arguments["preprocessing"]
        return Preprocessing(**kept) if isinstance(kept, Mapping) else kept
    data = checkpoint.get("datamodule_hyper_parameters", {})
    if data.get("normalization") in NORMALIZATIONS and "source" in data:
        return preprocessing_of(data["normalization"], data["source"])
    return None
