"""A .safetensors file: a network's weights by their names in it, and one entry of metadata that tells of the rest."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cifar_lightning.errors import InputError
from cifar_lightning.files import readable

KEY = "cifar_lightning"  # of our metadata in any file: readers may find others' beside it


def weights_file(weights: Mapping[str, Any], metadata: str) -> bytes:
    """The file's contents: equal for equal arguments, for safetensors has no order for several entries of metadata.

    Raises:
        InputError: One of the weights is no tensor, as what a module's `get_extra_state` gives may be.
    """
    from safetensors.torch import save

    if other := next((name for name, value in weights.items() if not isinstance(value, Tensor)), None):
        raise InputError(f"the network keeps {other}, which is no tensor, as a file of weights has: give onnx or pt2")

    return save({name: tensor.clone() for name, tensor in weights.items()}, {KEY: metadata})  # clones share no memory


def read_weights(path: Path) -> dict[str, Any]:
    """What a checkpoint of the same network would hold, of what is in a file that `export` has written.

    Of another's file, which tells nothing of the network, the weights alone.

    Raises:
        InputError: It is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with readable(Path(path)), open(path, "rb"):  # which safetensors would call damaged
            pass
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read: it is damaged or no safetensors; give another") from error
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
            f"checkpoint {path} does not say what network its weights are of: give one that export wrote"
        ) from error


def of_lit_net(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Weights of a network by their `names` in a LitNet, whether or not it, DDP or torch.compile has named them.

    A network's own names may begin so, too, as those of one that wraps another do. Where none are its, as good as any.
    """
    for prefix in ("", "module.", "_orig_mod.", "net."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        found = {f"net.{name}": weight for name, weight in weights.items()}
        if found.keys() == set(names):
            break
    return found
