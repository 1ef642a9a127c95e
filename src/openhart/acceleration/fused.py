"""The transformer's block with everything between its matrix products in Triton kernels, for CUDA."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.acceleration import kernels
from openhart.transformer.attention import Attend, Rotation
from openhart.transformer.block import Block
from openhart.transformer.layers import SwiGLU
from openhart.transformer.model import HartTransformer


class FusedBlock(Block):
    """A modulated :class:`Block` in fewer passes over memory, for inference."""

    bias: Tensor

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        self.norm, self.attention, self.mlp = block.norm, block.attention, block.mlp
        self.register_buffer("bias", block.attention.qkv_bias.detach(), persistent=False)

    def forward(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None, attend: Attend
    ) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        q, k, v = self.before(x, modulation, rotation)
        return self.after(x, attend(q, k, v, self.attention.scale), modulation)

    def before(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, N, d) each."""
        attention = self.attention
        qkv = F.linear(self._norm(x, modulation, 0), attention.qkv.weight)
        temperature = None
        if attention.log_temperature is not None:
            temperature = attention.log_temperature.clamp_max(math.log(100)).exp()
        return kernels.split_heads(qkv, self.bias, attention.num_heads, rotation, temperature)

    def after(self, x: Tensor, mixed: Tensor, modulation: Tensor | None) -> Tensor:
        """Take in what attention found, then the MLP."""
        assert modulation is not None
        x = torch.addcmul(x, modulation[:, 0, None], self.attention.merge(mixed))
        return torch.addcmul(x, modulation[:, 1, None], self._mlp(self._norm(x, modulation, 1)))

    def _norm(self, x: Tensor, modulation: Tensor | None, half: int) -> Tensor:
        assert modulation is not None
        norm: Any = self.norm
        scale, shift = modulation[:, 2 + half], modulation[:, 4 + half]
        centred = isinstance(norm, nn.LayerNorm)
        return kernels.modulated_norm(x, norm.weight, scale, shift, norm.eps, centred)

    def _mlp(self, x: Tensor) -> Tensor:
        if not isinstance(self.mlp, SwiGLU):
            return self.mlp(x)
        return self.mlp.down(kernels.silu_times(self.mlp.gate(x), self.mlp.up(x)))


def fuse(transformer: HartTransformer) -> None:
    """Replace, in place, every block of a modulated transformer by its fused form."""
    for index, block in enumerate(transformer.blocks):
        if type(block) is Block:
            transformer.blocks[index] = FusedBlock(block)
