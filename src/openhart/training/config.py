"""Recipes: one YAML file makes a run. Names, types and ranges are checked before anything starts."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    field_validator,
    model_validator,
)
from torch import nn

from openhart.arithmetic import fastest_dtype
from openhart.checks import (
    Below1,
    Count,
    Depth,
    Flag,
    Natural,
    Number,
    PathText,
    Positive,
    Share,
    Text,
    Weight,
    Width,
    check_settings,
    parse_values,
)
from openhart.errors import UserError, reason
from openhart.generation.settings import SamplingSettings
from openhart.reading import read_text
from openhart.scales import OptionalScales
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.generator.settings import Augment, CodeLoss, EmbeddingLosses, NoisyContext
from openhart.transformer.model import HartTransformer

Rate = Annotated[Number, Field(gt=0, le=1)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=2**14)]
SHOWN_SAMPLES = 64


def _cache(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip() and "\0" not in value):
        return value
    raise ValueError(f"must be true, false or the name of a folder, got {value!r:.60}")


ENCODING_SETTINGS = {"text": ("text_encoder", "max_tokens", "instruction"), "label": ()}
SAMPLES = {"text": "sample_prompts", "label": "sample_labels"}


class Section(BaseModel):
    """A part of a recipe: unknown names are errors, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Data(Section):
    """Where images come from: a folder with ``metadata.jsonl``, class folders, webdataset shards, or ``hf:``
    and a Hugging Face data set (:func:`openhart.data.open_dataset`).

    ``buckets`` are sizes, height and width in pixels: each image is cut to the one whose aspect ratio is
    nearest its own, and a batch is of one size; without them all are cut to the tokenizer's.
    ``only`` keeps a folder's records whose fields are among those listed, such as ``style: [noto]``.
    ``copies`` shows each picture that often in an epoch: as it is, and changed as ``augment`` says.
    """

    train: PathText
    test: PathText | None = None
    only: dict[Text, list[Text]] = {}
    buckets: list[tuple[Pixels, Pixels]] = []
    augment: Augment | None = None
    copies: Width = 1
    batch_size: Width = 32
    workers: Annotated[Natural, Field(le=256)] = 1

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


class OptimizerSettings(Section):
    """Optimizer and learning-rate schedule.

    ``kind: adamw`` trains all weights by AdamW. ``kind: muon`` trains the matrices of hidden layers and the
    convolutions by Muon with ``muon_learning_rate`` and ``momentum``, and the rest by AdamW with
    ``learning_rate`` and ``betas``. Both rates follow one schedule: linear warm-up over ``warmup_steps``,
    then ``schedule: cosine`` down to ``final_ratio`` of the peak, or ``schedule: wsd``, constant until the
    last ``decay_share`` of the run and then linear down to ``final_ratio``.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: Rate
    muon_learning_rate: Rate = 0.02
    momentum: Below1 = 0.95
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: Rate = 0.4
    final_ratio: Share = 0.1
    warmup_steps: Natural = 100
    betas: tuple[Below1, Below1] = (0.9, 0.95)
    weight_decay: Annotated[Number, Field(ge=0, le=100)] = 0.0
    max_gradient_norm: Positive = 1.0


class Run(Section):
    """What every recipe says about its run.

    ``max_skipped`` steps in a row may have a loss that is not finite; ``parallel`` says how several processes
    share the generator: each has all of it, or a part (FSDP2). ``compile`` compiles transformer blocks, or a
    tokenizer's encoder and decoder, at their first step. ``trackers`` besides ``metrics.jsonl``: ``wandb`` is
    Weights & Biases, logged in to beforehand. ``precision`` is ``no`` (float32), ``bf16``, or ``fp16``, for
    generators under ``ddp`` on GPUs without bfloat16; ``auto`` takes bf16 where the machine is faster in it.
    """

    output: PathText
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    precision: Literal["no", "bf16", "fp16"] = Field(default="auto", validate_default=True)
    accumulation: Width = 1
    gradient_checkpointing: Flag = False
    compile: Flag = False
    trackers: list[Literal["tensorboard", "wandb"]] = ["tensorboard"]
    ema_decay: Below1 = 0.999
    log_every: Count = 20
    save_every: Count = 200
    sample_every: Count = 500
    keep_checkpoints: Count = 2
    max_skipped: Count = 10
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

    pictures: Share = 0.1
    codes: Share = 0.5
    nearest: Count = 100


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

    name: Text
    steps: Count
    discrete_share: Share = 0.0
    train: Literal["all", "decoder"] = "all"
    kmeans_start: Flag = False
    exchange: Exchange | None = None
    random_residual: Flag = False
    scale_dropout: Share = 0.0
    perceptual: Flag = True
    adversarial: Flag = False

    @property
    def learns_codes(self) -> bool:
        """Whether codes and φ get a gradient."""
        return self.train == "all" and self.discrete_share > 0


class TokenizerLosses(Section):
    """Weights of the tokenizer's losses.

    ``perceptual`` names the distance, null leaves it out; it is computed in every ``perceptual_every``-th
    step, always with the weight ``perceptual_weight``.
    """

    l1: Weight = 1.0
    l2: Weight = 0.0
    perceptual: Text | None = "efficientnet"
    perceptual_weight: Weight = 1.0
    perceptual_every: Count = 1
    quantization: Weight = 1.0
    commitment: Weight = 0.25
    adversarial: Weight = 0.5
    adversarial_ramp_steps: Count = 500
    discriminator_width: Annotated[Width, Field(multiple_of=2)] = 64
    discriminator_learning_rate: Rate = 1e-4


class TokenizerRecipe(Section):
    """Everything that makes a tokenizer.

    ``model`` holds HybridTokenizer's settings; ``initial`` names a tokenizer to start from instead.
    ``mirror`` flips each picture left to right in half of its appearances.
    """

    run: Run
    data: Data
    model: dict[str, Any] = {}
    phases: list[Phase] = Field(min_length=1, max_length=100)
    optimizer: OptimizerSettings
    losses: TokenizerLosses = TokenizerLosses()
    mirror: Flag = False
    revive_every: Count = 50
    revival_memory: Below1 = 0.98
    initial: PathText | None = None

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_settings(HybridTokenizer, value, "model")
        return value

    @model_validator(mode="after")
    def _codes_need_range(self) -> "TokenizerRecipe":
        if self.run.precision == "fp16":
            raise ValueError("run.precision: a tokenizer is trained in bf16 or no (float32), not fp16")
        if self.data.augment is not None:
            raise ValueError("data.augment is for generators: a tokenizer learns on pictures as they are")
        return self


class Conditioning(Section):
    """What stands in for scale 1: text (null encoder: the packaged MiniLM) or a class label.

    ``word_drop`` is the probability with which each filler word of a caption, such as an article, is left out
    (:func:`openhart.data.words.drop_words`). The captions that result are encoded while training.
    """

    kind: Literal["text", "label"] = "text"
    text_encoder: PathText = "all-MiniLM-L6-v2"
    max_tokens: Width = 24
    instruction: Text = ""
    num_classes: Count | None = None
    drop: Below1 = 0.1
    word_drop: Below1 = 0.0

    def identity(self) -> dict[str, Any]:
        """The settings on which encoded conditions depend."""
        return self.model_dump(include={"kind", *ENCODING_SETTINGS[self.kind]})


class ResidualHead(Section):
    """``kind: token`` sees one token at a time; ``wide`` also its neighbours.

    ``scaling`` sets the head's units: ``quantile``, one number, so that 99.5 % of all residuals lie in
    [−1, 1]; or ``variance``, so that each channel has variance 1. ``clip`` cuts off targets at ± that many of
    these units: those that the model's own codes leave may be large. The sampler clamps there too; without
    ``clip`` at 1, with ``variance`` at 4.
    """

    kind: Literal["token", "wide"] = "token"
    width: Width = 384
    depth: Depth = 4
    repeats: Depth = 4
    weight: Weight = 1.0
    condition_top_k: Count = 600
    condition_top_p: Annotated[Share, Field(gt=0)] = 0.96
    scaling: Literal["quantile", "variance"] = "quantile"
    clip: Positive | None = None

    @property
    def limit(self) -> float:
        """Where the sampler clamps, in the head's units."""
        return self.clip or {"quantile": 1.0, "variance": 4.0}[self.scaling]


class Thinning(Section):
    """Share of the last scale's tokens left out of a step, drawn from a truncated normal (HART,
    section 3.3): about 80 % with these values."""

    mean: Number = 1.0
    deviation: Annotated[Number, Field(ge=0.01, le=10)] = 0.25
    least: Below1 = 0.5

    @model_validator(mode="after")
    def _some_of_the_normal_lies_inside(self) -> "Thinning":
        reach = 4 * self.deviation
        if not self.least - reach <= self.mean <= 1 + reach:
            raise ValueError(
                f"mean {self.mean} lies more than 4 deviations from {self.least} … 1, where shares are drawn"
            )
        return self


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside the transformer's linear maps; all else is frozen.

    ``targets`` are ends of module names, such as ``qkv`` or ``blocks.0.mlp.up``; ``alpha / rank`` scales
    what an adapter adds.
    """

    rank: Width = 16
    alpha: Positive = 16.0
    targets: list[Text] = Field(default=["qkv", "proj", "gate", "up", "down"], min_length=1)


class GeneratorRecipe(Section):
    """Everything that makes a generator on a trained tokenizer.

    ``model`` holds HartTransformer's settings; scales, codes and context are filled in from the
    tokenizer and the condition encoder; one given all the same must agree. ``scales`` replaces the
    tokenizer's own, for another resolution. ``initial`` names a pipeline to start from; its scales may
    be others. ``lora`` trains adapters of it alone. ``noise``, ``embedding_losses`` and ``code_loss`` change
    what is learned (:mod:`openhart.training.generator.settings`). ``cache`` names a folder that
    ``openhart data cache`` filled; true encodes the data in memory before the first step, false each batch.
    ``sample_prompts``, or ``sample_labels`` for classes, are what the log shows every ``run.sample_every``
    steps.
    """

    run: Run
    data: Data
    tokenizer: PathText
    scales: OptionalScales = None
    steps: Count
    model: dict[str, Any] = {}
    conditioning: Conditioning = Conditioning()
    residual: ResidualHead | None = ResidualHead()
    optimizer: OptimizerSettings
    thinning: Thinning | None = None
    noise: NoisyContext | None = None
    embedding_losses: EmbeddingLosses | None = None
    code_loss: CodeLoss = CodeLoss()
    cache: Annotated[bool | str, PlainValidator(_cache)] = True
    initial: PathText | None = None
    lora: Lora | None = None
    sample_prompts: list[Text] = Field(default=[], max_length=SHOWN_SAMPLES)
    sample_labels: list[Natural] = Field(default=[], max_length=SHOWN_SAMPLES)
    sampling: dict[str, Any] = {}

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
        wanted = SAMPLES[self.conditioning.kind]
        if any(getattr(self, name) for name in SAMPLES.values() if name != wanted):
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
    values = _parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold the sections of a recipe, such as run and data")
    for override in overrides or []:
        _override(values, override)
    return parse_values(kind, values, str(path))


def build_model(kind: type[Model], settings: dict[str, Any]) -> Model:
    """Make a model from a recipe's settings.

    Raises:
        UserError: a name that the model does not know, or a value that cannot be.
    """
    check_settings(kind, settings, "model")
    return kind(**settings)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where} is not valid YAML: {error.problem}{place}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where} is not valid YAML: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{where} is not valid YAML: a date or a tagged value is none") from error


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise UserError(f"an override is written section.name=value, got {override!r}")
    *sections, last = name.split(".")
    place: Any = values
    for section in sections:
        place = _step_into(place, section, name)
    value = _parse_yaml(text, f"the value of {name}")
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
    if not text.isdecimal() or int(text) >= len(place):
        raise UserError(f"{name}: {text!r} must be a number below {len(place)}")
    return int(text)
