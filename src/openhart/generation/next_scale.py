"""The loop over scales: guide, sample, accumulate, finish with the residual (HART, section 3.2).

Free of I/O and of state: everything it changes it made itself. Released models differ in two conventions,
kept as settings: what guidance the last scale gets, and how many codes top-k leaves to late scales.
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
class Parts:
    """What the loop works with.

    ``guidances`` holds g of each scale, 0 where there is none. ``prepared`` and ``cache`` hold B samples,
    and as many unconditional ones after them if any scale is guided.
    """

    transformer: HartTransformer
    quantizer: MultiScaleQuantizer
    prepared: PreparedContext
    cache: KVCache
    guidances: Sequence[float]
    draws: Draws
    settings: SamplingSettings
    scales: Scales
    known: KnownCodes | None = None

    @property
    def last(self) -> int:
        """Index of the last scale."""
        return len(self.scales) - 1

    def copies(self, index: int) -> int:
        """2 while this scale or a later one is guided, since then both halves go on; else 1."""
        return 2 if any(self.guidances[index:]) else 1

    def kept(self, index: int) -> int | None:
        """How many tokens of a scale are worked out; None for all."""
        shares = self.settings.kept_tokens
        place = index - (self.last + 1 - len(shares))
        if index == 0 or place < 0 or shares[place] == 1:
            return None
        return max(1, round(shares[place] * math.prod(self.scales[index])))


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
        transformer: predicts codes.
        quantizer: turns codes into features.
        residual_head: generates the residual of the last scale, or None.
        context: context tokens (B, T, D) and their mask (B, T).
        empty: the one token that fills the empty condition, (1, 1, D), and its mask (1, 1).
        draws: draws codes and noise; says how many images there are.
        settings: how to draw.
        known: codes that are given instead of drawn, for inpainting, variations and teacher forcing.
        size: height and width of the feature map; None for the size that the quantizer is configured for.

    Yields:
        the state after each scale.

    Raises:
        UserError: settings that do not suit the scales.
    """
    scales = quantizer.scales_for(size or quantizer.size)
    guidances = _guidances(settings, len(scales))
    batch, device = draws.batch, context[0].device
    guided = any(guidances)
    cache = transformer.allocate_cache(2 * batch if guided else batch, scales, device)
    prefilled = transformer(None, *context, empty=empty if guided else None, cache=cache)
    hidden, logits = prefilled.hidden_states, prefilled.logits
    parts = Parts(
        transformer, quantizer, prefilled.prepared, cache, guidances, draws, settings, scales, known
    )
    f_hat = quantizer.empty(batch, device, scales[-1])
    for index in range(parts.last):
        if index:
            hidden, logits = _run_scale(parts, f_hat, index, hidden)
        codes, embedding = _choose(parts, logits, index)
        f_hat = quantizer.add_scale(f_hat.to(embedding.dtype), embedding, index).float()
        yield ScaleState(index, codes, f_hat)
    yield _finish(parts, residual_head, f_hat, (hidden, logits))


def _guidances(settings: SamplingSettings, scales: int) -> list[float]:
    """g of each scale, growing linearly from 0 (HART and VAR)."""
    if settings.unguided_scales > scales or len(settings.kept_tokens) > scales:
        raise UserError(
            f"unguided_scales and kept_tokens must not exceed the model's {scales} scales, "
            f"got {settings.unguided_scales} and {len(settings.kept_tokens)}"
        )
    guided = scales - settings.unguided_scales if scales > 1 else 0
    return [
        settings.guidance_scale * _progress(settings, index, scales) if index < guided else 0.0
        for index in range(scales)
    ]


def _progress(settings: SamplingSettings, index: int, scales: int) -> float:
    """k/(K − 1), which guidance and smoothing follow."""
    last = scales - 1
    if index == last and settings.last_scale_holds_back:
        index = max(last - 1, 0)
    return index / max(last, 1)


def _run_scale(parts: Parts, f_hat: Tensor, index: int, before: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (B or 2B, n, C) and logits of one scale, given hidden states of the scale before."""
    inputs, kept = parts.quantizer.next_input(f_hat, index), parts.kept(index)
    if kept is None:
        return _forward(parts, inputs, index)
    places = most_distinct(inputs, kept)
    base = _resize(before[: parts.copies(index) * len(inputs)], parts.scales, index)
    return _forward(parts, inputs.take_along_dim(places[..., None], dim=1), index, places, base)


def _forward(
    parts: Parts, inputs: Tensor, index: int, places: Tensor | None = None, base: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run one scale's tokens (B, n, z), and the same again without condition while it is guided."""
    copies = parts.copies(index)
    places = None if places is None else places.repeat(copies, 1)
    context = parts.prepared.at_scale(index, copies * len(inputs), places, base)
    output = parts.transformer(inputs.repeat(copies, 1, 1), cache=parts.cache, scale_context=context)
    return output.hidden_states, output.logits


def most_distinct(tokens: Tensor, count: int) -> Tensor:
    """Places of the ``count`` tokens farthest from the mean token, (B, N, z) → (B, n), in order.

    At a large scale flat areas hardly change; these tokens carry what does (FastVAR, arXiv 2503.23367,
    section 3.2).
    """
    distance = (tokens - tokens.mean(dim=1, keepdim=True)).square().sum(dim=-1)
    return distance.topk(count, dim=1).indices.sort(dim=1).values


def _resize(hidden: Tensor, scales: Scales, index: int) -> Tensor:
    """What the scale before says of this scale's places, (B, m, C) → (B, n, C)."""
    grid = hidden.transpose(1, 2).unflatten(2, scales[index - 1])
    return F.interpolate(grid, size=scales[index], mode="nearest").flatten(2).transpose(1, 2)


def _choose(parts: Parts, logits: Tensor, index: int, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes (B, n) of one scale, or of its tokens at some places, and their embedding (B, n, z)."""
    guidance = parts.guidances[index]
    logits = guide(logits, guidance) if guidance else logits[: parts.draws.batch]
    settings = parts.settings
    top_k = settings.top_k
    if index >= LATE_SCALE and settings.late_top_k is not None:
        top_k = settings.late_top_k
    logits = logits / settings.temperature
    if not logits.isfinite().all():
        raise UserError(
            f"the transformer's scores are not finite: its weights or the condition are broken, or too large "
            f"for {parts.cache.store.dtype}"
        )
    logits = truncate(logits, top_k, settings.top_p)
    codes = parts.draws.codes(logits, index)
    given = None if parts.known is None else parts.known.at(index, places)
    if given is not None:
        codes = torch.where(given[1], given[0], codes)
    if not settings.smooth:
        return codes, parts.quantizer.lookup(codes)
    weights = gumbel_softmax(logits, _progress(settings, index, parts.last + 1), parts.draws)
    table = parts.quantizer.table(logits.device)
    mixed = weights.to(table.dtype) @ table
    if given is not None:
        mixed = torch.where(given[1][..., None], parts.quantizer.lookup(codes), mixed)
    return codes, mixed


def _finish(
    parts: Parts, residual_head: Any | None, f_hat: Tensor, before: tuple[Tensor, Tensor]
) -> ScaleState:
    """Decode the last scale, in one step or several, and add its residual.

    ``before`` holds hidden states and logits of the scale before, or of the only one.
    """
    if parts.settings.last_scale_steps > 1 and parts.last:
        hidden, codes, embedding = _last_scale_in_steps(parts, f_hat)
    else:
        hidden, logits = _run_scale(parts, f_hat, parts.last, before[0]) if parts.last else before
        codes, embedding = _choose(parts, logits, parts.last)
    residual = None
    if residual_head is not None and parts.settings.use_residual and parts.settings.residual_strength:
        if not parts.guidances[parts.last]:
            hidden = hidden[: len(codes)]
        words = parts.quantizer.lookup(codes).repeat(len(hidden) // len(codes), 1, 1)
        condition = parts.transformer.residual_condition(hidden, words)
        residual = parts.settings.residual_strength * _residual(parts, residual_head, condition)
        embedding = embedding + residual.to(embedding.dtype)
    quantizer = parts.quantizer
    apply_phi = quantizer.applies_phi_to_last_scale(residual is not None, residual_head is not None)
    f_hat = quantizer.add_scale(f_hat.to(embedding.dtype), embedding, parts.last, apply_phi)
    return ScaleState(parts.last, codes, f_hat, residual)


def _last_scale_in_steps(parts: Parts, f_hat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, codes and embedding of the last scale, decoded in random order, a part at a time."""
    inputs = parts.quantizer.next_input(f_hat, parts.last)
    orders = parts.draws.orders(inputs.shape[1]).to(inputs.device)
    found = []
    for places in _places_of_steps(parts.settings.last_scale_steps, orders):
        some = inputs.take_along_dim(places[..., None], dim=1)
        hidden, logits = _forward(parts, some, parts.last, places)
        found.append((hidden, *_choose(parts, logits, parts.last, places)))
    hidden, codes, embedding = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    back = orders.argsort(dim=1)
    rows = back.repeat(len(hidden) // len(back), 1)
    return (
        hidden.take_along_dim(rows[..., None], dim=1),
        codes.take_along_dim(back, dim=1),
        embedding.take_along_dim(back[..., None], dim=1),
    )


def _places_of_steps(steps: int, orders: Tensor) -> Iterator[Tensor]:
    """Which tokens each step decodes, few at first (cosine, MaskGIT, arXiv 2202.04200, section 3.3)."""
    count = orders.shape[1]
    left = [count * math.cos(math.pi / 2 * (step + 1) / steps) for step in range(steps)]
    start = 0
    for step in range(steps):
        end = count - max(math.floor(left[step]), steps - 1 - step)
        if step == steps - 1:
            end = count
        if end > start:
            yield orders[:, start:end]
        start = max(start, end)


def _residual(parts: Parts, head: Any, condition: Tensor) -> Tensor:
    """Residual of the last scale, (B, P², z), in the features' units."""
    guidance = parts.guidances[parts.last]
    with_condition, without = condition.chunk(2) if guidance else (condition, None)
    shape = (with_condition.shape[1], head.config.code_dim)

    def draw() -> Tensor:
        return parts.draws.normal(shape).to(condition.device)

    solver = SOLVERS[parts.settings.residual_solver]
    schedule = solver.respace(cosine_schedule(), parts.settings.residual_steps)
    size = parts.scales[-1]
    found = solver.sample(head, with_condition, without, guidance, draw(), draw, schedule, size)
    return head.from_units(found)
