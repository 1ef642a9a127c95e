"""The recipe of a generator."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, PlainValidator, field_validator, model_validator

from openhart.checks import Count, Natural, PathText, Text, check_settings
from openhart.generation.settings import SamplingSettings
from openhart.scales import OptionalScales
from openhart.training.generator.hart.settings import (
    CodeLoss,
    EmbeddingLosses,
    NoisyContext,
    ResidualHead,
    TokenDropping,
)
from openhart.training.generator.settings import Conditioning, Lora
from openhart.training.run.settings import Data, OptimizerSettings, Run, Section
from openhart.transformer.model import HartTransformer

SHOWN_SAMPLES = 64
NO_CACHE, MEMORY = "none", "memory"
SAMPLES = {"text": "sample_prompts", "label": "sample_labels"}


def _cache(value: Any) -> str:
    if isinstance(value, bool):  # as recipes were written before the words
        return MEMORY if value else NO_CACHE
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value
    raise ValueError(f"must be none, memory or the name of a folder, got {value!r:.60}")


class GeneratorRecipe(Section):
    """Everything that makes a generator on a trained tokenizer.

    ``model`` holds HartTransformer's settings; scales, codes and context are filled in from the
    tokenizer and the condition encoder; one that is given nevertheless must agree. ``scales`` replaces the
    tokenizer's own, for another resolution. ``initial`` names a pipeline to start from, which may have
    other scales. ``lora`` trains adapters of it alone. ``noise``, ``embedding_losses`` and ``code_loss``
    change what is learned (:mod:`openhart.training.generator.hart.settings`). ``cache: memory`` encodes the data
    once, before the first step; ``cache: none`` encodes each batch; any other word names a folder that
    ``openhart data cache`` filled. ``sample_prompts``, or ``sample_labels`` for classes, are generated into
    the log every ``run.sample_every`` steps.
    """

    run: Run
    data: Data
    tokenizer: PathText
    scales: OptionalScales = None
    steps: Count
    model: dict[str, Any] = Field(default={})
    conditioning: Conditioning = Conditioning()
    residual: ResidualHead | None = ResidualHead()
    optimizer: OptimizerSettings
    token_dropping: TokenDropping | None = Field(
        default=None, validation_alias=AliasChoices("token_dropping", "thinning")
    )
    noise: NoisyContext | None = None
    embedding_losses: EmbeddingLosses | None = None
    code_loss: CodeLoss = CodeLoss()
    cache: Annotated[str, PlainValidator(_cache)] = MEMORY
    initial: PathText | None = None
    lora: Lora | None = None
    sample_prompts: list[Text] = Field(default=[], max_length=SHOWN_SAMPLES)
    sample_labels: list[Natural] = Field(default=[], max_length=SHOWN_SAMPLES)
    sampling: dict[str, Any] = Field(default={})

    @property
    def cache_folder(self) -> Path | None:
        """The folder of the cache on disk, or None."""
        return None if self.cache in (NO_CACHE, MEMORY) else Path(self.cache)

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_settings(HartTransformer, value, "model")
        return value

    @field_validator("sampling")
    @classmethod
    def _sampling_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        SamplingSettings(**value)
        return value

    @model_validator(mode="after")
    def _adapters_need_a_model(self) -> "GeneratorRecipe":
        if self.lora is not None and self.initial is None:
            raise ValueError("lora adapts a trained model: name it as initial")
        return self

    @model_validator(mode="after")
    def _dropped_words_need_the_encoder(self) -> "GeneratorRecipe":
        if self.conditioning.word_drop and self.cache_folder is not None:
            raise ValueError(
                "conditioning.word_drop needs captions, and a cache on disk has only their encodings: "
                "use cache: memory"
            )
        return self

    @model_validator(mode="after")
    def _a_wide_head_needs_the_map(self) -> "GeneratorRecipe":
        if self.token_dropping is not None and self.residual is not None and self.residual.kind == "wide":
            raise ValueError(
                "token_dropping leaves out tokens that a wide residual head looks at: take kind: token"
            )
        return self

    @model_validator(mode="after")
    def _samples_need_their_condition(self) -> "GeneratorRecipe":
        wanted = SAMPLES[self.conditioning.kind]
        if any(getattr(self, name) for name in SAMPLES.values() if name != wanted):
            raise ValueError(f"conditioning.kind is {self.conditioning.kind}: its samples are {wanted}")
        classes = self.conditioning.num_classes
        if classes is not None and any(label >= classes for label in self.sample_labels):
            raise ValueError(f"sample_labels: there are {classes} classes, 0 to {classes - 1}")
        return self
