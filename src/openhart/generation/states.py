"""Known codes, which generation may be given, and the state that it yields after each scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScaleState:
    """The state of generation after one scale.

    Attributes:
        scale_index: index k of the scale, from 0.
        codes: the codes of this scale, (B, h_k·w_k).
        f_hat: the features accumulated so far, (B, z, H, W); after the last scale, with the residual.
        residual: the residual that was added at the last scale, (B, H·W, z), or None.
    """

    scale_index: int
    codes: Tensor
    f_hat: Tensor
    residual: Tensor | None = None


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
