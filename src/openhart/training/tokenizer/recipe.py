"""The recipe of an image tokenizer."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from openhart.checks import Below1, Count, Flag, PathText, Share, Text, Weight, Width, check_settings
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.run.settings import Data, OptimizerSettings, Rate, Run, Section


class Exchange(Section):
    """Near codes in place of the true ones, as inputs of the decoder only (RobusTok, arXiv 2503.08354).

    In a fraction ``pictures`` of all images, a fraction ``codes`` of the codes is exchanged, each for one of
    its ``nearest`` neighbours in the codebook.
    """

    pictures: Share = 0.1
    codes: Share = 0.5
    nearest: Count = 100


class OwnSamples(Section):
    """Images that a generator has completed, as inputs of the decoder (RobusTok, arXiv 2503.08354).

    In a fraction ``images`` of each batch, the codes of the first scales are given, at least those of
    ``known_scales`` scales, and the model in the folder ``generator`` draws the other codes and the residual.
    """

    generator: PathText
    images: Share = 0.5
    known_scales: Count = 1


class Phase(Section):
    """A phase of tokenizer training.

    A fraction ``discrete_share`` of each batch is decoded from codes, the rest from continuous features;
    ``train: decoder`` freezes encoder, codes and φ (HART, section 3.1). ``perceptual: false`` omits the
    perceptual loss, whose network takes more time than it saves while reconstructions are still blurred.

    Four settings make the decoder robust: ``exchange`` gives it near codes in place of true ones;
    ``own_samples`` gives it codes and residuals that a generator has drawn (``train: decoder`` only);
    ``random_residual`` adds λ times the residual, λ uniform in [0, 1], in place of all of it;
    ``scale_dropout`` is the fraction of images decoded from codes of which only the first scales are used;
    their number is drawn.
    """

    name: Text
    steps: Count
    discrete_share: Share = 0.0
    train: Literal["all", "decoder"] = "all"
    kmeans_start: Flag = False
    exchange: Exchange | None = None
    own_samples: OwnSamples | None = None
    random_residual: Flag = False
    scale_dropout: Share = 0.0
    perceptual: Flag = True
    adversarial: Flag = False

    @property
    def learns_codes(self) -> bool:
        """Whether codes and φ have a gradient."""
        return self.train == "all" and self.discrete_share > 0


class TokenizerLosses(Section):
    """Weights of the tokenizer's losses.

    ``perceptual`` names the distance, null omits it; it is computed in every ``perceptual_every``-th
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
    """Everything that determines a tokenizer.

    ``model`` holds HybridTokenizer's settings; ``initial`` names a tokenizer to start from instead.
    ``mirror`` flips each image left to right with probability 1/2.
    """

    run: Run
    data: Data
    model: dict[str, Any] = Field(default={})
    phases: list[Phase] = Field(min_length=1, max_length=100)
    optimizer: OptimizerSettings
    losses: TokenizerLosses = TokenizerLosses()
    mirror: Flag = False
    revive_every: Count = 50
    revival_memory: Below1 = 0.98
    initial: PathText | None = None

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_settings(HybridTokenizer, value, "model")
        return value

    @model_validator(mode="after")
    def _own_samples_need_fixed_codes(self) -> "TokenizerRecipe":
        settings = [phase.own_samples for phase in self.phases if phase.own_samples]
        if settings and any(phase.train != "decoder" for phase in self.phases):
            raise ValueError(
                "own_samples: the generator draws codes of the finished tokenizer, so every phase needs "
                "train: decoder, and 'initial' names that tokenizer"
            )
        if len({one.generator for one in settings}) > 1:
            raise ValueError("own_samples.generator: all phases must name the same generator")
        return self

    @model_validator(mode="after")
    def _codes_need_range(self) -> "TokenizerRecipe":
        if self.run.precision == "fp16":
            raise ValueError("run.precision: a tokenizer is trained in bf16 or no (float32), not fp16")
        if self.data.augment is not None:
            raise ValueError("data.augment is for generators: a tokenizer is trained on unchanged images")
        return self
