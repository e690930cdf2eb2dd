"""A LitNet as a program that runs without this package: from any number of uint8 images to probabilities."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cifar_lightning.data.transforms import scale_and_shift
from cifar_lightning.errors import InputError
from cifar_lightning.model.lit_net import LitNet
from cifar_lightning.model.views import mean_logits

OUTPUTS = ("logits", "probabilities")


def plain_copy(net: nn.Module) -> nn.Module:
    """Copies `net` for use on its own: in evaluation mode, on the CPU, in float32, with contiguous weights."""
    net = copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
    for tensor in chain(net.parameters(), net.buffers()):
        tensor.data = tensor.data.contiguous()  # ours are channels_last, which safetensors rejects and torch warns of
    return net


class Program(nn.Module):
    """A module that does to a batch what `LitNet.predict` does.

    Args:
        model: The model, whose network is copied.
        input: uint8, or float for images that are already normalised.
        views: The views to average over: see LitNet's `test_views`.

    Raises:
        InputError: The input is uint8, and the model does not know how to normalise it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: LitNet, input: str, views: str) -> None:
        super().__init__()
        self.net, self.views, self.input = plain_copy(model.net), views, input
        if input == "uint8":
            if model.preprocessing is None:
                raise InputError(
                    "input uint8 must be normalised, and this model does not know how: "
                    "use input float, or LitNet(preprocessing=data.preprocessing)"
                )
            mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.preprocessing.mean, model.preprocessing.std))
            for name, factor in zip(("scale", "shift"), scale_and_shift(mean, std), strict=True):
                self.register_buffer(name, factor)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns logits and probabilities, each `(N, classes)`, of `images`, `(N, 3, size, size)`."""
        if self.input == "uint8":
            images = images.float() * self.scale + self.shift
        logits = mean_logits(self.net, images, self.views)
        return dict(zip(OUTPUTS, (logits, logits.softmax(1)), strict=True))


def program_of(model: LitNet, input: str, views: str) -> ExportedProgram:
    """Traces a model's Program with torch.export, for any number of images of the model's size.

    Raises:
        InputError: See Program.
    """
    program = Program(model, input, views)
    size = model.preprocessing.size if model.preprocessing else 32
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8 if input == "uint8" else torch.float32)
    with torch.no_grad():
        traced = torch.export.export(program, (images,), dynamic_shapes={"images": {0: Dim("batch", min=1)}})
    for module in traced.graph_module.modules():  # the main graph, and those inside context managers
        if isinstance(module, torch.fx.GraphModule):
            for node in list(module.graph.nodes):
                node.meta.pop("stack_trace", None)  # has paths of this machine: the file would differ on others
                if node.target is torch.ops.aten._assert_tensor_metadata.default:
                    module.graph.erase_node(node)  # from a cast: it would tie the program to this device
            module.recompile()
    return traced
