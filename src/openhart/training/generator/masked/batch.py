"""Batches of MAR: latents, which of their tokens are masked, and one condition per sample."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from openhart.data.sample import Sample
from openhart.randomness import stack_random
from openhart.tokenizer.kl import KLAutoencoder
from openhart.training.encoding.conditions import Conditions, EncoderInputs
from openhart.training.encoding.images import Encoded
from openhart.training.generator.diffusion import draw_noise
from openhart.training.generator.masked.recipe import Masking


@dataclass(frozen=True)
class MaskedBatch:
    """A batch as the losses take it.

    Attributes:
        latents: (B, z, h, w).
        known: places of the tokens that are not masked, (B, m), ascending.
        masked: places of the others, (B, L − m), ascending.
        condition: inputs of the encoder.
        times: steps of the schedule for the masked tokens, (R·B, L − m): the batch, repeated R times.
        noise: (R·B, L − m, c).
    """

    latents: Tensor
    known: Tensor
    masked: Tensor
    condition: EncoderInputs
    times: Tensor
    noise: Tensor


@dataclass(frozen=True)
class MaskedBatchMaker:
    """Makes batches of encoded samples.

    Attributes:
        tokenizer: encoded the samples.
        conditions: draws the condition of each sample.
        masking: fraction of the tokens that is masked.
        patch_area: places of the latents that are one token.
        repeats: number of times R that each token is used, with its own noise.
    """

    tokenizer: KLAutoencoder
    conditions: Conditions
    masking: Masking
    patch_area: int
    repeats: int

    @torch.no_grad()
    def __call__(
        self,
        encoded: Encoded,
        samples: list[Sample],
        generators: list[torch.Generator],
        common: torch.Generator,
        progress: float,
    ) -> MaskedBatch:
        """One batch of B samples, of the ``moments`` of their latents.

        Latents are sampled anew in each step. The order of the tokens is random in each sample, and the first
        ⌈r·L⌉ of each order are masked, with one fraction r for all (MAR, section 4.1).
        """
        found: Any = DiagonalGaussianDistribution(encoded["moments"])
        device, shape = found.mean.device, found.mean.shape[1:]
        spread = stack_random(torch.randn, shape, generators).to(device)
        latents = self.tokenizer.scaled(found.mean + found.std * spread)
        count = math.prod(shape[1:]) // self.patch_area
        order = stack_random(torch.rand, (count,), generators).argsort(dim=1).to(device)
        masked = math.ceil(count * self.masking.draw(common))
        condition = self.conditions.draw(samples, generators)
        tokens = (masked, shape[0] * self.patch_area)
        times, noise = draw_noise(tokens, self.repeats, masked, generators)
        return MaskedBatch(
            latents=latents,
            known=order[:, masked:].sort(dim=1).values,
            masked=order[:, :masked].sort(dim=1).values,
            condition=tuple(part.to(device) for part in condition),
            times=times.to(device),
            noise=noise.to(device),
        )
