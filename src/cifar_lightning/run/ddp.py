"""Averages gradients over the ranks, also those of layers that a callback freezes or thaws during a fit."""

import gc
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class DDP(DDPStrategy):
    """Lightning's strategy, which wraps the network anew once other parameters have gradients.

    torch's wrapper averages only the gradients of parameters that had one when it was made. A layer thawed later would
    learn from each rank's own images, so the ranks' networks would differ, without an error.
    """

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        self._averaged = _trained(model)
        return super()._setup_model(model)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Computes a step's loss."""
        module = self.lightning_module
        assert module is not None
        if _trained(module) != self._averaged:
            self.model = None
            gc.collect()  # the old wrapper averages gradients until it is gone
            self.model = self._setup_model(module)
        return super().training_step(*args, **kwargs)


def _trained(module: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in module.parameters()]
