"""What a LitNet reads from a checkpoint besides its weights, and the names of these."""

from collections.abc import Iterable, Mapping
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


def uncompiled(name: str) -> str:
    """Returns the name of a weight without what torch.compile adds to it for each module that it wraps."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def renamed(weights: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """Gives weights the names of a module whose parts are, or are not, compiled as when the weights were saved."""
    here = {uncompiled(name): name for name in names}
    if all(here.get(uncompiled(name), name) == name for name in weights):
        return weights  # with what torch keeps beside them, the versions of the modules
    return {here.get(uncompiled(name), name): weight for name, weight in weights.items()}
