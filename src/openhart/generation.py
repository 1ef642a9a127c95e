"""The loop over scales: guide, sample, accumulate, finish with the residual (HART, section 3.2).

Free of I/O and of state: everything it changes it made itself. Released models differ in two conventions,
kept as settings: what guidance the last scale gets, and how many codes top-k leaves to late scales.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openhart.errors import UserError
from openhart.residual.diffusion import SOLVERS, cosine_schedule
from openhart.scales import Scales
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
        residual_solver: how they are taken: ``ddpm``, as HART does; ``dpm++``, good in fewer; or ``mean``, as
            ``dpm++`` from zero noise: the residual to be expected, the same for every seed.
        residual_strength: share λ of the sampled residual that is added, from 0 (none) to 1.
        unguided_scales: how many of the last scales go without guidance, at half the work.
        kept_tokens: share of the tokens worked out at each of the last scales, the last one last; the
            others take the state of the scale before.

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
    residual_solver: str = "ddpm"
    residual_strength: float = 1.0
    unguided_scales: int = 0
    kept_tokens: Sequence[float] = ()

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
        if self.residual_solver not in SOLVERS:
            raise UserError(
                f"residual_solver must be one of {', '.join(SOLVERS)}, got {self.residual_solver!r}"
            )
        if not 0 <= self.residual_strength <= 1:
            raise UserError(f"residual_strength must lie in [0, 1], got {self.residual_strength}")
        if self.unguided_scales < 0:
            raise UserError(f"unguided_scales must not be negative, got {self.unguided_scales}")
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
    generators: Sequence[torch.Generator]
    settings: SamplingSettings

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
    generators: Sequence[torch.Generator],
    settings: SamplingSettings,
) -> Iterator[ScaleState]:
    """Generate features scale by scale.

    Args:
        transformer: predicts codes.
        quantizer: turns codes into features.
        residual_head: completes the last scale, or None: then its codes pass through φ like the others'.
        context: context tokens (B, T, D) and their mask (B, T).
        empty: the one token that fills the empty condition, (1, 1, D), and its mask (1, 1).
        generators: one a sample, so that a sample does not depend on the others.
        settings: how to draw.

    Yields:
        the state after each scale.

    Raises:
        UserError: settings that do not suit the scales.
    """
    guidances = _guidances(settings, len(quantizer.scales))
    conditioning, unconditional = transformer.prepare(*context), None
    if any(guidances):
        unconditional = transformer.prepare(*empty)
    batch = len(generators)
    cache = transformer.allocate_cache(batch * (1 if unconditional is None else 2))
    hidden = transformer.forward_context(conditioning, cache, unconditional)
    if unconditional is not None:
        conditioning = conditioning.beside(unconditional)
    parts = Parts(transformer, quantizer, conditioning, cache, guidances, generators, settings)
    f_hat = quantizer.empty(batch).float()
    for index in range(parts.last):
        hidden = _hidden(parts, f_hat, index, hidden)
        codes, embedding = _choose(parts, hidden, index)
        f_hat = quantizer.add_scale(f_hat.to(embedding.dtype), embedding, index).float()
        yield ScaleState(index, codes, f_hat)
    yield _finish(parts, residual_head, f_hat, hidden)


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


def _hidden(parts: Parts, f_hat: Tensor, index: int, before: Tensor) -> Tensor:
    """Hidden states (B or 2B, n, C) of one scale; ``before`` holds those of the scale before it."""
    if index == 0:
        return before
    inputs, kept = parts.quantizer.next_input(f_hat, index), parts.kept(index)
    if kept is None:
        return _forward(parts, inputs, index)
    places = most_distinct(inputs, kept)
    found = _forward(parts, inputs.take_along_dim(places[..., None], dim=1), index, places)
    hidden = _resize(before[: len(found)], parts.quantizer.scales, index)
    places = places.repeat(parts.copies(index), 1)
    return hidden.scatter(1, places[..., None].expand_as(found), found)


def _forward(parts: Parts, inputs: Tensor, index: int, places: Tensor | None = None) -> Tensor:
    """Run one scale's tokens (B, n, z), and the same again without condition while it is guided."""
    copies = parts.copies(index)
    conditioning = parts.conditioning.rows(copies * len(inputs))
    places = None if places is None else places.repeat(copies, 1)
    return parts.transformer.forward_scale(
        index, inputs.repeat(copies, 1, 1), conditioning, parts.cache, places
    )


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


def _choose(parts: Parts, hidden: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Codes (B, n) of one scale and their embedding (B, n, z)."""
    guidance, batch = parts.guidances[index], len(parts.generators)
    if not guidance:
        hidden = hidden[:batch]
    logits = parts.transformer.logits(hidden, parts.conditioning.rows(len(hidden)))
    if guidance:
        logits = guide(logits, guidance)
    settings = parts.settings
    top_k = settings.top_k
    if index >= LATE_SCALE and settings.late_top_k is not None:
        top_k = settings.late_top_k
    logits = truncate(logits / settings.temperature, top_k, settings.top_p)
    codes = draw_codes(logits, parts.generators)
    if not settings.smooth:
        return codes, parts.quantizer.lookup(codes)
    weights = _gumbel_softmax(logits, _progress(settings, index, parts.last + 1), parts.generators)
    table = parts.quantizer.codebook.weight
    return codes, weights.to(table.dtype) @ table


def _finish(parts: Parts, residual_head: Any | None, f_hat: Tensor, before: Tensor) -> ScaleState:
    """Decode the last scale, in one step or several, and add its residual."""
    if parts.settings.last_scale_steps > 1 and parts.last:
        hidden, codes, embedding = _last_scale_in_steps(parts, f_hat)
    else:
        hidden = _hidden(parts, f_hat, parts.last, before)
        codes, embedding = _choose(parts, hidden, parts.last)
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
    orders = _random_orders(parts, inputs.shape[1])
    found = []
    for places in _places_of_steps(parts.settings.last_scale_steps, orders):
        hidden = _forward(parts, inputs.take_along_dim(places[..., None], dim=1), parts.last, places)
        found.append((hidden, *_choose(parts, hidden, parts.last)))
    hidden, codes, embedding = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    back = orders.argsort(dim=1)
    rows = back.repeat(len(hidden) // len(back), 1)
    return (
        hidden.take_along_dim(rows[..., None], dim=1),
        codes.take_along_dim(back, dim=1),
        embedding.take_along_dim(back[..., None], dim=1),
    )


def _random_orders(parts: Parts, count: int) -> Tensor:
    device = parts.transformer.device
    orders = [torch.randperm(count, generator=g, device=g.device) for g in parts.generators]
    return torch.stack([order.to(device) for order in orders])


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
        return normal(shape, parts.generators).to(condition.device)

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
