"""MAR's loop: predict some tokens in random order, given the known ones (arXiv 2406.11838, section 3.3).

The loop reads no file and modifies no object that it did not create. Work that cannot influence the result is
omitted: unknown tokens in the encoder, tokens that are not predicted now in the last block and in the
diffusion head, and the unconditional half of a step without guidance.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openhart.errors import UserError
from openhart.generation.masked_settings import MaskedSamplingSettings
from openhart.generation.states import State
from openhart.randomness import Draws
from openhart.residual.heads import TokenResidualHead
from openhart.residual.schedule import cosine_schedule
from openhart.residual.solvers import SOLVERS
from openhart.transformer.masked import MaskedTransformer


@dataclass(frozen=True)
class MaskedState(State):
    """The state of generation after one step; ``features`` are latents, 0 where tokens are still unknown.

    Attributes:
        unknown: (B, L) bool, true at tokens that are still unknown.
    """

    unknown: Tensor


@dataclass(frozen=True)
class Step:
    """One step of the loop: tokens start … stop − 1 of every order are predicted.

    Attributes:
        start: number of tokens that are still unknown after the step.
        stop: number of tokens that are unknown before it.
        guidance_scale: w_k.
    """

    start: int
    stop: int
    guidance_scale: float


def plan_steps(tokens: int, settings: MaskedSamplingSettings) -> list[Step]:
    """The steps of a loop over L tokens, those without a token to predict omitted.

    After step k of K, ⌊L·cos(π(k + 1)/2K)⌋ tokens are unknown (MaskGIT, arXiv 2202.04200, section 3.3), but
    at least one fewer than before, and at least one before the last step. As in MAR's program, linear
    guidance counts one token as unknown even after the last step.
    """
    count, unknown, steps = settings.num_inference_steps, tokens, []
    extra = max(settings.guidance_scale - 1, 0.0)
    for index in range(count):
        wanted = math.floor(tokens * math.cos(math.pi / 2 * (index + 1) / count))
        left = max(1, min(unknown - 1, wanted))
        share = (tokens - left) / tokens if settings.guidance_schedule == "linear" else 1.0
        start = 0 if index == count - 1 else left
        if start < unknown:
            steps.append(Step(start, unknown, 1 + extra * share))
        unknown = start
    return steps


@torch.no_grad()
def generate_masked(
    transformer: MaskedTransformer,
    head: TokenResidualHead,
    context: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    draws: Draws,
    settings: MaskedSamplingSettings,
) -> Iterator[MaskedState]:
    """Generate latents in steps.

    Args:
        transformer: computes the condition of each token.
        head: generates a token from its condition by diffusion.
        context: context tokens (B, T, D) and their mask (B, T).
        empty: the context that guidance steers away from, and its mask; of batch size B, or 1 for all, and of
            T tokens, or 1 that stands at all positions.
        draws: the source of orders and noise; its ``batch`` is the number of images B. Per step it gives the
            first noise of the predicted tokens, by ascending place, and then that of each diffusion step.
        settings: the sampling settings.

    Yields:
        the state after each step. Features that are changed in place change what follows.

    Raises:
        UserError: if generated tokens are not finite.
    """
    device, length = context[0].device, transformer.num_tokens
    orders = draws.orders(length).to(device)
    latents = torch.zeros(draws.batch, transformer.config.latent_channels, *transformer.size, device=device)
    steps = plan_steps(length, settings)
    for index, step in enumerate(steps):
        wanted = orders[:, step.start : step.stop].sort(dim=1).values
        known = orders[:, step.stop :].sort(dim=1).values
        tokens = transformer.patchify(latents)
        conditions = _conditions(transformer, tokens, known, wanted, context, empty, step)
        found = _sample(head, conditions, step.guidance_scale, draws, settings)
        tokens = tokens.scatter(1, wanted[..., None].expand_as(found), found)
        latents = transformer.unpatchify(tokens)
        unknown = torch.zeros(len(tokens), length, dtype=torch.bool, device=device)
        unknown.scatter_(1, orders[:, : step.start], True)
        yield MaskedState(index, len(steps), latents, unknown)


def _conditions(
    transformer: MaskedTransformer,
    tokens: Tensor,
    known: Tensor,
    wanted: Tensor,
    context: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    step: Step,
) -> tuple[Tensor, Tensor | None]:
    """Conditions (B, n, C) of the wanted tokens with the context and, in a guided step, without it."""
    if step.guidance_scale <= 1:
        return transformer(tokens, known, *context, wanted).hidden_states, None
    joint = [_joined(with_it, without, len(tokens)) for with_it, without in zip(context, empty, strict=True)]
    twice = [each.repeat(2, *[1] * (each.ndim - 1)) for each in (tokens, known, wanted)]
    hidden = transformer(twice[0], twice[1], *joint, twice[2]).hidden_states
    conditional, unconditional = hidden.chunk(2)
    return conditional, unconditional


def _joined(context: Tensor, empty: Tensor, batch: int) -> Tensor:
    """Both halves of a guided batch, of the larger number of context tokens."""
    tokens = max(context.shape[1], empty.shape[1])
    halves = [half.expand(batch, tokens, *half.shape[2:]) for half in (context, empty)]
    return torch.cat([halves[0], halves[1].to(halves[0].dtype)])


def _sample(
    head: TokenResidualHead,
    conditions: tuple[Tensor, Tensor | None],
    guidance_scale: float,
    draws: Draws,
    settings: MaskedSamplingSettings,
) -> Tensor:
    """Tokens (B, n, c) in the units of the latents, each by itself given its condition."""
    conditional, unconditional = conditions
    count, device = conditional.shape[1], conditional.device
    shape = (count, head.config.code_dim)

    def draw() -> Tensor:
        return settings.temperature * draws.normal(shape).to(device)

    first = draws.normal(shape).to(device)
    solver: Any = SOLVERS[settings.diffusion_solver]
    schedule = solver.respace(cosine_schedule(), settings.diffusion_steps)
    found = solver.sample(head, conditional, unconditional, guidance_scale, first, draw, schedule, (1, count))
    if not found.isfinite().all():
        raise UserError(
            "the generated tokens are not finite: the model's weights or the condition are broken, or too "
            f"large for {head.dtype}"
        )
    tokens: Tensor = head.from_units(found)
    return tokens
