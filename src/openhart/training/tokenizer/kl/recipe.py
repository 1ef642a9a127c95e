"""The recipe of a continuous tokenizer, an autoencoder with normally distributed latents (KL-16)."""

from pydantic import Field

from openhart.checks import Weight
from openhart.tokenizer.kl import KLAutoencoder
from openhart.training.tokenizer.recipe import Phase, TokenizerLosses, TokenizerRecipe


class KlLosses(TokenizerLosses):
    """Weights of the losses.

    ``kl_weight`` weighs the Kullback-Leibler divergence of the latents from the standard normal distribution,
    in nats per value of the image. Latent diffusion (arXiv 2112.10752) has the same weight, 1e-6, with both
    the reconstruction loss and the divergence summed over an image.
    """

    kl_weight: Weight = 1e-6


class KlRecipe(TokenizerRecipe):
    """MAR's image tokenizer.

    ``model.latent_scale`` is measured at the end of the run, unless the recipe states it.
    """

    kind = "kl"
    tokenizer = KLAutoencoder

    phases: list[Phase] = Field(min_length=1, max_length=100)
    losses: KlLosses = KlLosses()
