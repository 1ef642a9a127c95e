"""Modulation: gates, scales and shifts that the blocks take from the pooled context."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TableModulation(nn.Module):
    """A learned table plus the pooled context, (B, C) → (B, 6, C), as in HART."""

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
        mapped: Tensor = self.linear(F.silu(pooled))
        parts: Tensor = mapped.unflatten(-1, (self.parts, -1))
        return parts


class OffsetModulation(nn.Module):
    """A learned offset to the modulation that all blocks share, (B, 6, C) → (B, 6, C), as in VAR-d36."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, shared: Tensor) -> Tensor:
        """(B, 6, C) → (B, 6, C)."""
        return self.offset + shared


def build_modulations(kind: str, depth: int, width: int) -> nn.ModuleList | None:
    """One modulation per block; None for ``none``.

    Args:
        kind: ``table``, ``per_block``, ``shared`` or ``none``.
        depth: number of blocks.
        width: C.
    """
    if kind == "none":
        return None
    if kind == "per_block":
        return nn.ModuleList(LinearModulation(width, 6) for _ in range(depth))
    part = TableModulation if kind == "table" else OffsetModulation
    return nn.ModuleList(part(width) for _ in range(depth))


def pool_context(tokens: Tensor, mask: Tensor, how: str) -> Tensor:
    """Pool a context to one vector, (B, T, C) and (B, T) → (B, C).

    Args:
        tokens: embedded context.
        mask: true at real positions.
        how: ``mean`` over real positions, or ``max`` over all positions, padding included, as HART does.
    """
    if how == "max":
        return tokens.amax(dim=1)
    weights = mask.to(tokens.dtype)
    return (tokens * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp_min(1)
