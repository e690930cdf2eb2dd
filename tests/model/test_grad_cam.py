import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cifar_lightning.model.grad_cam import grad_cam
from cifar_lightning.model.networks import NETWORKS, build


class Late(nn.Module):
    """A network whose last convolution of a map is registered first, and whose output is changed in place."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Conv2d(4, 5, 3), nn.Conv2d(3, 4, 3)
        self.pooled = nn.Conv2d(5, 5, 1)
        self.head = nn.Linear(5, 10)

    def forward(self, x):
        x = F.relu(self.last(F.relu(self.first(x))), inplace=True)
        return self.head(self.pooled(F.adaptive_avg_pool2d(x, 1)).flatten(1))


def test_the_maps_equal_the_definition():
    """The maps of a batch equal the definition, computed image by image with the gradient of the whole network."""
    torch.manual_seed(0)
    net, images, classes = Late().double(), torch.randn(6, 3, 12, 12).double(), torch.tensor([3, 1, 4, 1, 5, 9])
    maps = grad_cam(net, images, classes)
    assert maps.shape == (6, 8, 8)
    for image, label, found in zip(images, classes, maps, strict=True):
        features = net.last(F.relu(net.first(image[None])))
        features.retain_grad()
        net.head(net.pooled(F.adaptive_avg_pool2d(F.relu(features), 1)).flatten(1))[0, label].backward()
        weights = features.grad[0].mean((1, 2))
        evidence = (weights[:, None, None] * features[0].detach()).sum(0).clamp(min=0)
        expected = evidence / evidence.max() if evidence.max() > 0 else evidence
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    assert maps.flatten(1).amax(1).tolist() == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_network_has_maps_and_is_left_unchanged(name, dtype):
    net = build(name, 10, None).to(dtype).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    images = torch.randn(2, 3, 32, 32, dtype=dtype)
    expected = net(images)
    maps = grad_cam(net, images, torch.tensor([0, 1]))
    assert maps.dtype == torch.float32
    assert 0 <= maps.min() <= maps.max() <= 1
    assert not maps.requires_grad
    assert torch.is_grad_enabled()
    assert torch.equal(net(images), expected)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_network_without_a_convolution_has_no_maps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    assert grad_cam(net, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])) is None
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 10, 1), nn.Flatten())  # a single position is not a map
    assert grad_cam(pooled, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])) is None
