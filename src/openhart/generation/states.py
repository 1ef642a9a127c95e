"""Known codes, which generation may be given, and the state that it yields after each step."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class State:
    """The state of generation after one step, in every family of models.

    Attributes:
        index: index of the step, from 0.
        count: number of steps of the call.
        features: what an image is decoded from, (B, z, h, w), as far as it has been generated; after the last
            step, that of the final image.
    """

    index: int
    count: int
    features: Tensor


@dataclass(frozen=True)
class ScaleState(State):
    """The state of generation after one scale; ``features`` are accumulated over the scales so far.

    Attributes:
        codes: the codes of this scale, (B, h_k·w_k).
        residual: the residual that was added at the last scale, (B, H·W, z), or None.
    """

    codes: Tensor
    residual: Tensor | None = None

    @property
    def scale_index(self) -> int:
        """Index k of the scale, from 0."""
        return self.index

    @property
    def f_hat(self) -> Tensor:
        """The features, by VAR's and HART's name."""
        return self.features


@dataclass(frozen=True)
class KnownCodes:
    """Codes that are given to generation instead of drawn.

    Attributes:
        codes: per scale, (B, h_k·w_k), row-major.
        masks: per scale, (B, h_k·w_k) bool, true where the code is given; elsewhere it is drawn.
    """

    codes: Sequence[Tensor]
    masks: Sequence[Tensor]

    def at(self, index: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Codes and mask of a scale, (B, n) each, or of its tokens at some positions (B, n)."""
        codes, mask = self.codes[index], self.masks[index]
        if positions is None:
            return codes, mask
        return codes.take_along_dim(positions, dim=1), mask.take_along_dim(positions, dim=1)
