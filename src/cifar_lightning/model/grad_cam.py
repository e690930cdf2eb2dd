"""Grad-CAM: where in an image a network's last convolution finds evidence for a class."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def grad_cam(net: nn.Module, images: Tensor, classes: Tensor) -> Tensor | None:
    """Maps the evidence for one class in each image (https://arxiv.org/abs/1610.02391, section 3).

    Each channel of the last convolution is weighted by the mean gradient of the class's logit over that channel. Only
    positive evidence is kept, scaled by its maximum in the image. The gradient goes back no further than that
    convolution.

    Args:
        net: A network from images to logits, in evaluation mode; it is not changed.
        images: Normalised, `(N, 3, H, W)`, on the network's device and in its precision.
        classes: The class to explain in each image, int64 `(N,)`.

    Returns:
        float32 `(N, h, w)`, from 0 to 1, on the CPU; None if no convolution of the network has a spatial output.
    """
    last = _last_convolution(net, images[:1])
    if last is None:
        return None
    features: list[Tensor] = []

    def begin_here(module: nn.Module, given: object, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # autograd records nothing before this layer
        features.append(output.detach().requires_grad_())
        return features[-1].clone()  # later layers may change it in place

    with torch.no_grad(), _hooked([last], begin_here):
        scores = net(images).gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, features[-1])
        weights = gradient.float().mean((2, 3), keepdim=True)
        evidence = (weights * features[-1].float()).sum(1).relu()
        strongest = evidence.flatten(1).amax(1)[:, None, None]
        return torch.where(strongest > 0, evidence / strongest, 0.0).detach().cpu()


def _last_convolution(net: nn.Module, image: Tensor) -> nn.Module | None:
    """Finds the convolution that runs last, among those whose output has more than one pixel."""
    ran: list[nn.Module] = []

    def note(module: nn.Module, given: object, output: Tensor) -> None:
        if output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            ran.append(module)

    with torch.no_grad(), _hooked([module for module in net.modules() if isinstance(module, nn.Conv2d)], note):
        net(image)
    return ran[-1] if ran else None


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Callable[..., Tensor | None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
