"""The recipe of a MAR."""

from typing import Any

from pydantic import Field, model_validator

from openhart.checks import Below1, Depth, Width
from openhart.generation.masked_settings import MaskedSamplingSettings
from openhart.scales import Scales
from openhart.tokenizer.kl import KLAutoencoder
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.generator.settings import TruncatedNormal
from openhart.training.run.settings import Section
from openhart.transformer.masked import MaskedTransformer


class Masking(TruncatedNormal):
    """The fraction of the tokens that a step masks, one for all samples, drawn from a truncated normal
    distribution on ``min`` … 1 (MAR, arXiv 2406.11838, section 4.1)."""

    min: Below1 = 0.7


class DiffusionHead(Section):
    """Width and number of blocks of the diffusion head, and the number of times that each token is used per
    step, with its own noise each time (MAR, section 4.2)."""

    width: Width = 1024
    depth: Depth = 6
    repeats: Depth = 4


class MaskedRecipe(GeneratorRecipe):
    """Masked tokens by diffusion, given the others (MAR, arXiv 2406.11838).

    ``model.size``, the size of the latents, is that of the tokenizer's images unless it is given.
    """

    kind = "masked"
    transformer = MaskedTransformer
    image_tokenizer = KLAutoencoder
    sampling_settings = MaskedSamplingSettings

    masking: Masking = Field(default=Masking())
    diffusion_head: DiffusionHead = DiffusionHead()

    def latent_sizes(self, tokenizer: Any) -> Scales:
        """Height and width of the latents: ``model.size``, or that of the images of the tokenizer."""
        height, width = self.model.get("size") or tokenizer.feature_size(tokenizer.image_size)
        return ((height, width),)

    @model_validator(mode="after")
    def _learned_positions_have_one_size(self) -> "MaskedRecipe":
        if self.data.buckets:
            raise ValueError("data.buckets: a masked transformer learns positions of one size, leave it out")
        return self
