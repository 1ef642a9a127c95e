"""What goes into the loop over scales besides settings, and what it yields."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScaleState:
    """Where generation stands after a scale.

    Attributes:
        scale_index: k, from 0.
        codes: (B, h_k·w_k), the codes drawn.
        f_hat: (B, z, P, P), features so far; after the last scale, with the residual.
        residual: (B, P², z), what was added after the last scale, if anything was.
    """

    scale_index: int
    codes: Tensor
    f_hat: Tensor
    residual: Tensor | None = None


@dataclass(frozen=True)
class KnownCodes:
    """Codes that generation takes as given.

    Attributes:
        codes: per scale, (B, h_k·w_k), row-major.
        masks: per scale, (B, h_k·w_k) bool, true where the code is given; elsewhere it is drawn.
    """

    codes: Sequence[Tensor]
    masks: Sequence[Tensor]

    def at(self, index: int, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Codes and mask of a scale, (B, n) each, or of its tokens at some places (B, n)."""
        codes, mask = self.codes[index], self.masks[index]
        if places is None:
            return codes, mask
        return codes.take_along_dim(places, dim=1), mask.take_along_dim(places, dim=1)
