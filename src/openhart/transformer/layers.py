"""Norms and MLPs of the transformer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.transformer.functions import ScaledRMSNorm


class RMSNorm(nn.RMSNorm):
    """RMSNorm (arXiv 1910.07467), optionally followed by a modulation.

    Its weight is cast to the dtype of its input, so that autocast stays fast. The modulation is part of the
    call, so that hooks that bring an offloaded weight see every use of it.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """norm(x), or norm(x)·(1 + scale) + shift.

        Args:
            x: (…, C); with a modulation (B, N, C).
            scale: (B, 1, C), or None.
            shift: (B, 1, C), or None.
        """
        if scale is None or shift is None:
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        if x.dtype == scale.dtype == torch.float32:
            modulated: Tensor = ScaledRMSNorm.apply(x, self.weight * (1 + scale), shift, self.eps)
            return modulated
        normed = F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        return normed * (1 + scale) + shift


class LayerNorm(nn.LayerNorm):
    """LayerNorm without a weight, optionally followed by a modulation."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps, elementwise_affine=False)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """norm(x), or norm(x)·(1 + scale) + shift, as :class:`RMSNorm`."""
        normed = super().forward(x)
        return normed if scale is None or shift is None else normed * (1 + scale) + shift


def build_norm(kind: str, width: int, eps: float) -> nn.Module:
    """``rms``: RMSNorm with a weight, as in HART; ``layer``: LayerNorm without a weight, as in VAR.

    Raises:
        UserError: another name.
    """
    if kind == "rms":
        return RMSNorm(width, eps=eps)
    if kind == "layer":
        return LayerNorm(width, eps=eps)
    raise UserError(f"norm must be rms or layer, got {kind!r}")


def build_mlp(kind: str, width: int, ratio: float, dropout: float = 0.0) -> nn.Module:
    """``swiglu`` as in HART (Llama's), ``gelu`` as in VAR (its tanh form), ``gelu_exact`` as in ViT.

    Args:
        kind: one of these names.
        width: outer width.
        ratio: hidden width over outer width, before SwiGLU's rounding.
        dropout: of the hidden channels behind a GELU, in training mode.

    Raises:
        UserError: another name.
    """
    if kind == "swiglu":
        return SwiGLU(width, (int(width * ratio * 2 / 3) + 255) // 256 * 256)
    if kind in ("gelu", "gelu_exact"):
        hidden = round(width * ratio)
        activation: nn.Module = nn.GELU(approximate="tanh" if kind == "gelu" else "none")
        if dropout:
            activation = nn.Sequential(activation, nn.Dropout(dropout))
        return nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))
    raise UserError(f"mlp must be swiglu, gelu or gelu_exact, got {kind!r}")


class SwiGLU(nn.Module):
    """Gated MLP without biases (arXiv 2002.05202, equation 6), (…, width) → (…, width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        mapped: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return mapped
