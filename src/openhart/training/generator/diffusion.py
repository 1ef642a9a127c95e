"""What the losses by diffusion of all families share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from openhart.randomness import stack_random
from openhart.residual.heads import TokenResidualHead
from openhart.residual.schedule import cosine_schedule
from openhart.training.run.flops import Cost, Counter

STEPS = len(cosine_schedule())


def draw_noise(
    tokens: tuple[int, int], repeats: int, times: int, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Draw the steps and the noise of :func:`openhart.residual.diffusion.diffusion_loss`.

    Args:
        tokens: number N of tokens per sample, and their channels z.
        repeats: R, number of times that each token is used.
        times: steps per sample and repeat: N, or 1 for all its tokens.
        generators: one per sample.

    Returns:
        steps of the training schedule (R·B, ``times``) and noise (R·B, N, z), on the CPU.
    """

    def draw_steps(*size: int, generator: torch.Generator) -> Tensor:
        return torch.randint(STEPS, size, generator=generator)

    t = stack_random(draw_steps, (repeats, times), generators)
    noise = stack_random(torch.randn, (repeats, *tokens), generators)
    return t.transpose(0, 1).flatten(0, 1), noise.transpose(0, 1).flatten(0, 1)


def diffusion_metrics(mse: Tensor, bound: Tensor) -> dict[str, Tensor]:
    """Scalars: ``diffusion``, with gradient, and its two parts."""
    return {
        "diffusion": (mse + bound).mean(),
        "diffusion/mse": mse.mean().detach(),
        "diffusion/bound": bound.mean().detach(),
    }


def head_cost(
    counter: Counter, head: TokenResidualHead, batch: int, tokens: int, repeats: int, times: int
) -> Cost:
    """A head on some tokens per sample, each repeated with its own noise.

    Args:
        counter: of the run's precision.
        head: on the meta device.
        batch: B.
        tokens: N.
        repeats: number of times that each token is used.
        times: steps per sample and repeat: N, or 1 for all its tokens.
    """
    rows = batch * repeats
    noisy = counter.tensor(rows, tokens, head.config.code_dim, needs_gradient=False)
    condition = counter.tensor(batch, tokens, head.config.condition_dim)
    t = counter.tensor(rows, times, needs_gradient=False)

    def run() -> Tensor:
        embedded = head.embed_condition(condition).repeat(repeats, 1, 1)
        prediction: Tensor = head(noisy, t, embedded, (1, tokens)).prediction
        return prediction

    return counter.count(head, run)
