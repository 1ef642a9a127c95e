"""Class labels → one context token (VAR, arXiv 2404.02905, section 3.2)."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from openhart.checks import Count, Width, checked
from openhart.loading import CheckedLoading


class LabelEncoder(CheckedLoading, ModelMixin, ConfigMixin):
    """A vector a class, and one for no class.

    Args:
        num_classes: classes; the row after them means none.
        dim: D.

    Raises:
        UserError: sizes that are not positive.
    """

    @register_to_config
    @checked
    def __init__(self, num_classes: Count = 1000, dim: Width = 1024) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes + 1, dim)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B,) in 0 … num_classes (the last for none) → context (B, 1, D), mask (B, 1) bool."""
        context = self.embedding(labels)[:, None]
        return context, torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)

    def empty(self, batch: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Context and mask for no class, on a device or where the weights are."""
        device = device or self.embedding.weight.device
        return self(torch.full((batch,), self.config.num_classes, device=device))
