"""Which mode of torch.compile a network is compiled in, if any."""

import os
import shutil
import sysconfig
from pathlib import Path

MODES = ("none", "auto", "default", "reduce-overhead", "max-autotune")
# CUDA graphs give every backward pass the same memory for its gradients, so nothing can be added to them
# (https://github.com/pytorch/pytorch/issues/169545), and DDP has hung and crashed on these modes
# (https://github.com/pytorch/pytorch/issues/140395, https://github.com/pytorch/pytorch/issues/139207).
GRAPH_MODES = ("reduce-overhead", "max-autotune")


def resolve_mode(mode: str, on_gpu: bool, graphs: bool) -> str:
    """What `mode` stands for here: one of torch.compile's, or none.

    Args:
        mode: One of MODES.
        on_gpu: Whether the network is on an NVIDIA GPU.
        graphs: Whether CUDA graphs can be used.
    """
    if mode == "auto":
        mode = "reduce-overhead" if on_gpu and _can_compile() else "none"
    return "default" if mode in GRAPH_MODES and not graphs else mode


def _can_compile() -> bool:
    """Whether there is what Triton builds its launcher with.

    Source: https://github.com/triton-lang/triton/blob/main/python/triton/runtime/build.py
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and Path(sysconfig.get_path("include"), "Python.h").exists()
