"""A transformer's block, some tokens at a time, so that what lies between products stays in the cache."""

import torch
from torch import Tensor, nn

from openhart.transformer.attention import Attend, Rotation
from openhart.transformer.block import Block
from openhart.transformer.model import HartTransformer

ROWS = 512


class ChunkedBlock(Block):
    """A :class:`Block` that works through long sequences in parts; only attention sees all of them."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        self.norm, self.attention, self.mlp = block.norm, block.attention, block.mlp
        self.dropout = block.dropout

    def forward(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None, attend: Attend
    ) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        batch, tokens, _ = x.shape
        step = max(ROWS // batch, 1)
        if tokens <= step:
            return super().forward(x, modulation, rotation, attend)
        parts = [slice(start, start + step) for start in range(0, tokens, step)]
        heads = [
            self.before(
                x[:, part], modulation, rotation and (rotation[0][:, :, part], rotation[1][:, :, part])
            )
            for part in parts
        ]
        q, k, v = (torch.cat(each, dim=2) for each in zip(*heads, strict=True))
        del heads
        mixed = attend(q, k, v, self.attention.scale)
        out = torch.empty_like(x)
        for part in parts:
            out[:, part] = self.after(x[:, part], mixed[:, :, part], modulation)
        return out


def chunk(transformer: HartTransformer) -> None:
    """Replace, in place, every block by its chunked form."""
    for index, block in enumerate(transformer.blocks):
        if type(block) is Block:
            transformer.blocks[index] = ChunkedBlock(block)
