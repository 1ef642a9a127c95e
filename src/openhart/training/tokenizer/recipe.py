"""The recipe of an image tokenizer: what all kinds have in common."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from openhart.checks import Count, Depth, Flag, Natural, PathText, Text, Weight, Width, check_settings
from openhart.tokenizer.base import ImageTokenizer
from openhart.training.run.settings import Data, OptimizerSettings, Rate, Run, Section


class Phase(Section):
    """A phase of tokenizer training.

    ``perceptual: false`` omits the perceptual loss, whose network takes more time than it saves while
    reconstructions are still blurred. ``adversarial: true`` adds the adversarial loss and trains the
    discriminator: VQGAN's start step is the number of steps of the phases before.
    """

    name: Text
    steps: Count
    perceptual: Flag = True
    adversarial: Flag = False

    @property
    def frozen(self) -> bool:
        """Whether only the decoder is trained."""
        return False

    @property
    def learns_bottleneck(self) -> bool:
        """Whether what is between encoder and decoder has a gradient."""
        return True


class TokenizerLosses(Section):
    """Weights of the tokenizer's losses.

    ``perceptual`` names the distance, null omits it; it is computed in every ``perceptual_every``-th
    step, always with the weight ``perceptual_weight``. The adversarial loss grows to its weight over
    ``adversarial_ramp_steps``; 0 gives it at once. ``discriminator_loss`` is ``hinge`` or ``vanilla``.
    """

    l1: Weight = 1.0
    l2: Weight = 0.0
    perceptual: Text | None = "efficientnet"
    perceptual_weight: Weight = 1.0
    perceptual_every: Count = 1
    adversarial: Weight = 0.5
    adversarial_ramp_steps: Natural = 500
    discriminator_width: Annotated[Width, Field(multiple_of=2)] = 64
    discriminator_layers: Annotated[Depth, Field(le=6)] = 3
    discriminator_loss: Literal["hinge", "vanilla"] = "hinge"
    discriminator_learning_rate: Rate = 1e-4


class TokenizerRecipe(Section):
    """Everything that determines a tokenizer.

    ``model.kind`` names its kind; the other settings in ``model`` are those of the tokenizer's constructor.
    ``initial`` names a tokenizer to start from instead. ``mirror`` flips each image left to right with
    probability 1/2.

    Attributes:
        kind: what ``model.kind`` is.
        tokenizer: the class of the tokenizer.
        implied: settings of the tokenizer that the kind determines.
    """

    kind: ClassVar[str]
    tokenizer: ClassVar[type[ImageTokenizer]]
    implied: ClassVar[dict[str, Any]] = {}

    run: Run
    data: Data
    model: dict[str, Any] = Field(default={})
    phases: Sequence[Phase]
    optimizer: OptimizerSettings
    losses: TokenizerLosses
    mirror: Flag = False
    initial: PathText | None = None

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the tokenizer's constructor."""
        return {name: value for name, value in self.model.items() if name != "kind"} | self.implied

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in cls.implied:
            if name in value:
                raise ValueError(f"model.kind determines {name}: leave it out")
        settings = {name: setting for name, setting in value.items() if name != "kind"}
        if check_settings(cls.tokenizer, settings, "model")["in_channels"] != 3:
            raise ValueError("model.in_channels must be 3: tokenizers are trained on RGB images")
        return value

    @model_validator(mode="after")
    def _codes_need_range(self) -> "TokenizerRecipe":
        if self.run.precision == "fp16":
            raise ValueError("run.precision: a tokenizer is trained in bf16 or no (float32), not fp16")
        if self.data.augment is not None:
            raise ValueError("data.augment is for generators: a tokenizer is trained on unchanged images")
        return self
