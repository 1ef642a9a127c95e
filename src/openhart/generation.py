"""The loop over scales: guide, sample, accumulate, finish with the residual (HART, section 3.2).

Free of I/O and of state: everything it changes it made itself. Released models differ in two conventions,
kept as settings: what guidance the last scale gets, and how many codes top-k leaves to late scales.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openhart.errors import UserError
from openhart.residual.diffusion import Schedule, cosine_schedule, respace, sample
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.transformer.attention import KVCache
from openhart.transformer.model import Conditioning, HartTransformer

LATE_SCALE = 7


@dataclass(frozen=True)
class SamplingSettings:
    """How codes and residual are drawn.

    Args:
        guidance_scale: guidance of the last scale, growing linearly from 0; 0 turns it off.
        top_k: codes that may be drawn, the likeliest; 0 for all. 1 is greedy.
        late_top_k: the same from the eighth scale on; None for ``top_k``. HART: 600, then 300.
        top_p: share of probability that may be drawn; 0 or 1 for all.
        temperature: divides the scores.
        smooth: embed each token by a Gumbel-softmax mixture of codes instead of one code.
        last_scale_holds_back: the last scale is guided as the one before it, as HART does.
        last_scale_steps: steps in which the last scale is decoded, in random order (MaskGIT).
        use_residual: add the residual; without it the picture is the codes' alone.
        residual_steps: diffusion steps of the residual.

    Raises:
        UserError: a value that cannot be.
    """

    guidance_scale: float = 4.0
    top_k: int = 600
    late_top_k: int | None = None
    top_p: float = 0.0
    temperature: float = 1.0
    smooth: bool = False
    last_scale_holds_back: bool = True
    last_scale_steps: int = 1
    use_residual: bool = True
    residual_steps: int = 8

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance_scale) or self.guidance_scale < 0:
            raise UserError(f"guidance_scale must not be negative, got {self.guidance_scale}")
        if self.top_k < 0 or (self.late_top_k or 0) < 0:
            raise UserError(f"top_k must not be negative (0 means all), got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"top_p must lie in [0, 1], got {self.top_p}")
        if not math.isfinite(self.temperature) or self.temperature <= 0:
            raise UserError(f"temperature must be positive (top_k=1 is greedy), got {self.temperature}")
        if self.last_scale_steps < 1:
            raise UserError(f"last_scale_steps must be at least 1, got {self.last_scale_steps}")
        if not 1 <= self.residual_steps <= 1000:
            raise UserError(f"residual_steps must lie in 1 … 1000, got {self.residual_steps}")


@dataclass(frozen=True)
class ScaleState:
    """Where generation stands after a scale.

    Attributes:
        scale_index: k, from 0.
        codes: (B, h_k·w_k), the codes drawn.
        f_hat: (B, z, P, P), features so far; after the last scale, with the residual.
        residual: (B, P², z), after the last scale if there is one.
    """

    scale_index: int
    codes: Tensor
    f_hat: Tensor
    residual: Tensor | None = None


@dataclass(frozen=True)
class Parts:
    """What the loop works with; ``guided`` tells that rows B … 2B are the unconditional half."""

    transformer: HartTransformer
    quantizer: MultiScaleQuantizer
    conditioning: Conditioning
    cache: KVCache
    guided: bool
    generators: Sequence[torch.Generator]
    settings: SamplingSettings

    def both(self, tensor: Tensor) -> Tensor:
        """Give the unconditional half, if there is one, the same rows."""
        return torch.cat([tensor, tensor]) if self.guided else tensor


@torch.no_grad()
def generate(
    transformer: HartTransformer,
    quantizer: MultiScaleQuantizer,
    residual_head: Any | None,
    context: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    generators: Sequence[torch.Generator],
    settings: SamplingSettings,
) -> Iterator[ScaleState]:
    """Generate features scale by scale.

    Args:
        transformer: predicts codes.
        quantizer: turns codes into features.
        residual_head: completes the last scale, or None: then its codes pass through φ like the others'.
        context: context tokens (B, T, D) and their mask (B, T).
        empty: the same for the empty condition.
        generators: one a sample, so that a sample does not depend on the others.
        settings: how to draw.

    Yields:
        the state after each scale.
    """
    guided = settings.guidance_scale > 0 and len(quantizer.scales) > 1
    tokens, mask = (
        (torch.cat([a, b.to(a)]) for a, b in zip(context, empty, strict=True)) if guided else context
    )
    conditioning = transformer.prepare(tokens, mask)
    cache = transformer.allocate_cache(len(tokens))
    parts = Parts(transformer, quantizer, conditioning, cache, guided, generators, settings)
    f_hat = quantizer.empty(len(generators)).float()
    last = len(quantizer.scales) - 1
    for index in range(last):
        codes, embedding = _predict_scale(parts, f_hat, index)
        f_hat = quantizer.add_scale(f_hat.to(embedding.dtype), embedding, index).float()
        yield ScaleState(index, codes, f_hat)
    yield _finish(parts, residual_head, f_hat, last)


def _predict_scale(parts: Parts, f_hat: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Codes (B, n) of one scale and their embedding (B, n, z)."""
    if index == 0:
        hidden = parts.transformer.forward_context(parts.conditioning, parts.cache)
    else:
        inputs = parts.both(parts.quantizer.next_input(f_hat, index))
        hidden = parts.transformer.forward_scale(index, inputs, parts.conditioning, parts.cache)
    return _choose(parts, hidden, index)


def _choose(parts: Parts, hidden: Tensor, index: int) -> tuple[Tensor, Tensor]:
    ratio = _progress(parts, index)
    logits = parts.transformer.logits(hidden, parts.conditioning)
    if parts.guided:
        logits = guide(logits, parts.settings.guidance_scale * ratio)
    settings = parts.settings
    top_k = settings.top_k
    if index >= LATE_SCALE and settings.late_top_k is not None:
        top_k = settings.late_top_k
    logits = truncate(logits / settings.temperature, top_k, settings.top_p)
    codes = draw_codes(logits, parts.generators)
    if not settings.smooth:
        return codes, parts.quantizer.lookup(codes)
    weights = _gumbel_softmax(logits, ratio, parts.generators)
    table = parts.quantizer.codebook.weight
    return codes, weights.to(table.dtype) @ table


def _progress(parts: Parts, index: int) -> float:
    """k/(K − 1), which guidance and smoothing follow."""
    last = len(parts.quantizer.scales) - 1
    if index == last and parts.settings.last_scale_holds_back:
        index = max(last - 1, 0)
    return index / max(last, 1)


def _finish(parts: Parts, residual_head: Any | None, f_hat: Tensor, last: int) -> ScaleState:
    """Decode the last scale, in one step or several, and add its residual."""
    height, width = parts.quantizer.size
    batch, count = len(parts.generators), height * width
    orders = _random_orders(parts, count) if parts.settings.last_scale_steps > 1 else None
    inputs = parts.quantizer.next_input(f_hat, last) if last else None
    hidden_parts, codes_parts, embedded_parts = [], [], []
    for places in _last_scale_places(parts.settings.last_scale_steps, count, orders):
        hidden = _last_hidden(parts, inputs, last, places)
        codes, embedding = _choose(parts, hidden, last)
        hidden_parts.append(hidden)
        codes_parts.append(codes)
        embedded_parts.append(embedding)
    hidden, codes, embedding = (
        torch.cat(part, dim=1) for part in (hidden_parts, codes_parts, embedded_parts)
    )
    if orders is not None:
        back = orders.argsort(dim=1)
        hidden = hidden.take_along_dim(parts.both(back)[..., None], dim=1)
        codes = codes.take_along_dim(back, dim=1)
        embedding = embedding.take_along_dim(back[..., None], dim=1)
    residual = None
    if residual_head is not None and parts.settings.use_residual:
        condition = parts.transformer.residual_condition(hidden, parts.both(parts.quantizer.lookup(codes)))
        residual = _residual(parts, residual_head, condition, _progress(parts, last))
        embedding = embedding + residual.to(embedding.dtype)
    assert embedding.shape[:2] == (batch, count)
    f_hat = parts.quantizer.add_scale(f_hat.to(embedding.dtype), embedding, last, blend=residual_head is None)
    return ScaleState(last, codes, f_hat, residual)


def _last_hidden(parts: Parts, inputs: Tensor | None, last: int, places: Tensor | None) -> Tensor:
    if inputs is None:
        return parts.transformer.forward_context(parts.conditioning, parts.cache)
    if places is None:
        chosen = inputs
    else:
        chosen, places = inputs.take_along_dim(places[..., None], dim=1), parts.both(places)
    return parts.transformer.forward_scale(last, parts.both(chosen), parts.conditioning, parts.cache, places)


def _random_orders(parts: Parts, count: int) -> Tensor:
    device = parts.transformer.device
    orders = [torch.randperm(count, generator=g, device=g.device) for g in parts.generators]
    return torch.stack([order.to(device) for order in orders])


def _last_scale_places(steps: int, count: int, orders: Tensor | None) -> Iterator[Tensor | None]:
    """Which tokens each step decodes, few at first (cosine, MaskGIT, arXiv 2202.04200, section 3.3)."""
    if orders is None:
        yield None
        return
    left = [count * math.cos(math.pi / 2 * (step + 1) / steps) for step in range(steps)]
    start = 0
    for step in range(steps):
        end = count - max(math.floor(left[step]), steps - 1 - step)
        if step == steps - 1:
            end = count
        if end > start:
            yield orders[:, start:end]
        start = max(start, end)


def _residual(parts: Parts, head: Any, condition: Tensor, ratio: float) -> Tensor:
    """Residual of the last scale, (B, P², z), in the features' units."""
    schedule = _schedule(parts.settings.residual_steps)
    with_condition, without = condition.chunk(2) if parts.guided else (condition, None)
    shape = (with_condition.shape[1], head.config.code_dim)

    def draw() -> Tensor:
        return normal(shape, parts.generators).to(condition.device)

    found = sample(
        head,
        with_condition,
        without,
        parts.settings.guidance_scale * ratio,
        draw(),
        draw,
        schedule,
        parts.quantizer.size,
    )
    return found * head.config.residual_scale


def _schedule(steps: int) -> Schedule:
    return respace(cosine_schedule(), steps)


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


def draw_codes(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw a code for each token, (B, N, V) → (B, N); each sample by its own generator."""
    shares = logits.softmax(dim=-1)
    drawn = [
        torch.multinomial(row.to(generator.device), 1, generator=generator)[:, 0]
        for row, generator in zip(shares, generators, strict=True)
    ]
    return torch.stack(drawn).to(logits.device)


def sample_codes(logits: Tensor, generators: Sequence[torch.Generator], top_k: int, top_p: float) -> Tensor:
    """Truncate and draw, (B, N, V) → (B, N)."""
    return draw_codes(truncate(logits, top_k, top_p), generators)


def _gumbel_softmax(logits: Tensor, ratio: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Nearly one-hot weights over codes, sharper with each scale (HART's and VAR's smooth mode)."""
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    uniform = _stacked(torch.rand, logits.shape[1:], generators).to(logits.device)
    gumbel = -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()
    return ((logits * (1 + ratio) + gumbel) / temperature).softmax(dim=-1)


def normal(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    """Normal noise (B, \\*shape), each sample's from its own generator."""
    return _stacked(torch.randn, shape, generators)


def _stacked(
    make: Callable[..., Tensor], shape: Sequence[int], generators: Sequence[torch.Generator]
) -> Tensor:
    return torch.stack([make(*shape, generator=g, device=g.device) for g in generators])
