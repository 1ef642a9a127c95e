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
from openhart.training.generator.masked.recipe import Masking


@dataclass(frozen=True)
class MaskedBatch:
    """A batch as the losses take it.

    Attributes:
        latents: (B, z, h, w).
        known: places of the tokens that are not masked, (B, m), ascending.
        masked: places of the others, (B, L − m), ascending.
        condition: inputs of the encoder.
        generators: one per sample.
    """

    latents: Tensor
    known: Tensor
    masked: Tensor
    condition: EncoderInputs
    generators: list[torch.Generator]


@dataclass(frozen=True)
class MaskedBatchMaker:
    """Makes batches of encoded samples.

    Attributes:
        tokenizer: encoded the samples.
        conditions: draws the condition of each sample.
        masking: fraction of the tokens that is masked.
        patch_area: places of the latents that are one token.
    """

    tokenizer: KLAutoencoder
    conditions: Conditions
    masking: Masking
    patch_area: int

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
        noise = stack_random(torch.randn, found.mean.shape[1:], generators).to(found.mean.device)
        latents = self.tokenizer.scaled(found.mean + found.std * noise)
        count = math.prod(latents.shape[-2:]) // self.patch_area
        order = stack_random(torch.rand, (count,), generators).argsort(dim=1).to(latents.device)
        masked = math.ceil(count * self.masking.draw(common))
        condition = self.conditions.draw(samples, generators)
        return MaskedBatch(
            latents=latents,
            known=order[:, masked:].sort(dim=1).values,
            masked=order[:, :masked].sort(dim=1).values,
            condition=tuple(part.to(latents.device) for part in condition),
            generators=generators,
        )
