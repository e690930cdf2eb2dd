"""The last layer: from features to logits that can be told apart."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Linear):
    """A linear layer that computes in float32 at least in an evaluation, in whatever precision the features come.

    In bfloat16, of eight binary digits, one image in 250 would have two classes of the very same highest logit.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(N, out_features)` of features `(N, in_features)`."""
        if self.training:
            return super().forward(features)
        exact = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            bias = self.bias.to(exact) if self.bias is not None else None
            return F.linear(features.to(exact), self.weight.to(exact), bias)
