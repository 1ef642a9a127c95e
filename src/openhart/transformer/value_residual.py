"""Value residual: blocks attend to a mixture of their own values and the first block's (arXiv 2410.17897)."""

import torch
from torch import Tensor

from openhart.transformer.attention import Attend

START = 0.5


class ValueResidual:
    """Mixes the first block's values into those of all later blocks, for one pass through the blocks.

    It wraps the attention that is passed to a block, so every form of a block supports it, and a key-value
    cache holds the mixed values.

    Args:
        shares: (depth − 1,), fraction λ of the first block's values in each later block:
            (1 − λ)·vₙ + λ·v₁ (section 4.1, learned λ).
    """

    def __init__(self, shares: Tensor) -> None:
        self.shares = shares
        self.first: Tensor | None = None

    def around(self, block_index: int, attend: Attend) -> Attend:
        """Wrap the attention of one block, so that it attends to mixed values."""

        def mixed(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            if block_index == 0:
                self.first = v
                return attend(q, k, v, scale)
            assert self.first is not None
            fraction = self.shares[block_index - 1].to(v.dtype)
            return attend(q, k, torch.lerp(v, self.first, fraction), scale)

        return mixed
