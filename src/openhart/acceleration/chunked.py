"""A transformer block that processes tokens in chunks, so that intermediate results stay in the CPU cache."""

import torch
from torch import Tensor, nn

from openhart.transformer.attention import Attend
from openhart.transformer.block import Block
from openhart.transformer.rotary import Rotation

ROWS = 512


class ChunkedBlock(Block):
    """A :class:`Block` that processes long sequences in chunks; only attention processes all tokens at once.

    Args:
        block: the block whose attention, MLP and norms are used.
    """

    def __init__(self, block: Block) -> None:
        super().__init__(block.attention, block.mlp, block.norm, block.dropout.p, block.mlp_norm)
        self.train(block.training)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None,
        rotation: Rotation | None,
        attend: Attend,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) → (B, N, C), or, for wanted positions (B, n) only, (B, n, C)."""
        batch, tokens, _ = x.shape
        step = max(ROWS // batch, 1)
        if tokens <= step or wanted is not None:
            return super().forward(x, modulation, rotation, attend, wanted)
        chunks = [slice(start, start + step) for start in range(0, tokens, step)]
        heads = [
            self.pre_attention(
                x[:, chunk], modulation, rotation and (rotation[0][:, :, chunk], rotation[1][:, :, chunk])
            )
            for chunk in chunks
        ]
        q, k, v = (torch.cat(each, dim=2) for each in zip(*heads, strict=True))
        del heads
        mixed = attend(q, k, v, self.attention.scale)
        out = torch.empty_like(x)
        for chunk in chunks:
            out[:, chunk] = self.post_attention(x[:, chunk], mixed[:, :, chunk], modulation)
        return out


def chunk_blocks(blocks: nn.ModuleList) -> None:
    """Replace every :class:`Block` by a :class:`ChunkedBlock`, in place."""
    for index, block in enumerate(blocks):
        if type(block) is Block:
            blocks[index] = ChunkedBlock(block)
