"""A transformer block for CUDA with Triton kernels for all operations between its matrix products."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.acceleration import kernels
from openhart.transformer.attention import Attend
from openhart.transformer.block import Block
from openhart.transformer.layers import SwiGLU
from openhart.transformer.model import HartTransformer
from openhart.transformer.rotary import Rotation


class FusedBlock(Block):
    """A modulated :class:`Block` with fewer passes over memory, for inference.

    Args:
        block: the block whose attention, MLP and norms are used.
    """

    bias: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__(block.attention, block.mlp, block.norm, block.dropout.p, block.mlp_norm)
        self.train(block.training)
        self.register_buffer("bias", block.attention.qkv_bias.detach(), persistent=False)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None,
        rotation: Rotation | None,
        attend: Attend,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) → (B, N, C), or, for wanted positions (B, n) only, (B, n, C)."""
        q, k, v = self.pre_attention(x, modulation, rotation)
        if wanted is not None:
            q = q.take_along_dim(wanted[:, None, :, None], dim=2)
            x = x.take_along_dim(wanted[..., None], dim=1)
        return self.post_attention(x, attend(q, k, v, self.attention.scale), modulation)

    def pre_attention(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, N, d) each."""
        attention = self.attention
        qkv = F.linear(self.modulated_norm(x, modulation, 0), attention.qkv.weight)
        temperature = None
        if attention.log_temperature is not None:
            temperature = attention.log_temperature.clamp_max(math.log(100)).exp()
        return kernels.split_heads(qkv, self.bias, attention.num_heads, rotation, temperature)

    def post_attention(self, x: Tensor, mixed: Tensor, modulation: Tensor | None) -> Tensor:
        """Add the output of attention (B, H, N, d) to ``x``, then that of the MLP, (B, N, C)."""
        assert modulation is not None
        x = torch.addcmul(x, modulation[:, 0, None], self.attention.merge(mixed))
        return torch.addcmul(x, modulation[:, 1, None], self._mlp(self.modulated_norm(x, modulation, 1)))

    def modulated_norm(self, x: Tensor, modulation: Tensor | None, half: int) -> Tensor:
        """Input of attention (``half`` 0) or of the MLP (``half`` 1), (B, N, C)."""
        assert modulation is not None
        norm: Any = self.norm_before(half)
        scale, shift = modulation[:, 2 + half], modulation[:, 4 + half]
        centred = isinstance(norm, nn.LayerNorm)
        return kernels.modulated_norm(x, norm.weight, scale, shift, norm.eps, centred)

    def _mlp(self, x: Tensor) -> Tensor:
        mlp: Any = self.mlp
        hidden = kernels.silu_times(mlp.gate(x), mlp.up(x)) if isinstance(mlp, SwiGLU) else None
        output: Tensor = mlp(x) if hidden is None else mlp.down(hidden)
        return output


def fuse_blocks(transformer: HartTransformer) -> None:
    """Replace every block of a modulated transformer by a :class:`FusedBlock`, in place."""
    for index, block in enumerate(transformer.blocks):
        if type(block) is Block:
            transformer.blocks[index] = FusedBlock(block)
