"""A .safetensors file: a network's weights by their names in the network, and everything else in one metadata entry."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cifar_lightning.errors import InputError
from cifar_lightning.files import readable
from cifar_lightning.model.checkpoint import uncompiled

KEY = "cifar_lightning"  # of our metadata, in files of every format: a file may also hold other programs' entries


def weights_file(weights: Mapping[str, Any], metadata: str) -> bytes:
    """Returns the file's contents, equal for equal arguments: safetensors would not keep several entries in order.

    Raises:
        InputError: One of the weights is not a tensor, for example what a module's `get_extra_state` returns.
    """
    from safetensors.torch import save

    if other := next((name for name, value in weights.items() if not isinstance(value, Tensor)), None):
        raise InputError(
            f"the network keeps {other}, which is not a tensor, so a file of weights cannot hold it: use onnx or pt2"
        )

    return save({name: tensor.clone() for name, tensor in weights.items()}, {KEY: metadata})  # clones share no memory


def read_weights(path: Path) -> dict[str, Any]:
    """Reads a file that `export` has written, and returns its contents in the form of a checkpoint.

    From a file of another program, which says nothing of the network, it returns only the weights.

    Raises:
        InputError: The file cannot be read, or is not of safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with readable(Path(path)), open(path, "rb"):  # safetensors would call a file damaged that it may not open
            pass
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # `file` is not a dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read: it is damaged or not safetensors; use another") from error
    if metadata is None:
        return weights
    try:
        facts = json.loads(metadata)
        arguments = {**facts["model"], "classes": facts["classes"], "test_views": facts["test_views"]}
        size = facts["image_size"]
        arguments["preprocessing"] = size and {"mean": facts["mean"], "std": facts["std"], "size": size}
        return {
            "state_dict": {f"net.{name}": weight for name, weight in weights.items()},
            "hyper_parameters": arguments,
            "global_step": facts.get("step", 0),
            "facts": facts,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint {path} does not say which network its weights are for: use one that export wrote"
        ) from error


def of_lit_net(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Renames a network's weights to their `names` in a LitNet, without the prefixes of DDP, torch.compile and LitNet.

    It removes no more prefixes than it must: a network's own names may begin like them, as in one that wraps another.
    If the names do not fit in any way, it returns the last attempt.
    """
    weights = {uncompiled(name): weight for name, weight in weights.items()}
    wanted = {uncompiled(name) for name in names}
    for prefix in ("", "module.", "net."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        found = {f"net.{name}": weight for name, weight in weights.items()}
        if found.keys() == wanted:
            break
    return found
