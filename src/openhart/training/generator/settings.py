"""Settings of a generator's training beyond HART's own; each is off unless the recipe names it."""

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)


class Section(BaseModel):
    """A part of a recipe: unknown names are errors."""

    model_config = ConfigDict(extra="forbid")


class NoisyContext(Section):
    """Codes of the coarser scales are exchanged before the transformer sees them, and all later codes and the
    residual's target follow from what is left (Infinity, arXiv 2412.04431, section 3.3).

    Attributes:
        strength: s. Each sample draws p ~ U(0, s), and each of its codes is exchanged with probability p.
        anneal: share of the run over which s falls linearly to zero (reAR, arXiv 2510.04450: 0.75); null
            keeps it.
        neighbours: a code is exchanged for one of this many nearest ones; null for any other code. A model's
            own wrong codes lie near the right ones (``docs/training.md``).
        scales: how many of the first scales are exchanged; null for all but the last.
    """

    strength: float = Field(default=0.3, gt=0, le=1)
    anneal: float | None = Field(default=None, gt=0, le=1)
    neighbours: PositiveInt | None = 100
    scales: PositiveInt | None = None

    def strength_at(self, progress: float) -> float:
        """s when this share of the run's steps is done."""
        return self.strength if self.anneal is None else self.strength * max(0.0, 1 - progress / self.anneal)


class EmbeddingLosses(Section):
    """Hidden states learn the codes' embeddings through small MLPs that are not part of the saved model
    (reAR, arXiv 2510.04450, codebook embedding regularization).

    Attributes:
        current: weight of the loss by which what leaves the first block gives the code of the scale before,
            at each place.
        target: weight of the loss by which a later block gives the code to be predicted.
        depth: share of the blocks before the later one's output.
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
        scale_balance: 0 averages over tokens, so that a scale counts by its size, 1 over scales; between
            them a scale of n tokens counts as n^(1 − balance).
        scale_weights: further weights, one for each scale, coarse to fine; empty for none.
        smoothing: share ε of the target that is spread over near codes.
        temperature: τ of that share, softmax(−‖E_i − E_j‖²/τ) over codes j, in units of the mean squared
            distance from a code to its nearest other one.
    """

    scale_balance: float = Field(default=0.0, ge=0, le=1)
    scale_weights: list[NonNegativeFloat] = []
    smoothing: float = Field(default=0.0, ge=0, le=1)
    temperature: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _something_counts(self) -> "CodeLoss":
        if self.scale_weights and not any(self.scale_weights):
            raise ValueError("scale_weights must not all be zero")
        return self


class Augment(Section):
    """How copies of a picture differ from it.

    Attributes:
        mirror: mirror half of the copies, but not those of a record that says ``mirror: false`` or has a
            caption with left or right in it.
        shift: largest shift up, down and sideways, as a share of the side.
        scale: smallest and largest factor of size.
    """

    mirror: bool = False
    shift: float = Field(default=0.0, ge=0, le=0.5)
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)

    @model_validator(mode="after")
    def _a_range_is_ordered(self) -> "Augment":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is smallest and largest factor, got {self.scale[0]}, {self.scale[1]}")
        return self
