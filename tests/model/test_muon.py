import copy

import pytest
import torch
from lightning import Trainer

from cifar_lightning import LitNet, fake_data
from cifar_lightning.model import muon
from cifar_lightning.model.muon import SGDWithMuon, orthogonal


@pytest.mark.parametrize("shape", [(2, 8, 40), (2, 40, 8)])
def test_orthogonal_keeps_the_directions_and_evens_their_lengths(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    result = orthogonal(matrices, steps=5)
    for matrix, update in zip(matrices, result, strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        lengths = u.T @ update @ v.T
        assert lengths.diag().min() > 0.5
        assert lengths.diag().max() < 1.5
        assert (lengths - lengths.diag().diag()).abs().max() < 1e-4


def test_the_groups_without_muon_step_as_torchs_sgd():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    optimizers = (
        SGDWithMuon([{"params": list(ours.parameters())}], **options),
        torch.optim.SGD(theirs.parameters(), **options),
    )
    for _ in range(3):
        x = torch.randn(4, 5)
        for net, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for weight, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def test_a_filter_bank_is_scaled_before_it_steps():
    torch.manual_seed(0)
    bank = torch.nn.Parameter(torch.randn(6, 3, 3, 3))
    optimizer = SGDWithMuon([{"params": [bank], "muon": True, "momentum": 0.0}], lr=0.0)
    bank.grad = torch.randn_like(bank)
    optimizer.step()
    assert bank.norm().item() == pytest.approx(6**0.5, rel=1e-5)  # a sum of 162 squares in float32; about 13 before


def test_a_filter_bank_of_zeros_can_be_trained():
    """The last filters of a residual branch often begin as zeros, and Muon can train them."""
    weight = torch.nn.Parameter(torch.zeros(4, 3, 2, 2))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    SGDWithMuon([{"params": [weight], "muon": True}], lr=0.1).step()
    assert 0 < weight.norm() < 1


def test_two_steps_of_muon_equal_the_formula():
    """The formula is from https://kellerjordan.github.io/posts/muon/, with the 94 % speed run's renormalisation."""
    torch.manual_seed(0)
    banks = [torch.nn.Parameter(torch.randn(6, 3, 3, 3)), torch.nn.Parameter(torch.randn(40, 3, 1, 1))]
    expected = [bank.detach().clone() for bank in banks]
    optimizer = SGDWithMuon([{"params": banks, "muon": True, "momentum": 0.6}], lr=0.1)
    buffers = [torch.zeros_like(bank) for bank in banks]
    for _ in range(2):
        grads = [torch.randn_like(bank) for bank in banks]
        for bank, grad in zip(banks, grads, strict=True):
            bank.grad = grad.clone()
        optimizer.step()
        for weight, buffer, grad in zip(expected, buffers, grads, strict=True):
            buffer.mul_(0.6).add_(grad)
            x = (grad + 0.6 * buffer).flatten(1)  # Nesterov momentum
            x /= x.norm()
            for _ in range(3):
                x = 3.4445 * x + (-4.7750 * x @ x.T + 2.0315 * x @ x.T @ x @ x.T) @ x
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.sub_(0.1 * x.view_as(weight))
    for bank, weight in zip(banks, expected, strict=True):
        torch.testing.assert_close(bank.detach(), weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_updates_are_orthogonalised_in_the_precision_of_the_training(monkeypatch, precision, dtype):
    made, muons = [], muon.orthogonal
    monkeypatch.setattr(muon, "orthogonal", lambda banks: made.append(banks.dtype) or muons(banks))
    fit = Trainer(
        max_steps=1, precision=precision, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    net = LitNet(net="speed54", width=4, muon_lr=0.1)
    fit.fit(net, fake_data(20))
    assert set(made) == {dtype}
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_a_deep_copy_of_the_optimiser_takes_the_same_steps():
    torch.manual_seed(0)
    bank = torch.nn.Parameter(torch.randn(4, 3, 2, 2))
    optimizer = SGDWithMuon([{"params": [bank], "muon": True}], 0.1, dtype=torch.bfloat16)
    copied = copy.deepcopy(optimizer)
    (other,) = copied.param_groups[0]["params"]
    for weight, stepping in ((bank, optimizer), (other, copied)):
        weight.grad = torch.ones_like(weight)
        stepping.step()
    assert torch.equal(bank, other)


def test_banks_of_several_shapes_can_be_computed_together(monkeypatch):
    """On a GPU all banks are computed together, and the zeros around the smaller ones change nothing."""
    torch.manual_seed(0)
    shapes = [(6, 3, 3, 3), (40, 3, 1, 1), (8, 6, 3, 3), (6, 3, 3, 3)]
    weights, grads = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    stepped = []
    for together in (False, True):
        monkeypatch.setattr("cifar_lightning.model.muon._together", lambda param, together=together: together)
        banks = [torch.nn.Parameter(weight.clone(memory_format=torch.channels_last)) for weight in weights]
        optimizer = SGDWithMuon([{"params": banks, "muon": True, "momentum": 0.6}], lr=0.1)
        for bank, grad in zip(banks, grads, strict=True):
            bank.grad = grad.clone(memory_format=torch.channels_last)
        optimizer.step()
        stepped.append([bank.detach() for bank in banks])
    torch.testing.assert_close(*stepped)
