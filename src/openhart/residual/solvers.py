"""Samplers of the residual: they run a schedule backwards under classifier-free guidance."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.residual.diffusion import Head, Size, clean_estimate, log_variance, posterior_mean
from openhart.residual.schedule import Schedule, respace, respace_evenly_in_noise

ROWS = 256  # rows of the matrix products that compute the conditions of several steps


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
    predict = _Guided(head, condition, unconditional, guidance, schedule, size)
    x = noise
    for step in reversed(range(len(schedule))):
        t = torch.full((len(x), 1), step, device=x.device)
        predicted, variance = predict(x, step)
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
    predict = _Guided(head, condition, unconditional, guidance, schedule, size)
    signals, noises = schedule.alpha_bars.sqrt(), (1 - schedule.alpha_bars).sqrt()
    lambdas = (signals / noises).log()
    x, before = noise, None
    for step in reversed(range(len(schedule))):
        t = torch.full((len(x), 1), step, device=x.device)
        predicted, _ = predict(x, step)
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


class _Guided:
    """Guided noise and variance of noisy tokens, at the steps of a schedule from the last to the first.

    Args:
        head: predicts noise and variance.
        condition: (B, N, C).
        unconditional: (B, N, C), or None for no guidance.
        guidance: w.
        schedule: the steps.
        size: height and width of the map.
    """

    def __init__(
        self,
        head: Head,
        condition: Tensor,
        unconditional: Tensor | None,
        guidance: float,
        schedule: Schedule,
        size: Size,
    ) -> None:
        self.head, self.guidance, self.size = head, guidance, size
        self.guided = unconditional is not None
        conditions = condition if unconditional is None else torch.cat([condition, unconditional])
        self.timesteps = schedule.timesteps.to(condition.device)
        self.embedded = head.embed_condition(conditions)
        self.together = max(ROWS // max(conditions.shape[:2].numel(), 1), 1)
        self.first = len(schedule)

    def __call__(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Noise and variance (B, N, z) each, of tokens (B, N, z)."""
        if step < self.first:
            self.first, end = max(step + 1 - self.together, 0), step + 1
            self.conditions = self.head.at_steps(self.embedded, self.timesteps[self.first : end])
        self.conditions.step = step - self.first
        twice = x.repeat(len(self.embedded) // len(x), 1, 1)
        t = self.timesteps[step].expand(len(twice), 1)
        output = self.head(twice, t, self.embedded, self.size, conditions=self.conditions)
        predicted, variance = output.prediction.float().chunk(2, dim=-1)
        if self.guided:
            with_condition, without = predicted.chunk(2)
            predicted = self.guidance * with_condition - (self.guidance - 1) * without
        return predicted, variance[: len(x)]
