"""Preparing a context: everything that all scales derive from it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openhart.errors import UserError
from openhart.scales import Scales
from openhart.sinusoids import SinusoidalEmbedding
from openhart.transformer.context import PreparedContext
from openhart.transformer.modulation import pool_context
from openhart.transformer.rotary import rotations

if TYPE_CHECKING:
    from openhart.transformer.model import HartTransformer


def prepare_context(
    model: "HartTransformer", context: Tensor, mask: Tensor, scales: Scales | None = None
) -> PreparedContext:
    """As :meth:`openhart.transformer.model.HartTransformer.prepare`, inside a call of the transformer."""
    config = model.config
    expected = (config.context_tokens, config.context_dim)
    if context.ndim != 3 or context.shape[1] not in (1, expected[0]) or context.shape[2] != expected[1]:
        raise UserError(f"context must be (batch, {expected[0]}, {expected[1]}), got {tuple(context.shape)}")
    scales = model.check_scales(scales)
    tokens = model.context_embed(model.context_rms(context.to(model.dtype)))
    pooled = pool_context(tokens, mask, config.pooling)
    if model.shared_modulation is not None:
        pooled = model.shared_modulation(pooled)
    modulations = None
    if model.modulations is not None:
        modulations = [part(pooled) for part in model.modulations]
    index = torch.arange(len(scales), device=tokens.device)
    sinusoidal = isinstance(model.level_embed, SinusoidalEmbedding)
    levels = model.level_embed(index, tokens.dtype) if sinusoidal else model.level_embed(index)
    head = model.head_modulation(tokens.amax(dim=1))
    rotary = None
    if model.position_embed is None:
        rotary = rotations(mask, scales, config.width // config.num_heads)
    return PreparedContext(tokens, modulations, head, levels, rotary)
