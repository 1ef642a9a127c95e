"""The sections of a recipe that only HART's generator has."""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from openhart.checks import Below1, Count, Depth, Number, Positive, Share, Weight, Width
from openhart.training.generator.settings import TruncatedNormal
from openhart.training.run.settings import Section


class ResidualHead(Section):
    """``kind: token`` processes each token independently; ``wide`` also its neighbours on the map.

    ``scaling`` sets the head's units: ``quantile``, one number, so that 99.5 % of all residuals lie in
    [−1, 1]; or ``variance``, so that each channel has variance 1. ``clip`` clamps targets to ± that many of
    these units, since the residuals of the model's own codes may be large. The sampler clamps to the same
    limit; without ``clip`` to 1, with ``variance`` to 4.
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
        """The sampler clamps to ± this, in the head's units."""
        return self.clip or {"quantile": 1.0, "variance": 4.0}[self.scaling]


class TokenDropping(TruncatedNormal):
    """Token dropping: the fraction of the last scale's tokens that a step omits, drawn from a truncated
    normal distribution on ``min`` … 1 (HART, section 3.3). With the default values it is about 80 % on
    average."""

    std: Annotated[Number, Field(ge=0.01, le=10)] = Field(
        default=0.25, validation_alias=AliasChoices("std", "deviation")
    )
    min: Below1 = Field(default=0.5, validation_alias=AliasChoices("min", "least"))


class NoisyContext(Section):
    """Codes of the coarser scales are exchanged in the transformer's inputs, and all later codes and the
    residual's target are computed from the remaining features (Infinity, arXiv 2412.04431, section 3.3).

    Attributes:
        strength: s. Each sample draws p ~ U(0, s), and each of its codes is exchanged with probability p.
        anneal: share of the run over which s falls linearly to zero (reAR, arXiv 2510.04450: 0.75); null
            keeps it.
        neighbours: a code is exchanged for one of this many nearest ones; null for any other code. The
            errors of a model are near the right codes (``docs/training.md``).
        scales: how many of the first scales are exchanged; null for all but the last.
    """

    strength: float = Field(default=0.3, gt=0, le=1)
    anneal: float | None = Field(default=None, gt=0, le=1)
    neighbours: PositiveInt | None = 100
    scales: PositiveInt | None = None

    def strength_at(self, progress: float) -> float:
        """s after this fraction of the run's steps."""
        return self.strength if self.anneal is None else self.strength * max(0.0, 1 - progress / self.anneal)


class EmbeddingLosses(Section):
    """Small MLPs, which are not part of the saved model, predict embeddings of codes from hidden states
    (reAR, arXiv 2510.04450, codebook embedding regularization).

    Attributes:
        current: weight of the loss for the code of the previous scale at each position, predicted from the
            output of the first block.
        target: weight of the loss for the code to be generated, predicted from the output of a later block.
        depth: position of the later block, as a fraction of all blocks.
        hidden: width of the MLPs' hidden layer.
    """

    current: NonNegativeFloat = 1.0
    target: NonNegativeFloat = 1.0
    depth: float = Field(default=0.75, gt=0, le=1)
    hidden: PositiveInt = 512

    @model_validator(mode="after")
    def _one_counts(self) -> "EmbeddingLosses":
        if not self.current and not self.target:
            raise ValueError("embedding_losses needs a positive weight: current, target or both")
        return self


class CodeLoss(Section):
    """How the cross-entropy of codes is averaged, and over which targets.

    Attributes:
        scale_balance: 0 averages over tokens, so that larger scales have more weight; 1 averages over scales;
            in general, a scale of n tokens has the weight n^(1 − balance).
        scale_weights: further weights, one per scale, coarse to fine; empty for none.
        smoothing: fraction ε of the target that is distributed over near codes.
        temperature: τ of that share, softmax(−‖E_i − E_j‖²/τ) over codes j, in units of the mean squared
            distance from a code to its nearest other one.
    """

    scale_balance: float = Field(default=0.0, ge=0, le=1)
    scale_weights: list[NonNegativeFloat] = Field(default=[])
    smoothing: float = Field(default=0.0, ge=0, le=1)
    temperature: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _something_counts(self) -> "CodeLoss":
        if self.scale_weights and not any(self.scale_weights):
            raise ValueError("scale_weights must not all be zero")
        return self
