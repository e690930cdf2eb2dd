"""Checks whether this machine computes the same result twice: a run's first steps must be bit-identical if repeated.

If kernels add in whatever order they finish, threads share the work differently, or memory or a core fails, a step ends
with other bits, and a run with other weights. `fit --verify_steps N` finds out.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from torch import Tensor
from torch.optim import Optimizer

from cifar_lightning.console import say
from cifar_lightning.errors import RunError
from cifar_lightning.generators import random_states, restore_random_states
from cifar_lightning.run.loop import Optimization, within_step

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their size in bytes


class Verification(Callback):
    """A callback that has a fit's first steps computed twice: it ends the fit if they differ, and says if they agree.

    The result of the fit does not change: it continues from the first computation of each step.

    Args:
        steps: Number of steps to verify, from where the fit starts or resumes.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replaces the optimisation in our loop."""
        if stage == "fit":
            trainer.fit_loop.epoch_loop.automatic_optimization = VerifiedOptimization(trainer, self._steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says which steps agreed, if the fit had fewer steps than were to be verified."""
        optimization = trainer.fit_loop.epoch_loop.automatic_optimization
        assert isinstance(optimization, VerifiedOptimization)
        optimization.finish()


class VerifiedOptimization(Optimization):
    """The optimisation of a step, which in the first steps computes forward and backward pass twice before the update.

    Raises:
        RunError: Two computations of a step differ.
    """

    def __init__(self, trainer: Trainer, steps: int) -> None:
        super().__init__(trainer)
        self._left, self._agreed = steps, 0

    def prepare(self) -> None:
        """Finds out whether the steps are plain: a step that is verified never is."""
        super().prepare()
        self.plain = self.plain and not self._left

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Computes the passes and the update, and counts the steps that agreed."""
        outputs = super().run(optimizer, batch_idx, kwargs)
        if self._left and not within_step(self.trainer):
            self._left, self._agreed = self._left - 1, self._agreed + 1
            if not self._left:
                self.finish()
                self.prepare()
        return outputs

    def finish(self) -> None:
        """Says which steps agreed, if that has not been said yet."""
        agreed, self._left, self._agreed = self._agreed, 0, 0
        if agreed and self.trainer.is_global_zero:
            last = self.trainer.global_step
            say(f"steps {last - agreed + 1:,} to {last:,}, computed twice, agree bit for bit", 1)

    def _make_closure(self, kwargs: OrderedDict[str, Any], optimizer: Optimizer, batch_idx: int) -> Closure:
        closure = super()._make_closure(kwargs, optimizer, batch_idx)
        if self._left:
            closure.closure = partial(self._twice, closure.closure)  # type: ignore[method-assign]
        return closure

    def _twice(self, compute: Callable[[], ClosureResult]) -> ClosureResult:
        """Returns the result of `compute`, a forward and a backward pass, if computing again gives the same."""
        # DDP sums the first gradients in other buckets than all later ones, so that sums over three or more ranks are
        # rounded differently. The first step is therefore computed three times, and the last two results are compared.
        settled = getattr(self.trainer.strategy.model, "_has_rebuilt_buckets", True)
        before, results, after = _State(self), [], []
        for _ in range(2 if settled else 3):
            before.restore()
            results.append(compute())
            after.append(_State(self, results[-1].loss))
        _compare(after[-2], after[-1], self.trainer.global_step + 1)
        after[0].restore()
        return results[0]


class _State:
    """A snapshot of all that a step's passes read and change besides the batch, to restore and to compare.

    Args:
        optimization: The optimisation that runs the passes.
        loss: The loss that the passes have returned, if they have run.
    """

    def __init__(self, optimization: Optimization, loss: Tensor | None = None) -> None:
        self._module: Any = optimization.trainer.lightning_module
        self._zero_grad = optimization.optim_progress.optimizer.zero_grad
        self._loss = loss
        self._values = {name: value.detach().clone() for name, value in self._named_values()}
        self._gradients = {
            name: None if parameter.grad is None else parameter.grad.clone()
            for name, parameter in self._module.named_parameters()
        }
        self._random_states = random_states(self._module.device)
        self._running_loss = copy.deepcopy(self._module._running_loss)
        self._zero_grad_counts = self._zero_grad.state_dict()

    @torch.no_grad()
    def restore(self) -> None:
        """Restores the snapshot."""
        for name, value in self._named_values():
            value.copy_(self._values[name])
        for name, parameter in self._module.named_parameters():
            gradient = self._gradients[name]
            parameter.grad = None if gradient is None else gradient.clone()
        restore_random_states(self._random_states, self._module.device)
        self._module._running_loss = copy.deepcopy(self._running_loss)
        self._zero_grad.load_state_dict(self._zero_grad_counts)

    def parts(self) -> dict[str, Tensor | None]:
        """Returns what must be bit-identical if computed again, by name."""
        gradients = {f"the gradient of {name}": gradient for name, gradient in self._gradients.items()}
        return {"the loss": self._loss, **self._values, **gradients}

    def _named_values(self) -> list[tuple[str, Tensor]]:
        """Returns the weights and buffers by name."""
        return [*self._module.named_parameters(), *self._module.named_buffers()]


def _compare(first: _State, second: _State, step: int) -> None:
    """Raises a RunError if two computations of a step differ."""
    parts, others = first.parts(), second.parts()
    distances = {name: _distance(a, others[name]) for name, a in parts.items() if not _same_bits(a, others[name])}
    if not distances:
        return
    names = list(distances)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise RunError(
        f"step {step:,}, computed twice, differs by up to {max(distances.values()):.1e} in "
        f"{', '.join(names[:3])}{more}: start a new run with --trainer.deterministic true or fewer "
        "threads (OMP_NUM_THREADS), or on another machine"
    )


def _same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors of the same shape are bit-identical: NaN equals NaN, and -0 differs from 0."""
    if a is None or b is None:
        return a is b
    return torch.equal(a.view(INTEGERS[a.itemsize]), b.view(INTEGERS[b.itemsize]))


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    """Returns the largest difference; infinity if one of the tensors is None."""
    if a is None or b is None:
        return float("inf")
    return (a.cpu().double() - b.cpu().double()).abs().max().item()  # an Apple GPU has no float64
