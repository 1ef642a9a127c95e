"""The recipe of VQGAN's transformer."""

from pydantic import model_validator

from openhart.checks import Below1
from openhart.generation.raster_settings import RasterSampling
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.training.generator.recipe import CodesRecipe
from openhart.transformer.raster import RasterTransformer


class RasterRecipe(CodesRecipe):
    """Each code by cross-entropy, given those before it (VQGAN, arXiv 2012.09841, section 3.2).

    ``random_codes`` is the probability with which a code among the inputs is replaced by a random one, while
    the codes to be predicted stay (the published program's ``pkeep`` is 1 − ``random_codes``).
    ``conditioning.kind: none`` makes an unconditional model.
    """

    kind = "raster"
    transformer = RasterTransformer
    image_tokenizer = VqganTokenizer
    sampling_settings = RasterSampling
    condition_kinds = ("text", "label", "none")

    random_codes: Below1 = 0.0

    @model_validator(mode="after")
    def _learned_positions_have_one_size(self) -> "RasterRecipe":
        if self.data.buckets:
            raise ValueError("data.buckets: a raster transformer learns positions of one size, leave it out")
        return self
