"""The three passes through the blocks: all scales at once, the context, and one scale."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openhart.scales import Scales
from openhart.transformer.attention import Attend, KVCache, block_causal
from openhart.transformer.context import PreparedContext, ScaleContext
from openhart.transformer.output import HartTransformerOutput
from openhart.transformer.prepare import prepare_context
from openhart.transformer.rotary import Rotation, join_rotations, keep_tokens
from openhart.transformer.value_residual import ValueResidual

if TYPE_CHECKING:
    from openhart.transformer.model import HartTransformer

Observe = Callable[[int, Tensor], None]


def all_scales(
    model: "HartTransformer",
    scale_inputs: Tensor,
    prepared: PreparedContext,
    keep: Tensor | None,
    scales: Scales,
    observe: Observe | None,
) -> Tensor:
    """Run the context and all scales under a block-causal mask; for training and evaluation.

    Args:
        model: whose blocks are run.
        scale_inputs: (B, Σ_{k≥2} h_k·w_k, z).
        prepared: from the context.
        keep: (B, h_K·w_K) bool, tokens of the last scale to run, as many in each row; None for all.
        scales: of the code maps.
        observe: called with each block's index and output.

    Returns:
        hidden states of the last context position and of scales 2 … K, (B, L, C).
    """
    lengths = _lengths(model, scales)
    x = _inputs(model, scale_inputs, prepared, lengths)
    rotation = None if prepared.rotations is None else join_rotations(prepared.rotations)
    if keep is not None:
        stay = torch.cat([keep.new_ones(len(x), x.shape[1] - keep.shape[1]), keep], dim=1)
        x = x[stay].unflatten(0, (len(x), -1))
        rotation = None if rotation is None else keep_tokens(rotation, stay)
        lengths[-1] = x.shape[1] - sum(lengths[:-1])
    attend = block_causal(lengths, x.device)
    x = _run_blocks(model, x, prepared.modulations, rotation, lambda _: attend, observe)
    return x[:, model.config.context_tokens - 1 :]


def prefill(
    model: "HartTransformer",
    context: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor] | None,
    cache: KVCache,
) -> HartTransformerOutput:
    """Run the context through all blocks and fill the key-value cache.

    Args:
        model: whose blocks are run.
        context: (B, T, D) and mask (B, T).
        empty: (1, 1, D) and mask (1, 1) of the empty condition, for guidance; or None.
        cache: of B sequences, or 2B with ``empty``.
    """
    batch = len(context[0])
    prepared = _with_positions(model, prepare_context(model, *context, cache.scales))
    if empty is None:
        last = _run_context(model, prepared, cache, slice(0, batch))
    else:
        without = _with_positions(model, prepare_context(model, *empty, cache.scales))
        both = prepared.concatenate(without)
        if model.config.context_tokens == 1:  # one pass reads the weights once
            last = _run_context(model, both, cache, slice(0, 2 * batch))
        else:
            last = _run_context(model, prepared, cache, slice(0, batch))
            other = _run_context(model, without, cache, slice(batch, 2 * batch))
            last = torch.cat([last, other.expand_as(last)])
        prepared = both
    cache.advance(model.config.context_tokens)
    return HartTransformerOutput(last, model.logits(last, prepared), prepared)


def next_scale(
    model: "HartTransformer", scale_input: Tensor, cache: KVCache, context: ScaleContext
) -> HartTransformerOutput:
    """Run the tokens of one scale (B, n, z), with the context and all coarser scales in the cache."""
    x = model.word_embed(scale_input.to(context.level.dtype)) + context.level
    if context.position is not None:
        x = x + context.position
    x = _run_blocks(model, x, context.modulations, context.rotation, cache.attend)
    cache.advance(x.shape[1])
    if context.base is not None and context.indices is not None:
        x = context.base.scatter(1, context.indices[..., None].expand_as(x), x)
    return HartTransformerOutput(x, model.logits(x, context))


def _run_blocks(
    model: "HartTransformer",
    x: Tensor,
    modulations: list[Tensor] | None,
    rotation: Rotation | None,
    attend: Callable[[int], Attend],
    observe: Observe | None = None,
) -> Tensor:
    """Run all blocks, (B, N, C) → (B, N, C); ``attend`` gives the attention of each block."""
    values = None if model.value_shares is None else ValueResidual(model.value_shares)
    for index in range(len(model.blocks)):
        modulation = modulations and modulations[index]
        attention = attend(index) if values is None else values.around(index, attend(index))
        x = model.run_block(index, x, modulation, rotation, attention)
        if observe is not None:
            observe(index, x)
    return x


def _run_context(model: "HartTransformer", prepared: PreparedContext, cache: KVCache, rows: slice) -> Tensor:
    """Fill some rows of the cache; hidden states of the last context position, (B, 1, C)."""
    context = prepared.at_scale(0, len(prepared.tokens))
    x = prepared.tokens + context.level
    if context.position is not None:
        x = x + context.position

    def attend(index: int) -> Attend:
        return cache.attend_context(index, rows, model.config.context_tokens)

    return _run_blocks(model, x, context.modulations, context.rotation, attend)[:, -1:]


def _inputs(
    model: "HartTransformer", scale_inputs: Tensor, prepared: PreparedContext, lengths: list[int]
) -> Tensor:
    """Embedded context and inputs of scales 2 … K, (B, N, C)."""
    dtype = prepared.tokens.dtype
    words = model.word_embed(scale_inputs.to(dtype))
    repeats = torch.tensor(lengths, device=words.device)
    x = torch.cat([prepared.tokens, words.to(dtype)], dim=1)
    x = x + prepared.levels.repeat_interleave(repeats, dim=0, output_size=sum(lengths))
    return x if model.position_embed is None else x + model.position_embed


def _with_positions(model: "HartTransformer", prepared: PreparedContext) -> PreparedContext:
    if model.position_embed is None:
        return prepared
    return replace(prepared, positions=list(model.position_embed.split(_lengths(model, model.scales))))


def _lengths(model: "HartTransformer", scales: Scales) -> list[int]:
    """Number of positions of the context, then of scales 2 … K."""
    return [model.config.context_tokens, *(h * w for h, w in scales[1:])]
