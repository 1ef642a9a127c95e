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

from openhart.checks import Flag, Natural, Number, checked_dataclass, listed
from openhart.errors import UserError
from openhart.randomness import Draws, draw_codes
from openhart.residual.diffusion import SOLVERS, cosine_schedule
from openhart.scales import Scales
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.transformer.attention import KVCache
from openhart.transformer.conditioning import Conditioning
from openhart.transformer.model import HartTransformer

LATE_SCALE = 7


@checked_dataclass("sampling")
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
        residual_solver: how they are taken: ``ddpm``, as HART does; ``dpm++``, good in fewer; or ``mean``, as
            ``dpm++`` from zero noise: the residual to be expected, the same for every seed.
        residual_strength: share λ of the sampled residual that is added, from 0 (none) to 1.
        unguided_scales: how many of the last scales go without guidance, at half the work.
        kept_tokens: share of the tokens worked out at each of the last scales, the last one last; the
            others take the state of the scale before.

    Raises:
        UserError: a value that cannot be.
    """

    guidance_scale: Number = 4.0
    top_k: Natural = 600
    late_top_k: Natural | None = None
    top_p: Number = 0.0
    temperature: Number = 1.0
    smooth: Flag = False
    last_scale_holds_back: Flag = True
    last_scale_steps: Natural = 1
    use_residual: Flag = True
    residual_steps: Natural = 8
    residual_solver: str = "ddpm"
    residual_strength: Number = 1.0
    unguided_scales: Natural = 0
    kept_tokens: Sequence[Number] = ()

    def __post_init__(self) -> None:
        ranges = (
            ("guidance_scale", 0, 1000),
            ("top_p", 0, 1),
            ("temperature", 1e-3, 1000),
            ("last_scale_steps", 1, 10_000),
            ("residual_steps", 1, 1000),
            ("residual_strength", 0, 1),
        )
        for name, least, most in ranges:
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} must lie in {least} … {most}, got {getattr(self, name)}")
        if self.residual_solver not in SOLVERS:
            raise UserError(f"residual_solver must be {listed(SOLVERS)}, got {self.residual_solver!r}")
        if not all(0 < share <= 1 for share in self.kept_tokens):
            raise UserError(f"kept_tokens must lie in (0, 1], got {list(self.kept_tokens)}")
        if self.last_scale_steps > 1 and self.kept_tokens:
            raise UserError("kept_tokens cannot be combined with last_scale_steps")


@dataclass(frozen=True)
class ScaleState:
    """Where generation stands after a scale.

    Attributes:
        scale_index: k, from 0.
        codes: (B, h_k·w_k), the codes drawn.
        f_hat: (B, z, P, P), features so far; after the last scale, with the residual.
        residual: (B, P², z), what was added after the last scale, if anything was.
    """

    scale_index: int
    codes: Tensor
    f_hat: Tensor
    residual: Tensor | None = None


@dataclass(frozen=True)
class KnownCodes:
    """Codes that generation takes as given.

    Attributes:
        codes: per scale, (B, h_k·w_k), row-major.
        masks: per scale, (B, h_k·w_k) bool, true where the code is given; elsewhere it is drawn.
    """

    codes: Sequence[Tensor]
    masks: Sequence[Tensor]

    def at(self, index: int, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Codes and mask of a scale, (B, n) each, or of its tokens at some places (B, n)."""
        codes, mask = self.codes[index], self.masks[index]
        if places is None:
            return codes, mask
        return codes.take_along_dim(places, dim=1), mask.take_along_dim(places, dim=1)


@dataclass(frozen=True)
class Parts:
    """What the loop works with.

    ``guidances`` holds g of each scale, 0 where there is none. ``conditioning`` and ``cache`` hold B samples,
    and as many unconditional ones after them if any scale is guided.
    """

    transformer: HartTransformer
    quantizer: MultiScaleQuantizer
    conditioning: Conditioning
    cache: KVCache
    guidances: Sequence[float]
    draws: Draws
    settings: SamplingSettings
    known: KnownCodes | None = None

    @property
    def last(self) -> int:
        """Index of the last scale."""
        return len(self.quantizer.scales) - 1

    def copies(self, index: int) -> int:
        """2 while this scale or a later one is guided, since then both halves go on; else 1."""
        return 2 if any(self.guidances[index:]) else 1

    def kept(self, index: int) -> int | None:
        """How many tokens of a scale are worked out; None for all."""
        shares = self.settings.kept_tokens
        place = index - (self.last + 1 - len(shares))
        if index == 0 or place < 0 or shares[place] == 1:
            return None
        return max(1, round(shares[place] * math.prod(self.quantizer.scales[index])))


@torch.no_grad()
def generate(
    transformer: HartTransformer,
    quantizer: MultiScaleQuantizer,
    residual_head: Any | None,
    context: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    draws: Draws,
    settings: SamplingSettings,
    known: KnownCodes | None = None,
) -> Iterator[ScaleState]:
    """Generate features scale by scale.

    Args:
        transformer: predicts codes.
        quantizer: turns codes into features.
        residual_head: completes the last scale, or None: then its codes pass through φ like the others'.
        context: context tokens (B, T, D) and their mask (B, T).
        empty: the one token that fills the empty condition, (1, 1, D), and its mask (1, 1).
        draws: draws codes and noise; says how many images there are.
        settings: how to draw.
        known: codes that are given instead of drawn, for inpainting, variations and teacher forcing.

    Yields:
        the state after each scale.

    Raises:
        UserError: settings that do not suit the scales.
    """
    guidances = _guidances(settings, len(quantizer.scales))
    batch, device = draws.batch, context[0].device
    guided = any(guidances)
    cache = transformer.allocate_cache(2 * batch if guided else batch, quantizer.scales, device)
    hidden, logits, conditioning = transformer(None, *context, empty=empty if guided else None, cache=cache)
    parts = Parts(transformer, quantizer, conditioning, cache, guidances, draws, settings, known)
    f_hat = quantizer.empty(batch, device)
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
    base = _resize(before[: parts.copies(index) * len(inputs)], parts.quantizer.scales, index)
    return _forward(parts, inputs.take_along_dim(places[..., None], dim=1), index, places, base)


def _forward(
    parts: Parts, inputs: Tensor, index: int, places: Tensor | None = None, base: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run one scale's tokens (B, n, z), and the same again without condition while it is guided."""
    copies = parts.copies(index)
    places = None if places is None else places.repeat(copies, 1)
    given = parts.conditioning.at_scale(index, copies * len(inputs), places, base)
    return parts.transformer(inputs.repeat(copies, 1, 1), cache=parts.cache, given=given)


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
    weights = _gumbel_softmax(logits, _progress(settings, index, parts.last + 1), parts.draws)
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
    blend = residual_head is None
    f_hat = parts.quantizer.add_scale(f_hat.to(embedding.dtype), embedding, parts.last, blend=blend)
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
    size = parts.quantizer.size
    found = solver.sample(head, with_condition, without, guidance, draw(), draw, schedule, size)
    return head.from_units(found)


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


def _gumbel_softmax(logits: Tensor, ratio: float, draws: Draws) -> Tensor:
    """Nearly one-hot weights over codes, sharper with each scale (HART's and VAR's smooth mode)."""
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    uniform = draws.uniform(logits.shape[1:]).to(logits.device)
    gumbel = -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()
    return ((logits * (1 + ratio) + gumbel) / temperature).softmax(dim=-1)
