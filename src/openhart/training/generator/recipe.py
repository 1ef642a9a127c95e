"""The recipe of a generator: what all families share."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from diffusers.models.modeling_utils import ModelMixin
from pydantic import Field, PlainValidator, field_validator, model_validator

from openhart.checks import Count, Natural, PathText, Text, check_settings, listed
from openhart.scales import OptionalScales, Scales
from openhart.training.generator.settings import Conditioning, Lora
from openhart.training.run.settings import Data, OptimizerSettings, Run, Section

SHOWN_SAMPLES = 64
NO_CACHE, MEMORY = "none", "memory"
SAMPLES = {"text": "sample_prompts", "label": "sample_labels", "none": "sample_labels"}


def _cache(value: Any) -> str:
    if isinstance(value, bool):  # as recipes were written before the words
        return MEMORY if value else NO_CACHE
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value
    raise ValueError(f"must be none, memory or the name of a folder, got {value!r:.60}")


class GeneratorRecipe(Section):
    """Everything that makes a generator on a trained tokenizer; each family has a subclass.

    ``model`` holds ``kind``, the family (``hart``, ``masked`` or ``raster``; ``hart`` if it is left out), and
    the settings of the family's transformer. What the tokenizer and the condition encoder determine is filled
    in; a value that is given nevertheless must agree. ``initial`` names a pipeline to start from, and
    ``lora`` trains adapters of it alone. ``cache: memory`` encodes the data once, before the first step;
    ``cache: none`` encodes each batch; any other word names a folder that ``openhart data cache`` filled.
    ``sample_prompts``, or ``sample_labels`` for classes, are generated into the log every
    ``run.sample_every`` steps. ``sampling`` holds the defaults of the saved pipeline.
    """

    kind: ClassVar[str]
    """Name of the family in ``model.kind``."""
    transformer: ClassVar[type[ModelMixin]]
    image_tokenizer: ClassVar[type[ModelMixin]]
    sampling_settings: ClassVar[type]
    condition_kinds: ClassVar[tuple[str, ...]] = ("text", "label")

    run: Run
    data: Data
    tokenizer: PathText
    steps: Count
    model: dict[str, Any] = Field(default={})
    conditioning: Conditioning = Conditioning()
    optimizer: OptimizerSettings
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

    @property
    def width(self) -> int:
        """The transformer's width C, which is that of a label's context token."""
        return int(check_settings(self.transformer, self.model, "model")["width"])

    @property
    def tokenizer_settings(self) -> dict[str, Any]:
        """Settings that replace those of the tokenizer's folder."""
        return {}

    def latent_sizes(self, tokenizer: Any) -> Scales:
        """Height and width of each map into which the tokenizer encodes an image; the last is the finest."""
        sizes: Scales = tokenizer.quantizer.scales
        return sizes

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        settings = dict(value)
        if settings.pop("kind", cls.kind) != cls.kind:
            raise ValueError(f"model.kind must be {cls.kind}, got {value['kind']!r:.60}")
        check_settings(cls.transformer, settings, "model")
        return settings

    @field_validator("sampling")
    @classmethod
    def _sampling_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        cls.sampling_settings(**value)
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
    def _samples_need_their_condition(self) -> "GeneratorRecipe":
        kind, classes = self.conditioning.kind, self.conditioning.classes
        if kind not in self.condition_kinds:
            raise ValueError(f"conditioning.kind must be {listed(self.condition_kinds)}, got {kind}")
        wanted = SAMPLES[kind]
        if any(getattr(self, name) for name in SAMPLES.values() if name != wanted):
            raise ValueError(f"conditioning.kind is {kind}: its samples are {wanted}")
        if classes is not None and any(label >= classes for label in self.sample_labels):
            raise ValueError(f"sample_labels: there are {classes} classes, 0 to {classes - 1}")
        return self


class CodesRecipe(GeneratorRecipe):
    """A generator of codes, whose number and order depend on the tokenizer's scales.

    ``scales`` replaces the tokenizer's own, for another resolution.
    """

    scales: OptionalScales = None

    @property
    def tokenizer_settings(self) -> dict[str, Any]:
        """The recipe's scales, if it has any."""
        return {} if self.scales is None else {"scales": self.scales}
