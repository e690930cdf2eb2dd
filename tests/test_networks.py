import pytest
import torch
from torch.nn import functional as F

from cifar_lightning import InputError, ResNet18, TutorialNet
from cifar_lightning.networks import NETWORKS, build


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("num_classes", [10, 7])
def test_logits(name, num_classes):
    torch.manual_seed(0)
    net = build(name, num_classes, 8).eval()
    x = torch.randn(3, 3, 32, 32)
    logits = net(x)
    assert logits.shape == (3, num_classes)
    # each image has its own, wherever in the batch it is and however the batch lies in memory
    torch.testing.assert_close(net(x[2:]), logits[2:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last)), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_weight_has_a_gradient(name):
    torch.manual_seed(0)
    net = build(name, 10, 8)
    F.cross_entropy(net(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    without = [n for n, weight in net.named_parameters() if weight.requires_grad and not weight.grad.any()]
    assert without == []


def count(net):
    return sum(weight.numel() for weight in net.parameters())


def test_the_tutorials_network():
    net = TutorialNet()
    shapes = {name: tuple(weight.shape) for name, weight in net.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }
    assert count(net) == 62_006


def test_the_tutorials_exercise_widens_the_first_convolution():
    net = build("tutorial", 10, 12)
    assert net.conv1.weight.shape == (12, 3, 5, 5)
    assert net.conv2.weight.shape == (16, 12, 5, 5)


def test_resnet18_is_the_one_for_small_images():
    net = ResNet18()
    assert count(net) == 11_173_962  # as https://github.com/kuangliu/pytorch-cifar has it
    x = torch.zeros(2, 3, 32, 32)
    sizes = [tuple((x := layer(x)).shape[1:]) for layer in net]
    assert sizes[:3] == [(64, 32, 32)] * 3  # no pooling in the stem
    assert (512, 4, 4) in sizes


def test_mistakes():
    with pytest.raises(InputError, match="net 'vgg' is not known: give one of tutorial, resnet18"):
        build("vgg", 10)
    with pytest.raises(InputError, match="width 0 is less than 1: give a positive number of channels"):
        build("tutorial", 10, 0)
