"""Does this machine compute the same twice? A run's first steps are computed again, and compared to the bit.

Kernels that add in whatever order they finish, threads that share the work differently, memory or a core that fails: a
step ends with other bits, and a run with other weights. `fit --verify_steps N` looks.
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

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # of so many bytes


class Verification(Callback):
    """Has the first steps of a fit computed twice, ends it where they differ, and says that they do not.

    It is the fit that it would have been: it goes on with what a step's first computation has given.

    Args:
        steps: How many, from where the fit starts or goes on.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts it into our loop."""
        if stage == "fit":
            trainer.fit_loop.epoch_loop.automatic_optimization = VerifiedOptimization(trainer, self._steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says it of a fit that had fewer steps."""
        optimization = trainer.fit_loop.epoch_loop.automatic_optimization
        assert isinstance(optimization, VerifiedOptimization)
        optimization.finish()


class VerifiedOptimization(Optimization):
    """The first steps' forward and backward passes twice, before the optimiser's part; from then on as any others.

    Raises:
        RunError: Two computations differ.
    """

    def __init__(self, trainer: Trainer, steps: int) -> None:
        super().__init__(trainer)
        self._left, self._agreed = steps, 0

    def prepare(self) -> None:
        """Looks whether the steps are plain: none that is verified is."""
        super().prepare()
        self.plain = self.plain and not self._left

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Forward, backward and the update."""
        outputs = super().run(optimizer, batch_idx, kwargs)
        if self._left and not within_step(self.trainer):
            self._left, self._agreed = self._left - 1, self._agreed + 1
            if not self._left:
                self.finish()
                self.prepare()
        return outputs

    def finish(self) -> None:
        """Says which steps agreed, if that has not been said."""
        agreed, self._left, self._agreed = self._agreed, 0, 0
        if agreed and self.trainer.is_global_zero:
            last = self.trainer.global_step
            say(f"steps {last - agreed + 1:,} to {last:,}, computed twice, agree to the bit", 1)

    def _make_closure(self, kwargs: OrderedDict[str, Any], optimizer: Optimizer, batch_idx: int) -> Closure:
        closure = super()._make_closure(kwargs, optimizer, batch_idx)
        if self._left:
            closure.closure = partial(self._twice, closure.closure)  # type: ignore[method-assign]
        return closure

    def _twice(self, compute: Callable[[], ClosureResult]) -> ClosureResult:
        """What `compute`, a forward and a backward pass, gives, if it gives the same again."""
        # DDP sums the first gradients in other portions than all later ones, and three ranks' sums are rounded
        # otherwise: then the second and the third are compared.
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
    """What the passes of a step read and change besides the batch: to go back to, and to compare.

    Args:
        optimization: Whose passes.
        loss: What they have given, if they have.
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
        """Goes back to it."""
        for name, value in self._named_values():
            value.copy_(self._values[name])
        for name, parameter in self._module.named_parameters():
            gradient = self._gradients[name]
            parameter.grad = None if gradient is None else gradient.clone()
        restore_random_states(self._random_states, self._module.device)
        self._module._running_loss = copy.deepcopy(self._running_loss)
        self._zero_grad.load_state_dict(self._zero_grad_counts)

    def parts(self) -> dict[str, Tensor | None]:
        """What is to be the same once more, by its name."""
        gradients = {f"the gradient of {name}": gradient for name, gradient in self._gradients.items()}
        return {"the loss": self._loss, **self._values, **gradients}

    def _named_values(self) -> list[tuple[str, Tensor]]:
        """Weights and buffers."""
        return [*self._module.named_parameters(), *self._module.named_buffers()]


def _compare(first: _State, second: _State, step: int) -> None:
    """Raises a RunError where two computations of a step differ."""
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
    """Whether two tensors of one shape have the same bits: NaN is NaN, and -0 is not 0."""
    if a is None or b is None:
        return a is b
    return torch.equal(a.view(INTEGERS[a.itemsize]), b.view(INTEGERS[b.itemsize]))


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    """The largest difference; infinite where one of them is not there."""
    if a is None or b is None:
        return float("inf")
    return (a.cpu().double() - b.cpu().double()).abs().max().item()  # which an Apple GPU has not got
