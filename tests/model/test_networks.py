import pytest
import torch
import torch.distributed as dist
from conftest import compiles
from torch import nn
from torch.backends import nnpack
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cifar_lightning import InputError, LitNet, ResNet18, TutorialNet, fake_data
from cifar_lightning.model.compilation import compile_network
from cifar_lightning.model.networks import NETWORKS, SpeedNet, build, speed
from cifar_lightning.model.networks.beside import images_beside, put_beside
from cifar_lightning.model.networks.conv import Conv2d
from cifar_lightning.model.networks.gelu import gelu
from cifar_lightning.model.networks.norm import BatchNorm2d
from cifar_lightning.model.networks.pool import max_pool
from cifar_lightning.model.networks.speed import PooledConv2d


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("num_classes", [10, 7])
def test_logits(name, num_classes):
    torch.manual_seed(0)
    net = build(name, num_classes, 8).eval()
    x = torch.randn(3, 3, 32, 32)
    logits = net(x)
    assert logits.shape == (3, num_classes)
    # logits depend neither on the image's place in the batch nor on the memory format
    torch.testing.assert_close(net(x[2:]), logits[2:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last)), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_weight_has_a_gradient(name):
    torch.manual_seed(0)
    net = build(name, 10, 8)
    F.cross_entropy(net(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    without = [n for n, weight in net.named_parameters() if weight.requires_grad and not weight.grad.any()]
    assert without == []


@pytest.mark.parametrize("size", [32, 24, 20, 16])
@pytest.mark.parametrize("convs", [2, 3])
def test_images_side_by_side_are_trained_on_as_each_alone(monkeypatch, size, convs):
    torch.manual_seed(0)
    x, labels = torch.randn(6, 3, size, size, dtype=torch.float64), torch.arange(6)
    nets = [SpeedNet(width=8, convs=convs).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, beside in zip(nets, (1, 3), strict=True):
        monkeypatch.setattr(speed, "images_beside", lambda x, n=beside: n)
        F.cross_entropy(net(x), labels).backward()
    for (name, one), other in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict())  # the running statistics
    nets[1].eval()
    monkeypatch.setattr(speed, "images_beside", pytest.fail)  # an evaluation takes each image alone
    nets[1](x)


class Blurred(speed.SpeedBlock):
    """A user's block in which a pixel depends on its neighbours."""

    def forward(self, x):
        return F.avg_pool2d(super().forward(x), 3, 1, 1)


class Centred(BatchNorm2d):
    """A user's subclass of our norm, which subtracts the mean of each map."""

    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


def blurred(module, given, x):
    """Blurs the output of a norm, as a hook of a user's."""
    return F.avg_pool2d(x, 3, 1, 1) if isinstance(module, BatchNorm2d) else None


@pytest.mark.parametrize("own", ["norm", "block", "subclass", "hook", "pre-hook", "hook of all"])
def test_images_are_not_laid_side_by_side_if_a_module_is_a_users(monkeypatch, request, own):
    torch.manual_seed(0)
    net = SpeedNet(width=8).double()
    if own == "norm":
        net.blocks[1].norms[1] = torch.nn.GroupNorm(1, 32).double()
    elif own == "block":
        net.blocks[2] = Blurred(32, 32, 2, 0.4).double()
    elif own == "subclass":
        net.blocks[1].norms[0] = Centred(32).double()
    elif own == "hook":
        net.blocks[2].norms[1].register_forward_hook(blurred)
    elif own == "hook of all":
        request.addfinalizer(torch.nn.modules.module.register_module_forward_hook(blurred).remove)
    else:
        net.blocks[2].register_forward_pre_hook(lambda module, given: (F.avg_pool2d(given[0], 3, 1, 1), *given[1:]))
    x = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    alone = net(x)
    monkeypatch.setattr(speed, "images_beside", lambda x: 3)
    torch.testing.assert_close(net(x), alone)


@pytest.mark.parametrize("when", ["full_backward_pre_hook", "full_backward_hook"])
def test_gradients_are_not_side_by_side_if_a_users_hook_sees_them(monkeypatch, when):
    monkeypatch.setattr(speed, "images_beside", lambda x: 3)
    net, seen = SpeedNet(width=8), []
    for module in (net.blocks[1], net.blocks[1].norms[1]):
        getattr(module, f"register_{when}")(lambda module, *grads: seen.append(grads[-1][0].shape))
    net(torch.randn(6, 3, 32, 32)).sum().backward()
    assert seen == [(6, 32, 7, 7)] * 2


@pytest.mark.parametrize(
    ("native", "dtype", "images", "beside"),
    [
        (True, torch.bfloat16, 1000, 25),
        (True, torch.bfloat16, 512, 32),
        (True, torch.bfloat16, 37, 1),
        (True, torch.float32, 1000, 1),
        (False, torch.bfloat16, 1000, 1),
    ],
)
def test_how_many_images_are_laid_side_by_side(monkeypatch, native, dtype, images, beside):
    monkeypatch.setattr("cifar_lightning.model.networks.beside.multiplies_bfloat16", lambda: native)
    assert images_beside(torch.zeros(images, 1, 1, 1, dtype=dtype)) == beside


def test_the_gradient_of_images_side_by_side_is_in_channels_last():
    x = torch.randn(6, 8, 7, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    (grad,) = torch.autograd.grad((put_beside(x, 3) * torch.randn(2, 8, 7, 21)).sum(), x)
    assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_and_its_gradient_equal_torchs(dtype):
    torch.manual_seed(0)
    x = torch.randn(4, 8, 5, 5, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(x)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    results = [function(x) for function, x in zip((gelu, F.gelu), xs, strict=True)]
    for result in results:
        (result * weights).sum().backward()
    tolerance = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(*results, **tolerance)
    torch.testing.assert_close(xs[0].grad, xs[1].grad, **tolerance)
    assert results[0].is_contiguous(memory_format=torch.channels_last)


def count(net):
    return sum(weight.numel() for weight in net.parameters())


def test_the_tutorial_network():
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


def test_width_widens_the_first_convolution_as_in_the_tutorials_exercise():
    net = build("tutorial", 10, 12)
    assert net.conv1.weight.shape == (12, 3, 5, 5)
    assert net.conv2.weight.shape == (16, 12, 5, 5)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(4, 3, 32, 32),
        torch.randn(1, 3, 32, 32),
        torch.randn(20, 3, 9, 7),
        torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last),
        torch.randn(3, 32, 32),
        torch.randn(0, 3, 32, 32),
        torch.randn(4, 3, 32, 32, dtype=torch.float64),
    ],
    ids=["4 images", "1 image", "small", "channels_last", "unbatched", "none", "float64"],
)
def test_a_convolution_computes_the_same_without_onednn(cpu_settings, x):
    torch.manual_seed(0)
    conv = Conv2d(3, 6, 5).to(x.dtype)
    results = []
    for onednn in (True, False):
        images = x.clone().requires_grad_()
        torch.backends.mkldnn.enabled = onednn
        y = conv(images)
        results.append([y, *torch.autograd.grad(y.square().sum() / 1000, [images, conv.weight, conv.bias])])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_a_convolution_in_bfloat16_is_computed_in_bfloat16(cpu_settings):
    for onednn in (True, False):
        torch.backends.mkldnn.enabled = onednn
        with torch.autocast("cpu", torch.bfloat16):
            assert Conv2d(3, 6, 5)(torch.zeros(4, 3, 32, 32)).dtype == torch.bfloat16


@pytest.mark.skipif(not nnpack.is_available(), reason="this torch has no NNPACK")
def test_a_convolution_of_a_few_images_uses_nnpack(cpu_settings):
    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.add(func.name())
            return func(*args, **kwargs or {})

    names = set()
    torch.backends.mkldnn.enabled = False
    with Operations():
        Conv2d(3, 6, 5)(torch.zeros(4, 3, 32, 32))
    assert "aten::_nnpack_spatial_convolution" in names


def test_resnet18_is_the_variant_for_small_images():
    net = ResNet18()
    assert count(net) == 11_173_962  # as in https://github.com/kuangliu/pytorch-cifar
    x = torch.zeros(2, 3, 32, 32)
    sizes = [tuple((x := layer(x)).shape[1:]) for layer in net]
    assert sizes[:3] == [(64, 32, 32)] * 3  # no pooling in the stem
    assert (512, 4, 4) in sizes


# Moments are sums of 480,000 products, in an order that depends on the processor. Rounding, some hundreds of float64's
# 2e-16, is 1,500 times as large in the weakest direction: 3e-11 on an AMD EPYC, below 1e-11 on an Intel Xeon.
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_the_first_layer_whitens(dtype, rounding):
    """The first layer's outputs are uncorrelated, have unit variance, and occur with both signs."""
    data = fake_data(500, normalization="dataset")
    net, images = SpeedNet().to(dtype), data.sample(500)
    net.init_from_images(images)
    images = images.to(dtype)
    outputs = net.whiten(images).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(outputs[12:], -outputs[:12])
    second_moments = outputs[:12] @ outputs[:12].T / outputs.shape[1]
    strong = second_moments.diag() > 0.9  # the weakest directions, mostly noise, are damped
    assert strong.sum() >= 6
    assert second_moments.diag().max() < 1.001
    assert (second_moments - second_moments.diag().diag()).abs().max() < rounding


def test_the_first_filters_do_not_depend_on_the_signs_that_lapack_returns(monkeypatch):
    """The signs depend on the number of threads, so that a run on two devices once began from a different network."""
    images, nets = fake_data(100, normalization="dataset").sample(100), [SpeedNet(), SpeedNet()]
    nets[0].init_from_images(images)
    eigh = torch.linalg.eigh
    signs = torch.tensor([1, -1] * 6)
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: (eigh(matrix)[0], eigh(matrix)[1] * signs))
    nets[1].init_from_images(images)
    torch.testing.assert_close(nets[1].whiten.weight, nets[0].whiten.weight)


def test_batch_norms_have_the_momentum_of_the_speed_runs():
    for name, momentum in (("speed", 0.4), ("speed96", 0.1)):
        assert {m.momentum for m in build(name, 10, 8).modules() if isinstance(m, nn.BatchNorm2d)} == {momentum}


@pytest.fixture
def twin(monkeypatch):
    """Pretends that the world size is 2, and that the other rank has the same images."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.add_(x.flip(0)))


def test_a_batch_norm_over_two_ranks_equals_torchs_over_all_their_images(twin):
    images = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    ours, theirs = BatchNorm2d(4, dtype=torch.float64), nn.BatchNorm2d(4, dtype=torch.float64)
    for norm in (ours, theirs):
        nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(0))
    half, both = images.clone().requires_grad_(), torch.cat([images, images]).requires_grad_()
    weights = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    outputs = ours(half), theirs(both)
    (outputs[0] * weights).sum().backward()
    (outputs[1] * torch.cat([weights, weights])).sum().backward()
    torch.testing.assert_close(outputs[0], outputs[1][:6])
    torch.testing.assert_close(half.grad, both.grad[:6])
    for name, parameter in ours.named_parameters():  # the ranks' gradients add up, and the other's is the same
        torch.testing.assert_close(2 * parameter.grad, theirs.get_parameter(name).grad)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(name))


def test_a_constant_channel_stays_finite_on_several_ranks(twin):
    """A variance that is a difference of rounded means could be below zero for a constant channel."""
    constants = torch.linspace(0.1, 1.7, 100).view(1, 100, 1, 1).expand(8, 100, 15, 15)
    assert BatchNorm2d(100, eps=1e-12)(constants).isfinite().all()


def test_a_batch_norm_over_ranks_is_precise_if_the_mean_is_large(monkeypatch):
    """The mean of the squares minus the square of the mean would be 4 % off here."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    images = torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 300
    images[1] += 2  # the two ranks have different means
    others = torch.stack(torch.var_mean(images[1], (0, 2, 3), correction=0))
    monkeypatch.setattr(dist, "all_reduce", lambda x: x[1].copy_(others))
    theirs = nn.BatchNorm2d(3, dtype=torch.float64)(images.flatten(0, 1).double())[:8]
    torch.testing.assert_close(BatchNorm2d(3)(images[0]).double(), theirs, atol=1e-4, rtol=0)


def test_ddp_does_not_send_the_statistics_of_our_batch_norms():
    """All ranks have the same statistics in our batch norms, but each its own in torch's, which DDP sends."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNorm2d(4), nn.BatchNorm2d(4), nn.Flatten())
    kept = set(LitNet(net)._ddp_params_and_buffers_to_ignore)
    assert kept == {"net.1.running_mean", "net.1.running_var", "net.1.num_batches_tracked"}
    assert kept < dict(LitNet(net).named_buffers()).keys()


def test_a_batch_norm_without_momentum_averages_over_all_batches_and_ranks(twin):
    """torch.optim.swa_utils.update_bn and Lightning's StochasticWeightAveraging set the momentum to None."""
    norm, batches = BatchNorm2d(4, momentum=None), torch.randn(3, 8, 4, 5, 5)
    for batch in batches:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1, 3, 4)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["mixed", "true"])
def test_logits_of_a_half_precision_evaluation_can_be_told_apart(name, dtype):
    net, images = build(name, 10, 16).eval(), torch.randn(200, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is None), torch.no_grad():
        logits = net.to(dtype)(images.to(dtype))
    assert logits.dtype == torch.float32
    first, second = logits.topk(2).values.T
    assert (first > second).all()
    assert (logits != logits.bfloat16()).float().mean() > 0.9
    net.train()
    with torch.autocast("cpu", torch.bfloat16):  # in training they stay in bfloat16
        assert net(images.to(dtype)).dtype == torch.bfloat16


def test_unknown_names_and_wrong_widths_are_refused():
    with pytest.raises(InputError, match="unknown net 'vgg': choose from tutorial, normed, resnet18"):
        build("vgg", 10)
    with pytest.raises(InputError, match="width 0: the number of channels must be at least 1"):
        build("tutorial", 10, 0)


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (9, 8), (8, 9)])
def test_a_convolution_before_a_pooling_computes_only_what_is_pooled(size):
    torch.manual_seed(0)
    conv, x = PooledConv2d(4, 8), torch.randn(3, 4, *size)
    features, whole = conv(x), F.conv2d(x, conv.weight, padding=1)
    assert features.shape[2:] == (8, 8)
    torch.testing.assert_close(F.max_pool2d(features, 2), F.max_pool2d(whole, 2))


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_pooling_and_its_gradient_equal_torchs(monkeypatch, dtype):
    """If pixels are equal, the first of them gets the gradient, as in torch."""
    torch.manual_seed(0)
    x = torch.randn(4, 8, 6, 10).round().to(dtype, memory_format=torch.channels_last)

    def pooled(pool):
        images = x.clone().requires_grad_()
        y = pool(images)
        y.backward(torch.arange(y.numel()).view_as(y).to(dtype))
        return y, images.grad

    expected, compiled = pooled(max_pool), pooled(torch.compile(max_pool, dynamic=False))
    torch.testing.assert_close(compiled, expected, rtol=0, atol=0)
    assert "MaxPool2D" in expected[0].grad_fn.name()
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    ours = pooled(max_pool)
    assert ours[0].grad_fn.name() == "_MaxPoolBackward"
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert ours[1].is_contiguous(memory_format=torch.channels_last)
    assert max_pool(x[:, :, 1:]).shape == (4, 8, 2, 5)


@compiles
def test_compiled_gradients_in_bfloat16_are_close_to_the_eager_ones():
    """Compiled code does not round values that eager code rounds, so that a rounded maximum may equal none of them."""
    torch.manual_seed(0)
    net = SpeedNet(width=8, growth=())  # one block: all kinds of layers, and a third of the code to compile
    images = torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last)
    net.init_from_images(images)

    def gradient():
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            net(images).logsumexp(1).mean().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad])

    eager = gradient()
    compile_network(net, "default")
    compiled = gradient()
    assert torch.cosine_similarity(eager, compiled, dim=0) > 0.98
