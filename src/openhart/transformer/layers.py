"""Norms, MLPs and modulation of the transformer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.transformer.functions import ScaledRMSNorm


class RMSNorm(nn.RMSNorm):
    """RMSNorm (arXiv 1910.07467) whose weight follows its input's dtype, so that autocast stays fast."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def build_norm(kind: str, width: int, eps: float) -> nn.Module:
    """``rms``: RMSNorm with a weight, as HART; ``layer``: LayerNorm without one, as VAR.

    Raises:
        UserError: another name.
    """
    if kind == "rms":
        return RMSNorm(width, eps=eps)
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps, elementwise_affine=False)
    raise UserError(f"norm must be rms or layer, got {kind!r}")


def modulate(norm: nn.Module, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """norm(x)·(1 + scale) + shift, (B, N, C) with scale and shift (B, 1, C) → (B, N, C)."""
    if (
        isinstance(norm, RMSNorm)
        and norm.weight.device == x.device  # a weight that is offloaded waits for the norm's own forward
        and x.dtype == scale.dtype == torch.float32
    ):
        return ScaledRMSNorm.apply(x, norm.weight * (1 + scale), shift, norm.eps)
    return norm(x) * (1 + scale) + shift


def build_mlp(kind: str, width: int, ratio: float) -> nn.Module:
    """``swiglu`` as HART (Llama's), ``gelu`` as VAR (GPT-2's).

    Raises:
        UserError: another name.
    """
    if kind == "swiglu":
        return SwiGLU(width, (int(width * ratio * 2 / 3) + 255) // 256 * 256)
    if kind == "gelu":
        hidden = round(width * ratio)
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
    raise UserError(f"mlp must be swiglu or gelu, got {kind!r}")


class SwiGLU(nn.Module):
    """Gated MLP without biases (arXiv 2002.05202, equation 6), (…, width) → (…, width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class TableModulation(nn.Module):
    """A learned table plus the pooled context, (B, C) → (B, 6, C); HART's choice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, C) → (B, 6, C)."""
        return self.table + pooled[:, None]


class LinearModulation(nn.Module):
    """SiLU, then a linear map of the pooled context, (B, C) → (B, parts, C); AdaLN of DiT
    (arXiv 2212.09748, section 3.2)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, C) → (B, parts, C)."""
        return self.linear(F.silu(pooled)).unflatten(-1, (self.parts, -1))


class OffsetModulation(nn.Module):
    """A learned offset to what all blocks share, (B, 6, C) → (B, 6, C); VAR's d36."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, shared: Tensor) -> Tensor:
        """(B, 6, C) → (B, 6, C)."""
        return self.offset + shared


def pool_context(tokens: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector for a context, (B, T, C) and (B, T) → (B, C).

    Args:
        tokens: embedded context.
        mask: real positions.
        how: ``mean`` over real positions, or ``max`` over all, padding included, as HART does it.
    """
    if how == "max":
        return tokens.amax(dim=1)
    weights = mask.to(tokens.dtype)
    return (tokens * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp_min(1)
