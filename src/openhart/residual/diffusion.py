"""Diffusion of the residual: the loss, and the formulas that it shares with the samplers.

Denoising diffusion (DDPM, arXiv 2006.11239) with the learned variance of Improved DDPM (arXiv 2102.09672).
Everything here is a plain function of any residual head.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from openhart.residual.heads import ResidualHeadOutput, StepConditions
from openhart.residual.schedule import Schedule

Size = tuple[int, int]


class Head(Protocol):
    """A network that predicts the noise in the residual, such as a ``TokenResidualHead``."""

    @property
    def limit(self) -> float:
        """Largest magnitude of x_0."""

    @property
    def clamp(self) -> bool:
        """Whether a sampler clamps its estimates of x_0 to this magnitude."""

    def embed_condition(self, condition: Tensor) -> Tensor:
        """(B, N, C) → (B, N, W)."""

    def at_steps(self, embedded: Tensor, timesteps: Tensor) -> StepConditions:
        """The conditions of tokens at several steps of the training schedule, (S,)."""

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        embedded: Tensor,
        size: Size,
        *,
        conditions: StepConditions | None = None,
    ) -> ResidualHeadOutput:
        """Predict noise and variance of noisy tokens (B, N, z)."""


def add_noise(target: Tensor, t: Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """x_t from x_0 (DDPM, equation 4); ``t`` (B, N) or (B, 1) indexes the schedule."""
    alpha_bars = schedule.alpha_bars
    return at_steps(alpha_bars.sqrt(), t) * target + at_steps((1 - alpha_bars).sqrt(), t) * noise


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
        t: steps of the schedule, (R·B, N), or (R·B, 1) for one per sample; the batch is repeated R times.
        noise: ε, (R·B, N, z).
        schedule: the training schedule.
        size: height and width of the map of tokens.

    Returns:
        mean squared noise error (R·B, N), and the bound in bits per channel (R·B, N), whose gradient reaches
        only the variance.
    """
    repeats = len(noise) // len(target)
    embedded = head.embed_condition(condition).repeat(repeats, 1, 1)
    target = target.repeat(repeats, 1, 1)
    noisy = add_noise(target, t, noise, schedule)
    timesteps = schedule.timesteps.to(t.device)[t]
    output = head(noisy, timesteps, embedded, size).prediction.float()
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
    guess = clean_estimate(noisy, noise, t, schedule)
    true_mean = posterior_mean(target, noisy, t, schedule)
    mean = posterior_mean(guess, noisy, t, schedule)
    true_log = at_steps(schedule.log_posterior_variances, t)
    log = log_variance(variance, t, schedule)
    divergence = 0.5 * (
        -1.0 + log - true_log + (true_log - log).exp() + (true_mean - mean).square() * (-log).exp()
    )
    scaled = 0.5 * log - math.log(limit)
    first_step = -_discretized_log_likelihood(target / limit, mean / limit, scaled)
    nats = torch.where((t == 0)[..., None], first_step, divergence)
    return nats.mean(dim=-1) / math.log(2.0)


def at_steps(values: Tensor, t: Tensor) -> Tensor:
    """Look up a schedule's values for steps (B, N), as float32 (B, N, 1)."""
    return values.float().to(t.device)[t][..., None]


def clean_estimate(noisy: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """The x_0 that a noise ε and x_t imply (DDPM, equation 4, solved for x_0)."""
    inverse = 1 / schedule.alpha_bars
    return at_steps(inverse.sqrt(), t) * noisy - at_steps((inverse - 1).sqrt(), t) * noise


def posterior_mean(clean: Tensor, noisy: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """μ̃_t of DDPM, equation 7."""
    before, now, betas = schedule.alpha_bars_before, schedule.alpha_bars, schedule.betas
    of_clean = betas * before.sqrt() / (1 - now)
    of_noisy = (1 - before) * (1 - betas).sqrt() / (1 - now)
    return at_steps(of_clean, t) * clean + at_steps(of_noisy, t) * noisy


def log_variance(output: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Log variance between log β̃ and log β, by the head's output in [−1, 1] (Improved DDPM, equation 15)."""
    share = (output + 1) / 2
    low, high = at_steps(schedule.log_posterior_variances, t), at_steps(schedule.betas.log(), t)
    return share * high + (1 - share) * low


def _discretized_log_likelihood(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of the 1/255-wide bin that contains a value in [−1, 1] (DDPM, equation 13)."""
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
