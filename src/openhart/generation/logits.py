"""From logits to codes: guidance, truncation, random draw, and Gumbel-softmax mixtures of codes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from openhart.randomness import Draws, draw_codes, gumbel_noise


def guide(logits: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): uncond + w · (cond − uncond).

    Args:
        logits: (2·B, N, V), the conditional half first.
        guidance_scale: w.

    Returns:
        (B, N, V).
    """
    conditional, unconditional = logits.chunk(2)
    return guidance_scale * conditional - (guidance_scale - 1) * unconditional


def truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Keep the ``top_k`` most likely codes, and of these the nucleus of probability mass ``top_p``.

    Args:
        logits: (B, N, V).
        top_k: number of codes; 0 keeps all.
        top_p: probability mass; 0 and 1 keep all.

    Returns:
        (B, N, V), −∞ for every code that must not be drawn.
    """
    size = logits.shape[-1]
    count = min(top_k, size) if top_k else size
    nucleus = 0 < top_p < 1
    if count == size and not nucleus:
        return logits
    values, indices = logits.topk(count, dim=-1, sorted=nucleus)
    if nucleus:
        probabilities = values.softmax(dim=-1)
        mass_before = probabilities.cumsum(dim=-1) - probabilities
        outside = mass_before >= top_p
        outside[..., 0] = False
        values = values.masked_fill(outside, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, indices, values)


def sample_codes(logits: Tensor, generators: Sequence[torch.Generator], top_k: int, top_p: float) -> Tensor:
    """Truncate logits (B, N, V) and draw one code per token, (B, N)."""
    return draw_codes(truncate(logits, top_k, top_p), generators)


def gumbel_softmax(logits: Tensor, progress: float, draws: Draws) -> Tensor:
    """Nearly one-hot weights over the codes, (B, N, V), sharper at later scales (HART and VAR).

    Args:
        logits: (B, N, V).
        progress: k/(K − 1) of the scale, from 0 to 1.
        draws: the source of uniform noise.
    """
    temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
    noise = gumbel_noise(draws.uniform(logits.shape[1:]).to(logits.device))
    return ((logits * (1 + progress) + noise) / temperature).softmax(dim=-1)
