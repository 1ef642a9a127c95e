"""Samplers of the residual: they run a schedule backwards under classifier-free guidance."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.residual.diffusion import Head, Size, clean_estimate, log_variance, posterior_mean
from openhart.residual.schedule import Schedule, respace, respace_evenly_in_noise


def sample(
    head: Head,
    condition: Tensor,
    unconditional: Tensor | None,
    guidance: float,
    noise: Tensor,
    draw: Callable[[], Tensor],
    schedule: Schedule,
    size: Size,
) -> Tensor:
    """Sample x_0 by running the schedule backwards (DDPM, algorithm 2) under classifier-free guidance.

    Args:
        head: predicts noise and variance.
        condition: (B, N, C).
        unconditional: (B, N, C), for guidance; None for no guidance.
        guidance: w in ε_uncond + w·(ε_cond − ε_uncond).
        noise: x_T, (B, N, z).
        draw: returns new noise (B, N, z); called at every step except the last.
        schedule: usually respaced.
        size: height and width of the map.

    Returns:
        (B, N, z), in the head's units.
    """
    predict = _guided(head, condition, unconditional, guidance, size)
    x = noise
    for step in reversed(range(len(schedule))):
        t = torch.full((len(x), 1), step, device=x.device)
        predicted, variance = predict(x, schedule.timesteps.to(x.device)[t])
        guess = _clean_estimate(head, x, predicted, t, schedule)
        x_mean = posterior_mean(guess, x, t, schedule)
        if step == 0:
            return x_mean
        x = x_mean + (0.5 * log_variance(variance, t, schedule)).exp() * draw()
    return x


def solve(
    head: Head,
    condition: Tensor,
    unconditional: Tensor | None,
    guidance: float,
    noise: Tensor,
    draw: Callable[[], Tensor],
    schedule: Schedule,
    size: Size,
) -> Tensor:
    """As :func:`sample`, without new noise: DPM-Solver++ of second order (arXiv 2211.01095, algorithm 2).

    λ is the half log signal-to-noise ratio; the last step returns the clean estimate itself.
    """
    predict = _guided(head, condition, unconditional, guidance, size)
    signals, noises = schedule.alpha_bars.sqrt(), (1 - schedule.alpha_bars).sqrt()
    lambdas = (signals / noises).log()
    x, before = noise, None
    for step in reversed(range(len(schedule))):
        t = torch.full((len(x), 1), step, device=x.device)
        predicted, _ = predict(x, schedule.timesteps.to(x.device)[t])
        guess = _clean_estimate(head, x, predicted, t, schedule)
        if step == 0:
            return guess
        ahead = float(lambdas[step - 1] - lambdas[step])
        slope = guess
        if before is not None:
            ratio = float(lambdas[step] - lambdas[step + 1]) / ahead
            slope = (1 + 1 / (2 * ratio)) * guess - 1 / (2 * ratio) * before
        x = float(noises[step - 1] / noises[step]) * x - float(signals[step - 1]) * math.expm1(-ahead) * slope
        before = guess
    return x


def centre(
    head: Head,
    condition: Tensor,
    unconditional: Tensor | None,
    guidance: float,
    noise: Tensor,
    draw: Callable[[], Tensor],
    schedule: Schedule,
    size: Size,
) -> Tensor:
    """As :func:`solve`, from zero noise: one value per condition, independent of the seed.

    If x_0 is normally distributed given its condition, this is its mean, because the solver is then a linear
    map of the noise; otherwise it is a value from the middle of the distribution.
    """
    start = torch.zeros_like(noise)
    return solve(head, condition, unconditional, guidance, start, draw, schedule, size)


@dataclass(frozen=True)
class Solver:
    """A sampler and the function that selects its steps from the training schedule."""

    respace: Callable[[Schedule, int], Schedule]
    sample: Callable[..., Tensor]


SOLVERS = {
    "ddpm": Solver(respace, sample),
    "dpm++": Solver(respace_evenly_in_noise, solve),
    "mean": Solver(respace_evenly_in_noise, centre),
}


def _clean_estimate(head: Head, x: Tensor, predicted: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    guess = clean_estimate(x, predicted, t, schedule)
    return guess.clamp(-head.limit, head.limit) if head.clamp else guess


def _guided(
    head: Head, condition: Tensor, unconditional: Tensor | None, guidance: float, size: Size
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function of noisy tokens and their timesteps that returns guided noise and variance."""
    conditions = condition if unconditional is None else torch.cat([condition, unconditional])
    embedded = head.embed_condition(conditions)

    def predict(x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        copies = len(conditions) // len(x)
        output = head(x.repeat(copies, 1, 1), timestep.repeat(copies, 1), embedded, size).prediction.float()
        predicted, variance = output.chunk(2, dim=-1)
        if unconditional is not None:
            with_condition, without = predicted.chunk(2)
            predicted = guidance * with_condition - (guidance - 1) * without
        return predicted, variance[: len(x)]

    return predict
