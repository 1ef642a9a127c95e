"""The sections of a recipe that both stages share: data, optimizer and run.

Names, types and ranges are checked before anything starts.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

from openhart.arithmetic import fastest_dtype
from openhart.checks import Below1, Count, Flag, Natural, Number, PathText, Positive, Share, Text, Width

Rate = Annotated[Number, Field(gt=0, le=1)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=2**14)]


class Section(BaseModel):
    """A part of a recipe: unknown names are errors, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Augment(Section):
    """How the copies of an image differ from it.

    Attributes:
        mirror: mirror half of the copies, except of records with ``mirror: false`` or with a caption that
            names a side, such as left.
        shift: largest shift vertically and horizontally, as a fraction of the side.
        scale: smallest and largest size relative to the original.
    """

    mirror: bool = False
    shift: float = Field(default=0.0, ge=0, le=0.5)
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)

    @model_validator(mode="after")
    def _a_range_is_ordered(self) -> "Augment":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is smallest and largest factor, got {self.scale[0]}, {self.scale[1]}")
        return self


class Data(Section):
    """Where images come from: a folder with ``metadata.jsonl``, class folders, webdataset shards, or ``hf:``
    and a Hugging Face data set (:func:`openhart.data.open_dataset`).

    ``train`` may list several, which are joined; one that is listed twice occurs twice in an epoch.
    ``buckets`` are sizes, height and width in pixels: each image is cropped to the one with the nearest
    aspect ratio, and a batch has one size; without buckets all images are cropped to the tokenizer's size.
    ``only`` keeps a folder's records whose fields are among those listed, such as ``style: [noto]``.
    ``copies`` is the number of times that each image occurs in an epoch: once unchanged, otherwise changed
    according to ``augment``. ``in_memory`` decodes all images once and keeps them, 3·H·W bytes each, on the
    device of the run.
    """

    train: PathText | Annotated[list[PathText], Field(min_length=1)]
    test: PathText | None = None
    only: dict[Text, list[Text]] = {}
    buckets: list[tuple[Pixels, Pixels]] = []
    augment: Augment | None = None
    copies: Width = 1
    batch_size: Width = 32
    workers: Annotated[Natural, Field(le=256)] = 1
    in_memory: Flag = False

    @field_validator("buckets")
    @classmethod
    def _one_is_no_choice(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        if len(value) == 1:
            raise ValueError(
                "give two sizes or more, or none: then images are cropped to the tokenizer's size"
            )
        return value

    @model_validator(mode="after")
    def _copies_differ(self) -> "Data":
        if (self.augment is None) != (self.copies == 1):
            raise ValueError(
                "augment states how copies differ, of which the first is the image itself: give both"
            )
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
    """How a recipe is run.

    A run ends with an error after ``max_skipped`` consecutive steps whose loss is not finite. With several
    processes, ``parallel: ddp`` replicates the generator, ``fsdp`` shards it (FSDP2). ``compile`` compiles
    transformer blocks, or a tokenizer's encoder and decoder, at their first step. ``trackers`` besides
    ``metrics.jsonl``: ``wandb`` is Weights & Biases, logged in to beforehand. ``precision`` is ``no``
    (float32), ``bf16``, or ``fp16``, for generators under ``ddp`` on GPUs without bfloat16; ``auto`` selects
    bf16 if the machine is faster in it.
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
            raise ValueError("fp16 cannot be combined with fsdp: use precision: bf16, or parallel: ddp")
        return self
