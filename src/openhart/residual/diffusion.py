"""Diffusion of the residual: schedule, loss and sampler as plain functions of any head.

Denoising diffusion (DDPM, arXiv 2006.11239) with the cosine schedule, learned variance and respacing of
Improved DDPM (arXiv 2102.09672).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openhart.errors import UserError

Head = Any  # forward(x, t, embedded condition, size) → (B, N, 2z); embed_condition(condition); limit of |x_0|
Size = tuple[int, int]

LEAST_LAMBDA = -4.0


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a diffusion and what its posterior needs of them; tensors of shape (steps,).

    Attributes:
        timesteps: the step of the training schedule that each step stands for.
        betas: β_t.
        alpha_bars: ᾱ_t, products of 1 − β.
        alpha_bars_before: ᾱ_{t−1}, 1 before the first.
    """

    timesteps: Tensor
    betas: Tensor
    alpha_bars: Tensor
    alpha_bars_before: Tensor

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def posterior_variances(self) -> Tensor:
        """β̃_t of DDPM, equation 7."""
        return self.betas * (1 - self.alpha_bars_before) / (1 - self.alpha_bars)

    @property
    def log_posterior_variances(self) -> Tensor:
        """log β̃_t, the first (log 0) replaced by the second."""
        if len(self) == 1:
            return self.betas.log()
        variances = self.posterior_variances
        return torch.cat([variances[1:2], variances[1:]]).log()


def cosine_schedule(steps: int = 1000, largest_beta: float = 0.999) -> Schedule:
    """The training schedule (Improved DDPM, equation 17)."""

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [
        min(1 - alpha_bar((step + 1) / steps) / alpha_bar(step / steps), largest_beta)
        for step in range(steps)
    ]
    return _schedule(torch.arange(steps), torch.tensor(betas, dtype=torch.float64))


def respace(schedule: Schedule, steps: int) -> Schedule:
    """Keep ``steps`` of a schedule's steps, evenly spread (Improved DDPM, section 4).

    Raises:
        UserError: fewer than one step, or more than the schedule has.
    """
    _check_steps(schedule, steps)
    return _keep(schedule, torch.linspace(0, len(schedule) - 1, steps, dtype=torch.float64).round().long())


def respace_evenly_in_noise(schedule: Schedule, steps: int) -> Schedule:
    """Keep steps of nearly even distance in half log signal-to-noise ratio λ, from −4 (all but noise) on.

    Raises:
        UserError: fewer than one step, or more than the schedule has.
    """
    _check_steps(schedule, steps)
    lambdas = (schedule.alpha_bars / (1 - schedule.alpha_bars)).log() / 2
    wanted = torch.linspace(LEAST_LAMBDA, float(lambdas[0]), steps, dtype=torch.float64)
    return _keep(schedule, (lambdas[:, None] - wanted).abs().argmin(dim=0).unique())


def _check_steps(schedule: Schedule, steps: int) -> None:
    if not 1 <= steps <= len(schedule):
        raise UserError(f"residual steps must lie in 1 … {len(schedule)}, got {steps}")


def _keep(schedule: Schedule, kept: Tensor) -> Schedule:
    alpha_bars = schedule.alpha_bars[kept]
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    return _schedule(schedule.timesteps[kept], 1 - alpha_bars / before)


def _schedule(timesteps: Tensor, betas: Tensor) -> Schedule:
    alpha_bars = (1 - betas).cumprod(dim=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    return Schedule(timesteps, betas, alpha_bars, before)


def add_noise(target: Tensor, t: Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """x_t from x_0 (DDPM, equation 4); ``t`` (B, N) or (B, 1) indexes the schedule."""
    alpha_bars = schedule.alpha_bars
    return _at(alpha_bars.sqrt(), t) * target + _at((1 - alpha_bars).sqrt(), t) * noise


def diffusion_loss(
    head: Head,
    target: Tensor,
    condition: Tensor,
    t: Tensor,
    noise: Tensor,
    schedule: Schedule,
    size: Size,
) -> tuple[Tensor, Tensor]:
    """Noise error and variational bound of each token (Improved DDPM, equation 16, λ = 1).

    Args:
        head: predicts noise and variance.
        target: x_0, (B, N, z), in the head's units.
        condition: (B, N, C); embedded once for all repeats.
        t: steps of the schedule, (R·B, N), or (R·B, 1) for one a sample, the batch repeated R times.
        noise: ε, (R·B, N, z).
        schedule: the training schedule.
        size: height and width of the map the tokens belong to.

    Returns:
        mean squared noise error (R·B, N), and the bound in bits per channel (R·B, N), whose gradient reaches
        only the variance.
    """
    repeats = len(noise) // len(target)
    embedded = head.embed_condition(condition).repeat(repeats, 1, 1)
    target = target.repeat(repeats, 1, 1)
    noisy = add_noise(target, t, noise, schedule)
    timesteps = schedule.timesteps.to(t.device)[t]
    output = head(noisy, timesteps, embedded, size).float()
    predicted, variance = output.chunk(2, dim=-1)
    error = (noise - predicted).square().mean(dim=-1)
    return error, _bound(target, noisy, predicted.detach(), variance, t, schedule, head.limit)


def _bound(
    target: Tensor,
    noisy: Tensor,
    noise: Tensor,
    variance: Tensor,
    t: Tensor,
    schedule: Schedule,
    limit: float,
) -> Tensor:
    guess = _clean(noisy, noise, t, schedule)
    true_mean = _posterior_mean(target, noisy, t, schedule)
    mean = _posterior_mean(guess, noisy, t, schedule)
    true_log = _at(schedule.log_posterior_variances, t)
    log_variance = _log_variance(variance, t, schedule)
    divergence = 0.5 * (
        -1.0
        + log_variance
        - true_log
        + (true_log - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )
    scaled = 0.5 * log_variance - math.log(limit)
    surprise = -_discretized_log_likelihood(target / limit, mean / limit, scaled)
    nats = torch.where((t == 0)[..., None], surprise, divergence)
    return nats.mean(dim=-1) / math.log(2.0)


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
    """Draw x_0 by walking the schedule back (DDPM, algorithm 2) under classifier-free guidance.

    Args:
        head: predicts noise and variance.
        condition: (B, N, C).
        unconditional: (B, N, C), for guidance, or None for none.
        guidance: g in (1 + g)·ε_cond − g·ε_uncond.
        noise: where the walk starts, (B, N, z).
        draw: gives fresh noise (B, N, z), once a step but the last.
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
        guess = _clean(x, predicted, t, schedule).clamp(-head.limit, head.limit)
        x_mean = _posterior_mean(guess, x, t, schedule)
        if step == 0:
            return x_mean
        x = x_mean + (0.5 * _log_variance(variance, t, schedule)).exp() * draw()
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
    """As :func:`sample`, without fresh noise: DPM-Solver++ of second order (arXiv 2211.01095, algorithm 2).

    λ is the half log signal-to-noise ratio; the last step goes to the clean value itself.
    """
    predict = _guided(head, condition, unconditional, guidance, size)
    signals, noises = schedule.alpha_bars.sqrt(), (1 - schedule.alpha_bars).sqrt()
    lambdas = (signals / noises).log()
    x, before = noise, None
    for step in reversed(range(len(schedule))):
        t = torch.full((len(x), 1), step, device=x.device)
        predicted, _ = predict(x, schedule.timesteps.to(x.device)[t])
        guess = _clean(x, predicted, t, schedule).clamp(-head.limit, head.limit)
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
    """As :func:`solve`, from zero noise: one value for a condition, whatever the seed.

    Where x_0 is normally distributed given its condition, that is its mean, since the solver's path is then
    a straight map of the noise; else it is a value from the middle of the distribution.
    """
    start = torch.zeros_like(noise)
    return solve(head, condition, unconditional, guidance, start, draw, schedule, size)


@dataclass(frozen=True)
class Solver:
    """Which of the training schedule's steps to take, and how."""

    respace: Callable[[Schedule, int], Schedule]
    sample: Callable[..., Tensor]


SOLVERS = {
    "ddpm": Solver(respace, sample),
    "dpm++": Solver(respace_evenly_in_noise, solve),
    "mean": Solver(respace_evenly_in_noise, centre),
}


def _guided(
    head: Head, condition: Tensor, unconditional: Tensor | None, guidance: float, size: Size
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function of noisy tokens and their timesteps that gives guided noise, and variance."""
    conditions = condition if unconditional is None else torch.cat([condition, unconditional])
    embedded = head.embed_condition(conditions)

    def predict(x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        copies = len(conditions) // len(x)
        output = head(x.repeat(copies, 1, 1), timestep.repeat(copies, 1), embedded, size).float()
        predicted, variance = output.chunk(2, dim=-1)
        if unconditional is not None:
            with_condition, without = predicted.chunk(2)
            predicted = (1 + guidance) * with_condition - guidance * without
        return predicted, variance[: len(x)]

    return predict


def _at(values: Tensor, t: Tensor) -> Tensor:
    """Look up a schedule's values for steps (B, N), as float32 (B, N, 1)."""
    return values.float().to(t.device)[t][..., None]


def _clean(noisy: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """x_0 that noise ε and x_t imply."""
    inverse = 1 / schedule.alpha_bars
    return _at(inverse.sqrt(), t) * noisy - _at((inverse - 1).sqrt(), t) * noise


def _posterior_mean(clean: Tensor, noisy: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """μ̃_t of DDPM, equation 7."""
    before, now, betas = schedule.alpha_bars_before, schedule.alpha_bars, schedule.betas
    of_clean = betas * before.sqrt() / (1 - now)
    of_noisy = (1 - before) * (1 - betas).sqrt() / (1 - now)
    return _at(of_clean, t) * clean + _at(of_noisy, t) * noisy


def _log_variance(output: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Between log β̃ and log β, as the head's output in [−1, 1] says (Improved DDPM, equation 15)."""
    share = (output + 1) / 2
    low, high = _at(schedule.log_posterior_variances, t), _at(schedule.betas.log(), t)
    return share * high + (1 - share) * low


def _discretized_log_likelihood(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of the 1/255-wide bin that a value in [−1, 1] lies in (DDPM, equation 13)."""
    centred, sharpness = value - mean, (-log_scale).exp()
    below = _normal_cdf(sharpness * (centred + 1 / 255))
    above = _normal_cdf(sharpness * (centred - 1 / 255))
    inside = (below - above).clamp_min(1e-12).log()
    at_top = (1 - above).clamp_min(1e-12).log()
    at_bottom = below.clamp_min(1e-12).log()
    return torch.where(value < -0.999, at_bottom, torch.where(value > 0.999, at_top, inside))


def _normal_cdf(x: Tensor) -> Tensor:
    """Tanh approximation of the normal distribution function (GELU, arXiv 1606.08415, section 2)."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
