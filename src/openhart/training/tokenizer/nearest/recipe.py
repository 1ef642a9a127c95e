"""Recipes of tokenizers that take the nearest code: hybrid and VAR's, VQGAN and VQ-VAE."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from openhart.checks import Below1, Count, Flag, PathText, Share, Weight
from openhart.tokenizer.model import HybridTokenizer
from openhart.tokenizer.vqgan import VqganTokenizer
from openhart.training.run.settings import Section
from openhart.training.tokenizer.recipe import Phase, TokenizerLosses, TokenizerRecipe


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
    ``known_scales`` scales, and the model in the folder ``generator`` draws the other codes. It draws the
    residual too in a fraction ``residual`` of the batches; null follows the model's own setting.
    """

    generator: PathText
    images: Share = 0.5
    known_scales: Count = 1
    residual: Share | None = None


class CodePhase(Phase):
    """A phase of a tokenizer with codes.

    A fraction ``discrete_share`` of each batch is decoded from codes, the rest from continuous features;
    ``train: decoder`` freezes encoder, codes and φ (HART, section 3.1).

    Three settings make the decoder robust: ``exchange`` gives it near codes in place of true ones;
    ``random_residual`` adds λ times the residual, λ uniform in [0, 1], in place of all of it;
    ``scale_dropout`` is the fraction of images decoded from codes of which only the first scales are used;
    their number is drawn.
    """

    discrete_share: Share = 0.0
    train: Literal["all", "decoder"] = "all"
    kmeans_start: Flag = False
    exchange: Exchange | None = None
    random_residual: Flag = False
    scale_dropout: Share = 0.0

    @property
    def frozen(self) -> bool:
        """Whether encoder, codes and φ have no gradient."""
        return self.train == "decoder"

    @property
    def learns_bottleneck(self) -> bool:
        """Whether codes and φ have a gradient."""
        return self.train == "all" and self.discrete_share > 0


class HybridPhase(CodePhase):
    """A phase of HART's tokenizer.

    ``own_samples`` gives the decoder codes and residuals that a generator has drawn, with ``train: decoder``
    only.
    """

    own_samples: OwnSamples | None = None


class CodeLosses(TokenizerLosses):
    """Weights of the losses of a tokenizer with codes.

    ``quantization`` weighs the distance between codes and features, in which ``code_weight`` moves the codes
    and ``commitment`` the features (VQ-VAE, arXiv 1711.00937, equation 3). The released VQGANs were trained
    with ``code_weight: 0.25`` and ``commitment: 1``.
    """

    quantization: Weight = 1.0
    commitment: Weight = 0.25
    code_weight: Weight = 1.0


class CodesRecipe(TokenizerRecipe):
    """A tokenizer that takes the nearest code.

    Every ``revive_every`` steps, unused codes become vectors of the data; null never does this.
    ``revival_memory`` is the decay of the count of uses per step.
    """

    phases: Sequence[CodePhase]
    losses: CodeLosses = CodeLosses()
    revive_every: Count | None = 50
    revival_memory: Below1 = 0.98


class HybridRecipe(CodesRecipe):
    """HART's tokenizer and, with ``model.hybrid: false``, VAR's."""

    kind = "hybrid"
    tokenizer = HybridTokenizer

    phases: list[HybridPhase] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _own_samples_need_fixed_codes(self) -> "HybridRecipe":
        settings = [phase.own_samples for phase in self.phases if phase.own_samples]
        if settings and any(phase.train != "decoder" for phase in self.phases):
            raise ValueError(
                "own_samples: the generator draws codes of the finished tokenizer, so every phase needs "
                "train: decoder, and 'initial' names that tokenizer"
            )
        if len({one.generator for one in settings}) > 1:
            raise ValueError("own_samples.generator: all phases must name the same generator")
        return self


class VqganRecipe(CodesRecipe):
    """VQGAN's tokenizer and, without perceptual and adversarial loss, a VQ-VAE.

    Its images are decoded from codes alone, so the last phase has ``discrete_share: 1``.
    """

    kind = "vqgan"
    tokenizer = VqganTokenizer
    implied: ClassVar[dict[str, Any]] = {"quantizer_kind": "nearest"}

    phases: list[CodePhase] = Field(min_length=1, max_length=100)

    @field_validator("phases")
    @classmethod
    def _codes_are_all(cls, value: list[CodePhase]) -> list[CodePhase]:
        if value[-1].discrete_share != 1:
            raise ValueError(
                "the last phase must have discrete_share: 1, because a vqgan decodes images from codes alone"
            )
        return value
