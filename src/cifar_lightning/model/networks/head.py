"""The last layer: from features to logits, precise enough not to tie."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Linear):
    """A linear layer that, in evaluation, computes in float32 or wider, whatever the precision of the features.

    In bfloat16, which has eight binary digits, two classes would tie for the highest logit in one image in 250.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits `(N, out_features)` of features `(N, in_features)`."""
        if self.training:
            return super().forward(features)
        exact = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            bias = self.bias.to(exact) if self.bias is not None else None
            return F.linear(features.to(exact), self.weight.to(exact), bias)
