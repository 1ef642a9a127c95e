"""Class labels → one context token (VAR, arXiv 2404.02905, section 3.2)."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.safety import SafetensorsOnly


class LabelEncoder(SafetensorsOnly, ModelMixin, ConfigMixin):
    """A vector a class, and one for no class.

    Args:
        num_classes: classes; the row after them means none.
        dim: D.

    Raises:
        UserError: sizes that are not positive.
    """

    @register_to_config
    def __init__(self, num_classes: int = 1000, dim: int = 1024) -> None:
        super().__init__()
        if num_classes < 1 or dim < 1:
            raise UserError(f"num_classes and dim must be positive, got {num_classes} and {dim}")
        self.embedding = nn.Embedding(num_classes + 1, dim)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B,) in 0 … num_classes (the last for none) → context (B, 1, D), mask (B, 1) bool."""
        context = self.embedding(labels)[:, None]
        return context, torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)

    def empty(self, batch: int) -> tuple[Tensor, Tensor]:
        """Context and mask for no class."""
        labels = torch.full((batch,), self.config.num_classes)
        return self(labels.to(self.embedding.weight.device))
