"""The loop over scales: predict, guide, draw, accumulate, and complete with the residual (HART, section 3.2).

The loop reads no file and modifies no object that it did not create. Released models differ in two
conventions, which are settings: the guidance of the last scale, and top-k of late scales.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openhart.errors import UserError
from openhart.generation.logits import guide, gumbel_softmax, truncate
from openhart.generation.settings import SamplingSettings
from openhart.generation.states import KnownCodes, ScaleState
from openhart.randomness import Draws
from openhart.residual.schedule import cosine_schedule
from openhart.residual.solvers import SOLVERS
from openhart.scales import Scales
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.transformer.attention import KVCache
from openhart.transformer.context import PreparedContext
from openhart.transformer.model import HartTransformer

LATE_SCALE = 7


@dataclass(frozen=True)
class Loop:
    """Everything that the steps of one loop share.

    ``guidance_scales`` holds w_k of each scale, 1 where there is no guidance. ``prepared`` and ``cache``
    hold B samples, followed by B unconditional ones if any scale is guided.
    """

    transformer: HartTransformer
    quantizer: MultiScaleQuantizer
    prepared: PreparedContext
    cache: KVCache
    guidance_scales: Sequence[float]
    draws: Draws
    settings: SamplingSettings
    scales: Scales
    known: KnownCodes | None = None

    @property
    def last(self) -> int:
        """Index of the last scale."""
        return len(self.scales) - 1

    def copies(self, index: int) -> int:
        """2 while this scale or a later one is guided, since then both halves are computed; else 1."""
        return 2 if any(scale > 1 for scale in self.guidance_scales[index:]) else 1

    def computed_tokens(self, index: int) -> int | None:
        """Number of tokens that are computed at a scale; None for all."""
        ratios = self.settings.keep_ratios
        position = index - (self.last + 1 - len(ratios))
        if index == 0 or position < 0 or ratios[position] == 1:
            return None
        return max(1, round(ratios[position] * math.prod(self.scales[index])))


@torch.no_grad()
def generate(  # noqa: PLR0913 (the public loop)
    transformer: HartTransformer,
    quantizer: MultiScaleQuantizer,
    residual_head: Any | None,
    context: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    draws: Draws,
    settings: SamplingSettings,
    known: KnownCodes | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[ScaleState]:
    """Generate features scale by scale.

    Args:
        transformer: predicts the logits of each scale.
        quantizer: accumulates codes into features.
        residual_head: generates the residual of the last scale, or None.
        context: context tokens (B, T, D) and their mask (B, T).
        empty: the one token of the empty condition, (1, 1, D), and its mask (1, 1).
        draws: the source of codes and noise; its ``batch`` is the number of images B.
        settings: the sampling settings.
        known: codes that are given instead of drawn, for inpainting, variations and teacher forcing.
        size: height and width of the feature map; None for the size that the quantizer is configured for.

    Yields:
        the state after each scale.

    Raises:
        UserError: settings do not suit the number of scales, or logits are not finite.
    """
    scales = quantizer.scales_for(size or quantizer.size)
    guidance_scales = _guidance_scales(settings, len(scales))
    batch, device = draws.batch, context[0].device
    guided = any(scale > 1 for scale in guidance_scales)
    cache = transformer.allocate_cache(2 * batch if guided else batch, scales, device)
    prefilled = transformer(None, *context, empty=empty if guided else None, cache=cache)
    hidden, logits = prefilled.hidden_states, prefilled.logits
    loop = Loop(
        transformer, quantizer, prefilled.prepared, cache, guidance_scales, draws, settings, scales, known
    )
    f_hat = quantizer.empty(batch, device, scales[-1])
    for index in range(loop.last):
        if index:
            hidden, logits = _run_scale(loop, f_hat, index, hidden)
        codes, embedding = _choose(loop, logits, index)
        f_hat = quantizer.add_scale(f_hat.to(embedding.dtype), embedding, index).float()
        yield ScaleState(index, len(scales), f_hat, codes)
    yield _finish(loop, residual_head, f_hat, (hidden, logits))


def _guidance_scales(settings: SamplingSettings, scales: int) -> list[float]:
    """w_k = 1 + (w − 1) · k/(K − 1) of each scale (HART and VAR); 1 where there is no guidance."""
    if settings.unguided_scales > scales or len(settings.keep_ratios) > scales:
        raise UserError(
            f"unguided_scales and the number of keep_ratios must not exceed the model's {scales} scales, "
            f"got {settings.unguided_scales} and {len(settings.keep_ratios)}"
        )
    guided = scales - settings.unguided_scales if scales > 1 else 0
    extra = max(settings.guidance_scale - 1, 0.0)
    return [
        1 + extra * _progress(settings, index, scales) if index < guided else 1.0 for index in range(scales)
    ]


def _progress(settings: SamplingSettings, index: int, scales: int) -> float:
    """k/(K − 1), which guidance and Gumbel smoothing follow."""
    last = scales - 1
    if index == last and settings.hold_last_guidance:
        index = max(last - 1, 0)
    return index / max(last, 1)


def _run_scale(loop: Loop, f_hat: Tensor, index: int, previous: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (B or 2·B, n, C) and logits of one scale; ``previous``: those of the scale before."""
    inputs, count = loop.quantizer.next_input(f_hat, index), loop.computed_tokens(index)
    if count is None:
        return _forward(loop, inputs, index)
    positions = most_distinct(inputs, count)
    base = _upsample(previous[: loop.copies(index) * len(inputs)], loop.scales, index)
    return _forward(loop, inputs.take_along_dim(positions[..., None], dim=1), index, positions, base)


def _forward(
    loop: Loop, inputs: Tensor, index: int, positions: Tensor | None = None, base: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run tokens (B, n, z) of one scale, and the same tokens without condition while it is guided."""
    copies = loop.copies(index)
    positions = None if positions is None else positions.repeat(copies, 1)
    context = loop.prepared.at_scale(index, copies * len(inputs), positions, base)
    output = loop.transformer(inputs.repeat(copies, 1, 1), cache=loop.cache, scale_context=context)
    return output.hidden_states, output.logits


def most_distinct(tokens: Tensor, count: int) -> Tensor:
    """Positions of the ``count`` tokens farthest from the mean token, (B, N, z) → (B, count), ascending.

    At a large scale, flat areas hardly change; these tokens carry the details (FastVAR, arXiv 2503.23367,
    section 3.2).
    """
    distance = (tokens - tokens.mean(dim=1, keepdim=True)).square().sum(dim=-1)
    return distance.topk(count, dim=1).indices.sort(dim=1).values


def _upsample(hidden: Tensor, scales: Scales, index: int) -> Tensor:
    """Upsample the previous scale's hidden states to this scale's grid, (B, m, C) → (B, n, C)."""
    grid = hidden.transpose(1, 2).unflatten(2, scales[index - 1])
    return F.interpolate(grid, size=scales[index], mode="nearest").flatten(2).transpose(1, 2)


def _choose(loop: Loop, logits: Tensor, index: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes (B, n) of one scale, or of its tokens at some positions, and their embedding (B, n, z)."""
    logits = _truncated(loop, logits, index)
    codes = loop.draws.codes(logits, index)
    given = None if loop.known is None else loop.known.at(index, positions)
    if given is not None:
        codes = torch.where(given[1], given[0], codes)
    if not loop.settings.gumbel_smoothing:
        return codes, loop.quantizer.lookup(codes)
    weights = gumbel_softmax(logits, _progress(loop.settings, index, loop.last + 1), loop.draws)
    table = loop.quantizer.table(logits.device)
    mixed = weights.to(table.dtype) @ table
    if given is not None:
        mixed = torch.where(given[1][..., None], loop.quantizer.lookup(codes), mixed)
    return codes, mixed


def _truncated(loop: Loop, logits: Tensor, index: int) -> Tensor:
    """Guided logits (B, n, V), divided by the temperature, −∞ for codes that must not be drawn."""
    scale, settings = loop.guidance_scales[index], loop.settings
    logits = guide(logits, scale) if scale > 1 else logits[: loop.draws.batch]
    logits = logits / settings.temperature
    if not logits.isfinite().all():
        raise UserError(
            "the transformer's logits are not finite: its weights or the condition are broken, or too large "
            f"for {loop.cache.store.dtype}"
        )
    late = index >= LATE_SCALE
    top_k = settings.late_top_k if late and settings.late_top_k is not None else settings.top_k
    return truncate(logits, top_k, settings.top_p)


def _finish(
    loop: Loop, residual_head: Any | None, f_hat: Tensor, previous: tuple[Tensor, Tensor]
) -> ScaleState:
    """Decode the last scale, in one step or several, and add its residual.

    ``previous`` holds hidden states and logits of the scale before, or of the only scale.
    """
    if loop.settings.last_scale_steps > 1 and loop.last:
        hidden, codes, embedding = _last_scale_in_steps(loop, f_hat)
    else:
        hidden, logits = _run_scale(loop, f_hat, loop.last, previous[0]) if loop.last else previous
        codes, embedding = _choose(loop, logits, loop.last)
    residual = None
    if residual_head is not None and loop.settings.use_residual and loop.settings.residual_strength:
        if loop.guidance_scales[loop.last] <= 1:
            hidden = hidden[: len(codes)]
        words = loop.quantizer.lookup(codes).repeat(len(hidden) // len(codes), 1, 1)
        condition = loop.transformer.residual_condition(hidden, words)
        residual = loop.settings.residual_strength * _residual(loop, residual_head, condition)
        embedding = embedding + residual.to(embedding.dtype)
    quantizer = loop.quantizer
    apply_phi = quantizer.applies_phi_to_last_scale(residual is not None, residual_head is not None)
    f_hat = quantizer.add_scale(f_hat.to(embedding.dtype), embedding, loop.last, apply_phi)
    return ScaleState(loop.last, loop.last + 1, f_hat, codes, residual)


def _last_scale_in_steps(loop: Loop, f_hat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, codes and embedding of the last scale, decoded in several steps in random order."""
    inputs = loop.quantizer.next_input(f_hat, loop.last)
    orders = loop.draws.orders(inputs.shape[1]).to(inputs.device)
    decoded = []
    for positions in _positions_of_steps(loop.settings.last_scale_steps, orders):
        tokens = inputs.take_along_dim(positions[..., None], dim=1)
        hidden, logits = _forward(loop, tokens, loop.last, positions)
        decoded.append((hidden, *_choose(loop, logits, loop.last, positions)))
    hidden, codes, embedding = (torch.cat(each, dim=1) for each in zip(*decoded, strict=True))
    inverse = orders.argsort(dim=1)
    rows = inverse.repeat(len(hidden) // len(inverse), 1)
    return (
        hidden.take_along_dim(rows[..., None], dim=1),
        codes.take_along_dim(inverse, dim=1),
        embedding.take_along_dim(inverse[..., None], dim=1),
    )


def _positions_of_steps(steps: int, orders: Tensor) -> Iterator[Tensor]:
    """The tokens that each step decodes, few at first (cosine schedule, MaskGIT, arXiv 2202.04200)."""
    count = orders.shape[1]
    remaining = [count * math.cos(math.pi / 2 * (step + 1) / steps) for step in range(steps)]
    start = 0
    for step in range(steps):
        end = count - max(math.floor(remaining[step]), steps - 1 - step)
        if step == steps - 1:
            end = count
        if end > start:
            yield orders[:, start:end]
        start = max(start, end)


def _residual(loop: Loop, head: Any, condition: Tensor) -> Tensor:
    """Residual of the last scale, (B, H·W, z), in the units of the features."""
    scale = loop.guidance_scales[loop.last]
    conditional, unconditional = condition.chunk(2) if scale > 1 else (condition, None)
    shape = (conditional.shape[1], head.config.code_dim)

    def draw() -> Tensor:
        return loop.draws.normal(shape).to(condition.device)

    solver = SOLVERS[loop.settings.residual_solver]
    schedule = solver.respace(cosine_schedule(), loop.settings.residual_steps)
    size = loop.scales[-1]
    sample = solver.sample(head, conditional, unconditional, scale, draw(), draw, schedule, size)
    residual: Tensor = head.from_units(sample)
    return residual
