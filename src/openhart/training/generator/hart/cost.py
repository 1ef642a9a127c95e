"""What a training step of the generator costs."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.scales import count_tokens
from openhart.training.generator.diffusion import head_cost
from openhart.training.generator.hart.embedding_losses import build_alignment
from openhart.training.generator.hart.recipe import HartRecipe
from openhart.training.generator.hart.settings import EmbeddingLosses, TokenDropping
from openhart.training.run.flops import FLOAT, Cost, Counter, stack_cost
from openhart.transformer.attention import block_causal
from openhart.transformer.model import HartTransformer
from openhart.transformer.modulation import LinearModulation


def generator_cost(
    counter: Counter,
    recipe: HartRecipe,
    transformer: HartTransformer,
    head: Any,
    last_scale: int,
    checkpointing: bool,
) -> Cost:
    """One pass of a generator recipe with ``last_scale`` tokens of the last scale."""
    batch, depth = recipe.data.batch_size, len(transformer.blocks)
    block = block_cost(counter, transformer, batch, last_scale)
    cost = ends_cost(counter, transformer, batch, last_scale)
    if head is not None and recipe.residual is not None:
        times = last_scale if recipe.residual.kind == "token" else 1
        cost += head_cost(counter, head, batch, last_scale, recipe.residual.repeats, times)
    if recipe.embedding_losses is not None:
        predicted = 1 + count_tokens(transformer.scales[1:-1]) + last_scale
        cost += alignment_cost(counter, recipe.embedding_losses, transformer, batch, predicted)
    entrance = batch * sum(_lengths(transformer, last_scale)) * transformer.config.width * FLOAT
    return cost + stack_cost(block, depth, entrance, checkpointing)


def block_cost(counter: Counter, transformer: HartTransformer, batch: int, last_scale: int) -> Cost:
    """One block of the transformer on context, coarser scales and ``last_scale`` tokens of the last."""
    lengths = _lengths(transformer, last_scale)
    width, heads = transformer.config.width, transformer.config.num_heads
    attend = block_causal(lengths, torch.device("cpu"))
    x = counter.tensor(batch, sum(lengths), width)
    rotation, modulation, part = None, None, nn.ModuleList([transformer.blocks[0]])
    if transformer.position_embed is None:
        angles = counter.tensor(batch, 1, sum(lengths), width // heads, needs_gradient=False)
        rotation = (angles, angles)
    if transformer.modulations is not None:
        part.append(transformer.modulations[0])
        shape = (batch, width) if transformer.shared_modulation is None else (batch, 6, width)
        pooled = counter.tensor(*shape)

    def run() -> Tensor:
        nonlocal modulation
        if transformer.modulations is not None:
            modulation = transformer.modulations[0](pooled)
        out: Tensor = transformer.blocks[0](x, modulation, rotation, attend)
        return out

    return counter.count(part, run)


def ends_cost(counter: Counter, transformer: HartTransformer, batch: int, last_scale: int) -> Cost:
    """All outside the blocks: embedding of context and codes, logits, cross-entropy."""
    config, lengths = transformer.config, _lengths(transformer, last_scale)
    predicted = 1 + sum(lengths[1:])
    context = counter.tensor(batch, config.context_tokens, config.context_dim)
    words = counter.tensor(batch, sum(h * w for h, w in transformer.scales[1:]), config.code_dim)
    hidden = counter.tensor(batch, predicted, config.width)
    wanted = counter.tensor(batch, predicted, needs_gradient=False, dtype=torch.long)
    parts = nn.ModuleList(
        [transformer.context_rms, transformer.context_embed, transformer.word_embed, transformer.head]
    )

    def run() -> Tensor:
        embedded = transformer.context_embed(transformer.context_rms(context)).sum()
        logits = transformer.head(hidden).float()
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        out: Tensor = embedded + transformer.word_embed(words.detach()).sum() + loss
        return out

    cost = counter.count(parts, run)
    single = [module for module in transformer.children() if isinstance(module, LinearModulation)]
    for module in single:
        cost += counter.count(module, partial(module, counter.tensor(batch, config.width)))
    return cost


def alignment_cost(
    counter: Counter, settings: EmbeddingLosses, transformer: HartTransformer, batch: int, predicted: int
) -> Cost:
    """The MLPs that predict embeddings of codes from ``predicted`` hidden states per sample."""
    with torch.device("meta"):
        alignment = build_alignment(settings, transformer)
    assert alignment is not None
    config = transformer.config
    first, late = (counter.tensor(batch, predicted, config.width) for _ in range(2))
    codes = counter.tensor(batch, predicted, needs_gradient=False, dtype=torch.long)
    codebook = counter.tensor(config.codebook_size, config.code_dim, needs_gradient=False)
    observed = alignment.observer()
    observed.states = {0: first, alignment.late: late}

    def run() -> Tensor:
        return alignment.weighted(alignment(observed, codes[:, 1:], codes, codebook))

    return counter.count(alignment, run)


def kept_shares(token_dropping: TokenDropping | None) -> tuple[float, float]:
    """Fraction of the last scale's tokens that are kept, on average and at most."""
    if token_dropping is None:
        return 1.0, 1.0
    return 1 - token_dropping.average, 1 - token_dropping.min


def _lengths(transformer: HartTransformer, last_scale: int) -> list[int]:
    between = [h * w for h, w in transformer.scales[1:-1]]
    return [transformer.config.context_tokens, *between, last_scale]
