"""Normally distributed latents (variational autoencoder, arXiv 1312.6114)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.training.run.flops import Counter
from openhart.training.tokenizer.bottleneck import Bottleneck, Passed
from openhart.training.tokenizer.kl.recipe import KlRecipe
from openhart.training.tokenizer.recipe import Phase


@dataclass(frozen=True)
class LatentNoise:
    """Random numbers of B samples.

    Attributes:
        normal: (B, z, h, w), standard normal.
    """

    normal: Tensor

    def part(self, rows: slice, device: torch.device) -> "LatentNoise":
        """The numbers of some of the samples, on a device."""
        return LatentNoise(self.normal[rows].to(device))


class NormalLatents(Bottleneck[KlRecipe]):
    """Latents are drawn from the encoder's distribution, which is drawn to the standard normal one."""

    @property
    def tokens(self) -> int:
        """Positions of the latents."""
        height, width = self.tokenizer.feature_size(self.tokenizer.image_size)
        tokens: int = height * width
        return tokens

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image's latents, (z, h, w)."""
        size = self.tokenizer.feature_size(self.tokenizer.image_size)
        return (self.tokenizer.config.latent_channels, *size)

    def draw(self, number: int, phase: Phase, batch: int, generator: torch.Generator) -> LatentNoise:
        """One draw per sample."""
        return LatentNoise(torch.randn(batch, *self.shape, generator=generator))

    def stand_in(self, counter: Counter, batch: int) -> LatentNoise:
        """Numbers without storage."""
        return LatentNoise(counter.tensor(batch, *self.shape, needs_gradient=False))

    def __call__(self, image: Tensor, choices: LatentNoise, phase: Phase) -> Passed:
        """Images (B, 3, H, W) → latents (B, z, h, w)."""
        found = self.tokenizer.encode(image).latent_dist
        latents = self.tokenizer.scaled(found.mean + found.std * choices.normal)
        divergence = found.kl().mean() / image[0].numel()
        return Passed(latents, self.recipe.losses.kl_weight * divergence, {"kl": divergence})

    @torch.no_grad()
    def finish(self, images: Tensor) -> None:
        """Unless the recipe states ``latent_scale``, choose it so that latents have a standard deviation of 1
        (latent diffusion, arXiv 2112.10752, appendix G)."""
        if "latent_scale" in self.recipe.model:
            return
        found = self.tokenizer.encode(images).latent_dist
        variance = found.mean.var() + found.var.mean()
        self.tokenizer.register_to_config(latent_scale=float(variance.sqrt().reciprocal()))
