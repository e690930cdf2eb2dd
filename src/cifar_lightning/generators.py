"""Saves and restores the states of the random number generators of Python, numpy and torch."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Returns the states of all generators, torch's on the CPU and on `device`, as plain values for a checkpoint."""
    states = {
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    }
    for name, module in _of_torch(device).items():  # as text: to read bytes, torch makes Python import a codec
        states[name] = module.get_rng_state().numpy().tobytes().hex()
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Restores the states, except torch's on the device if they were saved on another kind of device."""
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    for name, module in _of_torch(device).items():
        if name in states:
            module.set_rng_state(torch.frombuffer(bytearray.fromhex(states[name]), dtype=torch.uint8))


def _of_torch(device: torch.device) -> dict[str, Any]:
    """The modules with torch's generators, by name: the CPU's, and a GPU's if that is the device."""
    module = getattr(torch, device.type, None)
    return {"torch": torch, **({device.type: module} if hasattr(module, "get_rng_state") else {})}
