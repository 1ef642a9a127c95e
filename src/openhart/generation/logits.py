"""From logits to codes: guidance, truncation, draw, and the Gumbel-softmax mixture of codes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from openhart.randomness import Draws, draw_codes


def guide(logits: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: (1 + g)·cond − g·uncond of the batch's two halves."""
    conditional, unconditional = logits.chunk(2)
    return (1 + guidance) * conditional - guidance * unconditional


def truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Leave only the ``top_k`` likeliest codes, and of these the nucleus that holds ``top_p``.

    Args:
        logits: (B, N, V).
        top_k: 0 for all.
        top_p: 0 or 1 for all.

    Returns:
        (B, N, V), −∞ where a code must not be drawn.
    """
    size = logits.shape[-1]
    kept = min(top_k, size) if top_k else size
    nucleus = 0 < top_p < 1
    if kept == size and not nucleus:
        return logits
    values, indices = logits.topk(kept, dim=-1, sorted=nucleus)
    if nucleus:
        shares = values.softmax(dim=-1)
        before = shares.cumsum(dim=-1) - shares
        outside = before >= top_p
        outside[..., 0] = False
        values = values.masked_fill(outside, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, indices, values)


def sample_codes(logits: Tensor, generators: Sequence[torch.Generator], top_k: int, top_p: float) -> Tensor:
    """Truncate and draw, (B, N, V) → (B, N)."""
    return draw_codes(truncate(logits, top_k, top_p), generators)


def gumbel_softmax(logits: Tensor, ratio: float, draws: Draws) -> Tensor:
    """Nearly one-hot weights over codes, sharper with each scale (HART's and VAR's smooth mode)."""
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    uniform = draws.uniform(logits.shape[1:]).to(logits.device)
    gumbel = -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()
    return ((logits * (1 + ratio) + gumbel) / temperature).softmax(dim=-1)
