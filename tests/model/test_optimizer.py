"""Tests the optimiser against SGD's formula, in every dtype that a precision gives the weights."""

import pytest
import torch

from cifar_lightning.model.optimizer import build_optimizer

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01
SGD = {"lr": LR, "momentum": MOMENTUM, "nesterov": False, "weight_decay": DECAY, "muon_lr": None, "muon_momentum": 0.6}


@pytest.mark.parametrize("head_lr", [None, LR], ids=["one rate", "rates of their own"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_follow_sgds_formula(dtype, head_lr):
    draws = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=draws).to(dtype)) for shape in ((10, 100), (10,))]
    exact = [weight.detach().double().clone() for weight in weights]
    momenta = [torch.zeros_like(weight) for weight in exact]
    optimizer = build_optimizer(weights, {**SGD, "bias_lr": None, "head_lr": head_lr})
    for _ in range(5):
        for weight, value, momentum in zip(weights, exact, momenta, strict=True):
            weight.grad = torch.randn(weight.shape, generator=draws).to(dtype)
            momentum.mul_(MOMENTUM).add_(weight.grad.double() + DECAY * value)
            value.sub_(LR * momentum)
        optimizer.step()
    rounding = 20 * torch.finfo(dtype).eps  # five steps with values up to about 10
    for weight, value, momentum in zip(weights, exact, momenta, strict=True):
        torch.testing.assert_close(weight.double(), value.detach(), rtol=0, atol=rounding)
        kept = optimizer.state[weight]["momentum_buffer"]
        torch.testing.assert_close(kept.double(), momentum.detach(), rtol=0, atol=rounding)


@pytest.mark.parametrize(("dtype", "fused"), [(torch.float32, True), (torch.bfloat16, False)])
def test_a_checkpoint_from_another_device_does_not_choose_the_kernel(dtype, fused):
    optimizer = build_optimizer(
        [torch.nn.Parameter(torch.zeros(1, dtype=dtype))], {**SGD, "bias_lr": None, "head_lr": None}
    )
    theirs = optimizer.state_dict()
    theirs["param_groups"][0] |= {"fused": not fused, "lr": 7.0}
    optimizer.load_state_dict(theirs)
    assert (optimizer.param_groups[0]["fused"], optimizer.param_groups[0]["lr"]) == (fused, 7.0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("resumed", [False, True])
def test_weights_thawed_during_a_fit_are_updated_by_sgds_formula(momentum, resumed):
    """torch 2.14's fused kernel raises a TypeError if some weights of a group get their first gradient later."""
    early, late = (torch.nn.Parameter(torch.ones(n), requires_grad=n == 3) for n in (3, 2))

    def optimizer():
        settings = {**SGD, "bias_lr": None, "head_lr": None, "lr": 0.5, "momentum": momentum, "weight_decay": 0.0}
        return build_optimizer([early, late], settings)

    sgd = optimizer()
    early.grad = torch.ones(3)
    sgd.step()
    if resumed:
        state, sgd = sgd.state_dict(), optimizer()
        sgd.load_state_dict(state)
    late.requires_grad_()
    for _ in range(2):
        early.grad, late.grad = torch.ones(3), torch.ones(2)
        sgd.step()
    velocity = [1.0, 1.0 + momentum, 1.0 + momentum + momentum**2]
    torch.testing.assert_close(early.detach(), torch.full((3,), 1 - 0.5 * sum(velocity)))
    torch.testing.assert_close(late.detach(), torch.full((2,), 1 - 0.5 * sum(velocity[:2])))
