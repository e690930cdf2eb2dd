"""The generators that random numbers come from, Python's, numpy's and torch's: as they are, and as they were."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Their states, torch's on the CPU and on a device: plain values, which a checkpoint may hold."""
    states = {
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    }
    for name, module in _of_torch(device).items():  # as text: to read bytes, torch has Python import a codec
        states[name] = module.get_rng_state().numpy().tobytes().hex()
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Has them go on from there, but for torch's on a device of another kind than they were taken on."""
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    for name, module in _of_torch(device).items():
        if name in states:
            module.set_rng_state(torch.frombuffer(bytearray.fromhex(states[name]), dtype=torch.uint8))


def _of_torch(device: torch.device) -> dict[str, Any]:
    """What has torch's generators: a GPU has one beside the CPU's."""
    module = getattr(torch, device.type, None)
    return {"torch": torch, **({device.type: module} if hasattr(module, "get_rng_state") else {})}
