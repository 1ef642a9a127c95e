"""Attention: which positions a position attends to, how it is computed, and the key-value cache."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.scales import Scales
from openhart.transformer.rotary import Rotation, rotate

MASK_LIMIT = 2048
SCORES_AT_A_TIME = 2_500_000

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def block_causal(lengths: Sequence[int], device: torch.device) -> Attend:
    """Attention in which each block of positions attends to itself and to all blocks before it.

    A short sequence takes one masked call. A sequence of more than 2,048 positions takes one call per block,
    so that no mask is allocated.

    Args:
        lengths: number of positions in each block; the first block is the context.
        device: of the mask.
    """
    if sum(lengths) > MASK_LIMIT:
        return lambda q, k, v, scale: _attend_by_block(q, k, v, scale, lengths)
    repeats = torch.tensor(lengths, device=device)
    blocks = torch.arange(len(lengths), device=device).repeat_interleave(repeats, output_size=sum(lengths))
    mask = blocks[:, None] >= blocks[None, :]
    return lambda q, k, v, scale: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _attend_by_block(q: Tensor, k: Tensor, v: Tensor, scale: float, lengths: Sequence[int]) -> Tensor:
    outputs, end = [], 0
    for block in q.split(list(lengths), dim=2):
        end += block.shape[2]
        outputs.append(F.scaled_dot_product_attention(block, k[:, :, :end], v[:, :, :end], scale=scale))
    return torch.cat(outputs, dim=2)


def attend_all(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Softmax attention without a mask, (B, H, N, d) over (B, H, M, d) → (B, H, N, d).

    This is the one place that selects an implementation: torch's fused kernel, except for bfloat16 on a CPU,
    where matrix products in blocks are faster.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):  # autocast would cast a product but not its output tensor
            return attend_in_blocks(q, k, v, scale)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def attend_causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of each position to itself and to those before it, (B, H, N, d) → (B, H, N, d)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """As :func:`attend_all`, for some heads and queries at a time, so that scores stay in the CPU's cache."""
    batch, heads, queries, _ = q.shape
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    rows = max(SCORES_AT_A_TIME // k.shape[2], 1)
    heads_at_a_time = min(max(rows // queries, 1), heads)
    for b in range(batch):
        for h in range(0, heads, heads_at_a_time):
            group = slice(h, h + heads_at_a_time)
            keys, values = k[b, group].transpose(1, 2), v[b, group]
            for n in range(0, queries, rows):
                scores = torch.bmm(q[b, group, n : n + rows] * scale, keys)
                torch.bmm(scores.softmax(dim=-1), values, out=out[b, group, n : n + rows])
    return out


class KVCache:
    """Keys and values of every layer, allocated once and owned by the caller.

    Args:
        shape: (layers, 2, B, heads, positions, head size).
        scales: of the code maps whose positions follow those of the context.
        device: of keys and values.
        dtype: of keys and values.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int, int, int],
        scales: Scales,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.store = torch.empty(shape, device=device, dtype=dtype)
        self.scales = scales
        self.length = 0

    def attend(self, layer: int, implementation: Attend = attend_all) -> Attend:
        """Attention of one layer's new positions over all cached ones and themselves.

        Args:
            layer: index of the block.
            implementation: which of these positions attend to which; :func:`attend_causal` only while the
                cache is empty.
        """

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            end = self.length + k.shape[2]
            keys, values = self.store[layer, :, : len(k), :, :end]
            keys[:, :, self.length :] = k
            values[:, :, self.length :] = v
            return implementation(q.to(keys.dtype), keys, values, scale)

        return attend

    def attend_context(self, layer: int, rows: slice, positions: int) -> Attend:
        """Attention of the first positions among themselves, for some of the batch's rows.

        Keys and values of batch size 1 or length 1 are broadcast.
        """

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            keys, values = self.store[layer, :, rows, :, :positions]
            keys.copy_(k)
            values.copy_(v)
            return attend_all(q, k, v, scale)

        return attend

    def advance(self, positions: int) -> None:
        """Count new positions as cached, after every layer has stored them."""
        self.length += positions


class Attention(nn.Module):
    """Multi-head attention with rotary positions; the caller decides which positions attend to which.

    Args:
        width: C.
        num_heads: number of heads, each of width/heads channels.
        normalize: cosine attention: unit queries and keys, and a learned temperature per head.
        scale: scores are q·k times this over √(width/heads), unless ``normalize``: 1 in most models, 0.25 in
            VAR.
    """

    def __init__(self, width: int, num_heads: int, normalize: bool, scale: float = 0.25) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.log_temperature = (
            nn.Parameter(torch.full((num_heads, 1, 1), math.log(4.0))) if normalize else None
        )
        self.scale = 1.0 if normalize else scale / math.sqrt(width // num_heads)

    def forward(
        self, x: Tensor, rotation: Rotation | None, attend: Attend, wanted: Tensor | None = None
    ) -> Tensor:
        """(B, N, C) → (B, N, C), or, for wanted positions (B, n) only, (B, n, C)."""
        q, k, v = self.heads(x, rotation)
        if wanted is not None:
            q = q.take_along_dim(wanted[:, None, :, None], dim=2)
        return self.merge(attend(q, k, v, self.scale))

    @property
    def qkv_bias(self) -> Tensor:
        """Bias of queries, keys and values, (3C,); it is zero for keys, since softmax cancels it."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def heads(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys and values, (B, N, C) → (B, H, N, d) each."""
        qkv: Tensor = self.qkv(x)
        qkv += self.qkv_bias  # in place: a copy would be a further pass over the largest tensor of a block
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.log_temperature is not None:
            temperature = self.log_temperature.clamp_max(math.log(100)).exp()
            q = (F.normalize(q, dim=-1) * temperature).to(v.dtype)
            k = F.normalize(k, dim=-1).to(v.dtype)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def merge(self, mixed: Tensor) -> Tensor:
        """Join the heads and project, (B, H, N, d) → (B, N, C)."""
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected
