"""Noise schedules of the residual's diffusion.

Denoising diffusion (DDPM, arXiv 2006.11239) with the cosine schedule and respacing of Improved DDPM
(arXiv 2102.09672).
"""

import math
from dataclasses import dataclass
from itertools import accumulate, repeat

import torch
from torch import Tensor

from openhart.errors import UserError

FIRST_LAMBDA = -4.0


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a diffusion process; tensors of shape (steps,).

    Attributes:
        timesteps: index of each step in the training schedule.
        betas: β_t.
        alpha_bars: ᾱ_t, products of 1 − β.
        alpha_bars_before: ᾱ_{t−1}; 1 for the first step.
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
        """log β̃_t; the first, which would be log 0, is replaced by the second."""
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
    """Keep ``steps`` evenly spaced steps of a schedule (Improved DDPM, section 4).

    As in the programs of HART and MAR, the distance is added up in double precision and halves are rounded to
    even numbers: a product in place of the sum would keep another step for some counts, such as 23.

    Raises:
        UserError: fewer than one step, or more than the schedule has.
    """
    _check_steps(schedule, steps)
    distance = (len(schedule) - 1) / max(steps - 1, 1)
    positions = accumulate(repeat(distance, steps - 1), initial=0.0)
    return _keep(schedule, torch.tensor([round(position) for position in positions]))


def respace_evenly_in_noise(schedule: Schedule, steps: int) -> Schedule:
    """Keep steps of nearly even distance in the half log signal-to-noise ratio λ, from −4 (mostly noise) on.

    Raises:
        UserError: fewer than one step, or more than the schedule has.
    """
    _check_steps(schedule, steps)
    lambdas = (schedule.alpha_bars / (1 - schedule.alpha_bars)).log() / 2
    wanted = torch.linspace(FIRST_LAMBDA, float(lambdas[0]), steps, dtype=torch.float64)
    return _keep(schedule, (lambdas[:, None] - wanted).abs().argmin(dim=0).unique())


def _check_steps(schedule: Schedule, steps: int) -> None:
    if not 1 <= steps <= len(schedule):
        raise UserError(f"residual steps must be from 1 to {len(schedule)}, got {steps}")


def _keep(schedule: Schedule, kept: Tensor) -> Schedule:
    alpha_bars = schedule.alpha_bars[kept]
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    return _schedule(schedule.timesteps[kept], 1 - alpha_bars / before)


def _schedule(timesteps: Tensor, betas: Tensor) -> Schedule:
    alpha_bars = (1 - betas).cumprod(dim=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    return Schedule(timesteps, betas, alpha_bars, before)
