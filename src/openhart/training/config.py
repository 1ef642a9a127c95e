"""Recipes: one YAML file makes a run. Names, types and ranges are checked before anything starts."""

import inspect
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
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

from openhart.arithmetic import fastest_dtype
from openhart.errors import UserError

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
    """

    train: str
    test: str | None = None
    only: dict[str, list[str]] = {}
    buckets: list[tuple[PositiveInt, PositiveInt]] = []
    batch_size: PositiveInt = 32
    workers: int = Field(default=1, ge=0)

    @field_validator("buckets")
    @classmethod
    def _one_is_no_choice(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        if len(value) == 1:
            raise ValueError("give two sizes or more, or none: then images are cut to the tokenizer's")
        return value


class OptimizerSettings(Section):
    """Optimizer and learning-rate schedule.

    ``kind: adamw`` trains all weights by AdamW. ``kind: muon`` trains the matrices of hidden layers and the
    convolutions by Muon with ``muon_learning_rate`` and ``momentum``, and the rest by AdamW with
    ``learning_rate`` and ``betas``. Both follow one schedule: linear warm-up over ``warmup_steps``, then
    ``schedule: cosine`` down to ``final_ratio`` of the peak, or ``schedule: wsd``, constant until the last
    ``decay_share`` of the run and then linear down to ``final_ratio``.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(gt=0)
    muon_learning_rate: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: float = Field(default=0.4, gt=0, le=1)
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
    Weights & Biases, logged in to beforehand. ``precision`` is ``no`` (float32), ``bf16``, or ``fp16``, for
    generators under ``ddp`` on GPUs without bfloat16; ``auto`` takes bf16 where the machine is faster in it.
    """

    output: str
    seed: int = 0
    precision: Literal["no", "bf16", "fp16"] = Field(default="auto", validate_default=True)
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
    def _choose_precision(cls, value: Any) -> Any:
        if value is False:  # as YAML reads a bare "no"
            return "no"
        if value == "auto":
            device = torch.accelerator.current_accelerator() or torch.device("cpu")
            return "bf16" if fastest_dtype(device) == torch.bfloat16 else "no"
        return value

    @model_validator(mode="after")
    def _fp16_needs_its_scaler(self) -> "Run":
        if self.precision == "fp16" and self.parallel == "fsdp":
            raise ValueError("fp16 cannot be spread by fsdp: use precision: bf16, or parallel: ddp")
        return self


class Exchange(Section):
    """Near codes in place of the true ones, for the decoder alone (RobusTok, arXiv 2503.08354).

    In a share ``pictures`` of all pictures, a share ``codes`` of the codes is exchanged, each for one of its
    ``nearest`` neighbours in the codebook.
    """

    pictures: float = Field(default=0.1, ge=0, le=1)
    codes: float = Field(default=0.5, ge=0, le=1)
    nearest: PositiveInt = 100


class Phase(Section):
    """One stretch of tokenizer training.

    ``discrete_share`` of each batch is decoded from codes, the rest from continuous features;
    ``train: decoder`` freezes encoder, codes and φ (HART, section 3.1). ``perceptual: false`` leaves out the
    perceptual loss, whose network costs more time than it saves while pictures are still soft.

    Three settings make the decoder forgiving: ``exchange`` gives it near codes in place of true ones;
    ``random_residual`` adds λ times the residual, λ uniform in [0, 1], in place of all of it;
    ``scale_dropout`` is the share of the pictures decoded from codes that get only the first scales, as many
    as drawn.
    """

    name: str
    steps: PositiveInt
    discrete_share: float = Share
    train: Literal["all", "decoder"] = "all"
    kmeans_start: bool = False
    exchange: Exchange | None = None
    random_residual: bool = False
    scale_dropout: float = Share
    perceptual: bool = True
    adversarial: bool = False

    @property
    def learns_codes(self) -> bool:
        """Whether codes and φ get a gradient."""
        return self.train == "all" and self.discrete_share > 0


class TokenizerLosses(Section):
    """Weights of the tokenizer's losses.

    ``perceptual`` names the distance, null leaves it out; it is computed in every ``perceptual_every``-th
    step, always with the weight ``perceptual_weight``.
    """

    l1: NonNegativeFloat = 1.0
    l2: NonNegativeFloat = 0.0
    perceptual: str | None = "efficientnet"
    perceptual_weight: NonNegativeFloat = 1.0
    perceptual_every: PositiveInt = 1
    quantization: NonNegativeFloat = 1.0
    commitment: NonNegativeFloat = 0.25
    adversarial: NonNegativeFloat = 0.5
    adversarial_ramp_steps: PositiveInt = 500
    discriminator_width: int = Field(default=64, gt=0, multiple_of=2)
    discriminator_learning_rate: float = Field(default=1e-4, gt=0)


class TokenizerRecipe(Section):
    """Everything that makes a tokenizer.

    ``model`` holds HybridTokenizer's settings; ``initial`` names a tokenizer to start from instead.
    ``mirror`` flips each picture left to right in half of its appearances.
    """

    run: Run
    data: Data
    model: dict[str, Any] = {}
    phases: list[Phase] = Field(min_length=1)
    optimizer: OptimizerSettings
    losses: TokenizerLosses = TokenizerLosses()
    mirror: bool = False
    revive_every: PositiveInt = 50
    revival_memory: float = Field(default=0.98, ge=0, lt=1)
    initial: str | None = None

    @model_validator(mode="after")
    def _codes_need_range(self) -> "TokenizerRecipe":
        if self.run.precision == "fp16":
            raise ValueError("run.precision: a tokenizer is trained in bf16 or no (float32), not fp16")
        return self


class Conditioning(Section):
    """What stands in for scale 1: text (null encoder: the packaged MiniLM) or a class label.

    ``word_drop`` is the probability with which each filler word of a caption, such as an article, is left out
    (:func:`openhart.data.words.drop_words`). The captions that result are encoded while training.
    """

    kind: Literal["text", "label"] = "text"
    text_encoder: str = "all-MiniLM-L6-v2"
    max_tokens: PositiveInt = 24
    instruction: str = ""
    num_classes: PositiveInt | None = None
    drop: float = Field(default=0.1, ge=0, lt=1)
    word_drop: float = Field(default=0.0, ge=0, lt=1)


class ResidualHead(Section):
    """``kind: token`` sees one token at a time; ``wide`` also its neighbours."""

    kind: Literal["token", "wide"] = "token"
    width: PositiveInt = 384
    depth: PositiveInt = 4
    repeats: PositiveInt = 4
    weight: NonNegativeFloat = 1.0
    condition_top_k: PositiveInt = 600
    condition_top_p: float = Field(default=0.96, gt=0, le=1)


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
    be others. ``lora`` trains adapters of it alone. ``cache`` names a folder that
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
    optimizer: OptimizerSettings
    thinning: Thinning | None = None
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
    def _dropped_words_need_the_encoder(self) -> "GeneratorRecipe":
        if self.conditioning.word_drop and isinstance(self.cache, str):
            raise ValueError(
                "conditioning.word_drop needs captions, a cache has only their encodings: cache: true"
            )
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
