"""A pretended GPU, for machines that have none: tensors that report a GPU as their device but compute on the CPU.

It tests what does not depend on a GPU's arithmetic: that no operation mixes devices, that nothing asks an Apple GPU for
float64, which it lacks, and at which operations the host would wait. torch's own fake tensors hold no values, so a fit
could not run to its end on them.
"""

import warnings
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
import torch.distributed as dist
from lightning.fabric.accelerators import mps
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from waits import INDEXING, must_wait

CPU = torch.device("cpu")
aten = torch.ops.aten
OF_DDP = (aten.mul.out,)  # DDP's, on its buckets, which its C++ code allocates on the CPU


class Pretended(Tensor):
    """Wraps a CPU tensor. torch's C++ code sees it on the CPU, the only device there is; Python sees it on the GPU."""

    gpu = torch.device("cuda", 0)  # the one that this process uses
    tells = False  # whether to warn when the host waits
    device = property(lambda self: self.gpu)
    is_cuda = property(lambda self: self.gpu.type == "cuda")
    is_mps = property(lambda self: self.gpu.type == "mps")
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=CPU, **layout)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} after the end of pretended_gpu()")

    def __repr__(self):
        return f"{type(self).__name__}({self.held})"

    def __format__(self, spec):
        return format(self.item(), spec)

    def __deepcopy__(self, memo):
        copy = Pretended(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            copy._is_param = True
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol):
        return self.held.detach().__reduce_ex__(protocol)

    def to(self, *args, copy=False, **kwargs):
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        moved = self
        if copy or dtype not in (None, self.dtype) or layout is not None:
            options = {"dtype": dtype or self.dtype, "memory_format": layout or torch.preserve_format}
            moved = super().to(**options, copy=copy)
        return ToCPU.apply(moved) if device is not None and device.type == "cpu" else moved

    def cpu(self):
        return self.to(CPU)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self):
        raise TypeError(f"a tensor on {self.gpu} is no array")


class ToCPU(torch.autograd.Function):
    """Copies a tensor to the CPU, and its gradient back to the GPU."""

    @staticmethod
    def forward(ctx, x):
        waits()
        return x.held.clone()

    @staticmethod
    def backward(ctx, grad):
        return Pretended(grad)


def waits():
    """Warns that the host waits, as torch does for an NVIDIA GPU with `torch.cuda.set_sync_debug_mode("warn")`."""
    if Pretended.tells:
        warnings.warn("called a synchronizing operation", stacklevel=2)


class Operations(TorchDispatchMode):
    """Runs each operation on the wrapped CPU tensors, and wraps its results; raises an error if it mixes devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        known = {id(x.held): x for x in leaves if isinstance(x, Pretended)}
        device = kwargs.get("device")
        if not known and (device is None or device.type == "cpu"):
            return func(*args, **kwargs)
        copies = func in (aten.copy_.default, aten._to_copy.default)
        elsewhere = any(isinstance(x, Tensor) and not isinstance(x, Pretended) and x.dim() for x in leaves)
        if device not in (None, CPU, Pretended.gpu, torch.device(Pretended.gpu.type)):
            raise RuntimeError(f"{func}: a tensor on {device}, and this process's are on {Pretended.gpu}")
        indexing = func in INDEXING  # the indices may be on the CPU
        if elsewhere and not (copies or indexing or func in OF_DDP or func.namespace == "c10d"):
            raise RuntimeError(f"{func}: tensors on {Pretended.gpu} and on the CPU")
        kinds = [x.dtype if isinstance(x, Pretended) else x for x in leaves]
        if Pretended.gpu.type == "mps" and any(kind is torch.float64 for kind in kinds):
            raise TypeError(f"{func}: an Apple GPU has no float64")
        if copies:
            stops = elsewhere and not (kwargs.get("non_blocking") or args[2:] == (True,))
        else:
            stops = (indexing and elsewhere) or must_wait(func, args)
        if stops:
            waits()
        if device is not None:
            kwargs = {**kwargs, "device": CPU}
        held = tree_map(lambda x: x.held if isinstance(x, Pretended) else x, (args, kwargs))
        result = func(*held[0], **held[1])
        if func is aten.copy_.default and not isinstance(args[0], Pretended):
            return result
        return tree_map(lambda x: known.get(id(x), Pretended(x)) if isinstance(x, Tensor) else x, result)


def moved(to):
    """Wraps Tensor.to, which would take a pretended tensor for a CPU tensor, and ask CUDA for the index of "cuda"."""

    def given(x):
        if isinstance(x, Pretended):
            return x.device, x.dtype
        named = isinstance(x, str | torch.device) and torch.device(x).type == Pretended.gpu.type
        return (Pretended.gpu if named else x,)

    return lambda self, *args, **kwargs: to(
        self, *(y for x in args for y in given(x)), **{name: given(x)[0] for name, x in kwargs.items()}
    )


def to_tensor(make):
    """Wraps torch.tensor or torch.as_tensor, which would use the real CUDA."""

    def made(data, *, device=None, **options):
        if isinstance(data, Pretended):
            return data.to(device, options.get("dtype"))
        return make(data, **options) if device is None else make(data, **options).to(device)

    return made


def autocast(init):
    """Wraps torch.autocast's constructor: the pretended GPU uses the CPU's autocast, because it computes there."""
    return lambda self, kind, *args, **kwargs: init(
        self, "cpu" if kind == Pretended.gpu.type else kind, *args, **kwargs
    )


@contextmanager
def pretended_gpu(kind="cuda", count=1):
    """A context in which this process sees `count` NVIDIA GPUs (Apple's for mps) and uses one; not for compiled code.

    Tensors are sent to other processes by gloo, as on the CPU.
    """
    generator = {"get_rng_state": lambda *args: torch.get_rng_state(), "set_rng_state": torch.set_rng_state}
    nvidia = {
        **generator,
        "is_available": lambda: True,
        "device_count": lambda: count,
        "empty_cache": lambda: None,
        "_lazy_init": lambda: None,
        "current_device": lambda: Pretended.gpu.index,
        "set_device": lambda device: setattr(Pretended, "gpu", torch.device(device)),
        "Stream": nullcontext,
        "stream": nullcontext,
        "synchronize": lambda *args: waits(),
        "get_device_name": lambda *args: "pretended",
        "get_device_capability": lambda *args: (9, 0),
        "is_bf16_supported": lambda **kwargs: True,
        "set_sync_debug_mode": lambda mode: setattr(Pretended, "tells", mode == "warn"),
    }
    patches = {
        torch: {
            "tensor": to_tensor(torch.tensor),
            "as_tensor": to_tensor(torch.as_tensor),
            # a tensor made in inference mode cannot be wrapped
            "inference_mode": lambda mode=True: torch.no_grad() if mode else torch.enable_grad(),
        },
        dist: {"is_nccl_available": lambda: False},
        Tensor: {"to": moved(Tensor.to)},
        torch.autocast: {"__init__": autocast(torch.autocast.__init__)},
        Pretended: {"gpu": torch.device(kind, 0), "tells": False},
    }
    if kind == "cuda":
        patches[torch.cuda] = nvidia
    else:
        patches[torch.mps], patches[torch.backends.mps] = generator, {"is_available": lambda: True}
        patches[mps.MPSAccelerator] = {"is_available": staticmethod(lambda: True)}
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for owner, names in patches.items():
            for name, value in names.items():
                stack.enter_context(mock.patch.object(owner, name, value))
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter's Python type changes as it moves
        stack.enter_context(Operations())
        yield
