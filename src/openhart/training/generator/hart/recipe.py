"""The recipe of HART's generator."""

from pydantic import AliasChoices, Field, model_validator

from openhart.generation.settings import SamplingSettings
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.generator.hart.settings import (
    CodeLoss,
    EmbeddingLosses,
    NoisyContext,
    ResidualHead,
    TokenDropping,
)
from openhart.training.generator.recipe import CodesRecipe
from openhart.transformer.model import HartTransformer


class HartRecipe(CodesRecipe):
    """Codes of all scales by cross-entropy and their residual by diffusion (HART, arXiv 2410.10812).

    ``initial`` may have other scales. ``noise``, ``embedding_losses`` and ``code_loss`` change what is
    learned (:mod:`openhart.training.generator.hart.settings`).
    """

    kind = "hart"
    transformer = HartTransformer
    image_tokenizer = HybridTokenizer
    sampling_settings = SamplingSettings

    residual: ResidualHead | None = ResidualHead()
    token_dropping: TokenDropping | None = Field(
        default=None, validation_alias=AliasChoices("token_dropping", "thinning")
    )
    noise: NoisyContext | None = None
    embedding_losses: EmbeddingLosses | None = None
    code_loss: CodeLoss = CodeLoss()

    @model_validator(mode="after")
    def _a_wide_head_needs_the_map(self) -> "HartRecipe":
        if self.token_dropping is not None and self.residual is not None and self.residual.kind == "wide":
            raise ValueError(
                "token_dropping leaves out tokens that a wide residual head looks at: take kind: token"
            )
        return self
