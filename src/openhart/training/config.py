"""Recipes: one YAML file makes a run. Names, types and ranges are checked before anything starts."""

import inspect
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from torch import nn

from openhart.errors import UserError
from openhart.training.generator_settings import Augment, CodeLoss, EmbeddingLosses, NoisyContext

Share = Field(default=0.0, ge=0, le=1)


class Section(BaseModel):
    """A part of a recipe: unknown names are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Data(Section):
    """Where images come from: a folder with ``metadata.jsonl``, class folders, webdataset shards, or ``hf:``
    and a Hugging Face data set (:func:`openhart.data.open_dataset`).

    ``buckets`` are sizes, height and width in pixels: each image is cut to the one whose aspect ratio is
    nearest its own, and a batch is of one size; without them all are cut to the tokenizer's.
    ``only`` keeps a folder's records whose fields are among those listed, such as ``style: [noto]``.
    ``copies`` shows each picture that often in an epoch: as it is, and changed as ``augment`` says.
    """

    train: str
    test: str | None = None
    only: dict[str, list[str]] = {}
    buckets: list[tuple[PositiveInt, PositiveInt]] = []
    augment: Augment | None = None
    copies: PositiveInt = 1
    batch_size: PositiveInt = 32
    workers: int = Field(default=1, ge=0)

    @field_validator("buckets")
    @classmethod
    def _one_is_no_choice(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        if len(value) == 1:
            raise ValueError("give two sizes or more, or none: then images are cut to the tokenizer's")
        return value

    @model_validator(mode="after")
    def _copies_differ(self) -> "Data":
        if (self.augment is None) != (self.copies == 1):
            raise ValueError("augment says how copies differ, the first being the picture itself: give both")
        return self


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(gt=0)
    final_ratio: float = Field(default=0.1, ge=0, le=1)
    warmup_steps: int = Field(default=100, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.0
    max_gradient_norm: float = Field(default=1.0, gt=0)


class Run(Section):
    """What every recipe says about its run.

    ``max_skipped`` steps in a row may have a loss that is not finite; ``parallel`` says how several processes
    share the generator: each has all of it, or a part (FSDP2). ``compile`` compiles transformer blocks, or a
    tokenizer's encoder and decoder, at their first step. ``trackers`` besides ``metrics.jsonl``: ``wandb`` is
    Weights & Biases, logged in to beforehand. ``precision: fp16``, for GPUs that have no bfloat16, is for
    generators under ``ddp``.
    """

    output: str
    seed: int = 0
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    accumulation: PositiveInt = 1
    gradient_checkpointing: bool = False
    compile: bool = False
    trackers: list[Literal["tensorboard", "wandb"]] = ["tensorboard"]
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    log_every: PositiveInt = 20
    save_every: PositiveInt = 200
    sample_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    max_skipped: PositiveInt = 10
    parallel: Literal["ddp", "fsdp"] = "ddp"

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        return "no" if value is False else value  # as YAML reads it

    @model_validator(mode="after")
    def _fp16_needs_its_scaler(self) -> "Run":
        if self.precision == "fp16" and self.parallel == "fsdp":
            raise ValueError("fp16 cannot be spread by fsdp: use precision: bf16, or parallel: ddp")
        return self


class Phase(Section):
    """One stretch of tokenizer training.

    ``discrete_share`` of each batch is decoded from codes, the rest from continuous features;
    ``train: decoder`` freezes encoder, codes and φ (HART, section 3.1).
    """

    name: str
    steps: PositiveInt
    discrete_share: float = Share
    train: Literal["all", "decoder"] = "all"
    kmeans_start: bool = False
    adversarial: bool = False

    @property
    def learns_codes(self) -> bool:
        """Whether codes and φ get a gradient."""
        return self.train == "all" and self.discrete_share > 0


class TokenizerLosses(Section):
    """Weights of the tokenizer's losses; ``perceptual`` names the distance, null leaves it out."""

    l1: NonNegativeFloat = 1.0
    l2: NonNegativeFloat = 0.0
    perceptual: str | None = "efficientnet"
    perceptual_weight: NonNegativeFloat = 1.0
    quantization: NonNegativeFloat = 1.0
    commitment: NonNegativeFloat = 0.25
    adversarial: NonNegativeFloat = 0.5
    adversarial_ramp_steps: PositiveInt = 500
    discriminator_width: int = Field(default=64, gt=0, multiple_of=2)
    discriminator_learning_rate: float = Field(default=1e-4, gt=0)


class TokenizerRecipe(Section):
    """Everything that makes a tokenizer.

    ``model`` holds HybridTokenizer's settings; ``initial`` names a tokenizer to start from instead.
    """

    run: Run
    data: Data
    model: dict[str, Any] = {}
    phases: list[Phase] = Field(min_length=1)
    optimizer: Optimizer
    losses: TokenizerLosses = TokenizerLosses()
    revive_every: PositiveInt = 50
    revival_memory: float = Field(default=0.98, ge=0, lt=1)
    initial: str | None = None

    @model_validator(mode="after")
    def _codes_need_range(self) -> "TokenizerRecipe":
        if self.run.precision == "fp16":
            raise ValueError("run.precision: a tokenizer is trained in bf16 or no (float32), not fp16")
        if self.data.augment is not None:
            raise ValueError("data.augment is for generators: a tokenizer learns on pictures as they are")
        return self


class Conditioning(Section):
    """What stands in for scale 1: text (null encoder: the packaged MiniLM) or a class label."""

    kind: Literal["text", "label"] = "text"
    text_encoder: str = "all-MiniLM-L6-v2"
    max_tokens: PositiveInt = 24
    instruction: str = ""
    num_classes: PositiveInt | None = None
    drop: float = Field(default=0.1, ge=0, lt=1)


class ResidualHead(Section):
    """``kind: token`` sees one token at a time; ``wide`` also its neighbours.

    ``scaling`` sets the head's units: ``quantile``, one number, so that 99.5 % of all residuals lie in
    [−1, 1]; or ``variance``, so that each channel has variance 1. ``clip`` cuts off targets at ± that many of
    these units: those that the model's own codes leave may be large. The sampler clamps there too; without
    ``clip`` at 1, with ``variance`` at 4.
    """

    kind: Literal["token", "wide"] = "token"
    width: PositiveInt = 384
    depth: PositiveInt = 4
    repeats: PositiveInt = 4
    weight: NonNegativeFloat = 1.0
    condition_top_k: PositiveInt = 600
    condition_top_p: float = Field(default=0.96, gt=0, le=1)
    scaling: Literal["quantile", "variance"] = "quantile"
    clip: float | None = Field(default=None, gt=0)

    @property
    def limit(self) -> float:
        """Where the sampler clamps, in the head's units."""
        return self.clip or {"quantile": 1.0, "variance": 4.0}[self.scaling]


class Thinning(Section):
    """Share of the last scale's tokens left out of a step, drawn from a truncated normal (HART,
    section 3.3): about 80 % with these values."""

    mean: float = 1.0
    deviation: float = Field(default=0.25, gt=0)
    least: float = Field(default=0.5, ge=0, le=1)


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside the transformer's linear maps; all else is frozen.

    ``targets`` are ends of module names, such as ``qkv`` or ``blocks.0.mlp.up``; ``alpha / rank`` scales
    what an adapter adds.
    """

    rank: PositiveInt = 16
    alpha: float = Field(default=16.0, gt=0)
    targets: list[str] = Field(default=["qkv", "proj", "gate", "up", "down"], min_length=1)


class GeneratorRecipe(Section):
    """Everything that makes a generator on a trained tokenizer.

    ``model`` holds HartTransformer's settings; scales, codes and context are filled in from the
    tokenizer and the condition encoder; one given all the same must agree. ``scales`` replaces the
    tokenizer's own, for another resolution. ``initial`` names a pipeline to start from; its scales may
    be others. ``lora`` trains adapters of it alone. ``noise``, ``embedding_losses`` and ``code_loss`` change
    what is learned (:mod:`openhart.training.generator_settings`). ``cache`` names a folder that
    ``openhart data cache`` filled; true encodes the data in memory before the first step, false each batch.
    ``sample_prompts``, or ``sample_labels`` for classes, are what the log shows every ``run.sample_every``
    steps.
    """

    run: Run
    data: Data
    tokenizer: str
    scales: list[int | tuple[int, int]] | None = None
    steps: PositiveInt
    model: dict[str, Any] = {}
    conditioning: Conditioning = Conditioning()
    residual: ResidualHead | None = ResidualHead()
    optimizer: Optimizer
    thinning: Thinning | None = None
    noise: NoisyContext | None = None
    embedding_losses: EmbeddingLosses | None = None
    code_loss: CodeLoss = CodeLoss()
    cache: bool | str = True
    initial: str | None = None
    lora: Lora | None = None
    sample_prompts: list[str] = []
    sample_labels: list[NonNegativeInt] = []
    sampling: dict[str, Any] = {}

    @model_validator(mode="after")
    def _adapters_need_a_model(self) -> "GeneratorRecipe":
        if self.lora is not None and self.initial is None:
            raise ValueError("lora adapts a trained model: name it as initial")
        return self

    @model_validator(mode="after")
    def _a_wide_head_needs_the_map(self) -> "GeneratorRecipe":
        if self.thinning is not None and self.residual is not None and self.residual.kind == "wide":
            raise ValueError(
                "thinning leaves out tokens that a wide residual head looks at: take kind: token"
            )
        return self

    @model_validator(mode="after")
    def _samples_need_their_condition(self) -> "GeneratorRecipe":
        other = self.sample_labels if self.conditioning.kind == "text" else self.sample_prompts
        if other:
            wanted = "sample_prompts" if self.conditioning.kind == "text" else "sample_labels"
            raise ValueError(f"conditioning.kind is {self.conditioning.kind}: its samples are {wanted}")
        classes = self.conditioning.num_classes
        if classes is not None and any(label >= classes for label in self.sample_labels):
            raise ValueError(f"sample_labels: there are {classes} classes, 0 to {classes - 1}")
        return self


Model = TypeVar("Model", bound=nn.Module)
Recipe = TypeVar("Recipe", TokenizerRecipe, GeneratorRecipe)


def load_recipe(path: Path, kind: type[Recipe], overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and check it.

    Args:
        path: the YAML file.
        kind: :class:`TokenizerRecipe` or :class:`GeneratorRecipe`.
        overrides: ``section.name=value`` strings; values are read as YAML.

    Raises:
        UserError: no such file, not YAML, or a name, type or range that does not fit.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read recipe {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold the sections of a recipe, such as run and data")
    for override in overrides or []:
        _override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(": ".join(part for part in (str(path), place, message) if part)) from error


def build_model(kind: type[Model], settings: dict[str, Any]) -> Model:
    """Make a model from a recipe's settings.

    Raises:
        UserError: a name that the model does not know, or a value of the wrong kind.
    """
    known = inspect.signature(kind).parameters
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise UserError(f"model: {kind.__name__} has no setting {unknown[0]}; it has {', '.join(known)}")
    try:
        return kind(**settings)
    except TypeError as error:
        raise UserError(f"model: a setting of {kind.__name__} is of the wrong kind: {error}") from error


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"an override is written section.name=value, got {override!r}")
    *sections, last = name.split(".")
    place: Any = values
    for section in sections:
        place = _step_into(place, section, name)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value of {name} is not valid YAML: {text!r}") from error
    if isinstance(place, list):
        place[_index(place, last, name)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise UserError(f"{name} names nothing in the recipe")


def _step_into(place: Any, section: str, name: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, section, name)]
    if not isinstance(place, dict):
        raise UserError(f"{name} names nothing in the recipe: {section!r} has no parts")
    return place.setdefault(section, {})


def _index(place: list[Any], text: str, name: str) -> int:
    if not text.isdigit() or int(text) >= len(place):
        raise UserError(f"{name}: {text!r} must be a number below {len(place)}")
    return int(text)
