"""Attention: rotary positions, what a scale may see, and the cache of what it has seen."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.scales import Scales
from openhart.transformer.functions import Rotate

ROPE_BASE = 10_000.0
MASK_LIMIT = 2048
SCORES_AT_A_TIME = 2_500_000

Rotation = tuple[Tensor, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def context_angles(position_ids: Tensor, head_dim: int) -> Tensor:
    """Rotary angles of context positions (RoFormer, arXiv 2104.09864), (B, T) → (B, T, d)."""
    steps = torch.arange(0, head_dim, 2, device=position_ids.device)
    angles = position_ids.float()[..., None] * ROPE_BASE ** (-steps / head_dim)
    return torch.cat([angles, angles], dim=-1)


def scale_angles(scales: Scales, shift: Tensor, head_dim: int) -> Tensor:
    """Rotary angles of code maps on the finest map's grid (HART, section 3.2).

    Row and column of a token, stretched to the finest scale, turn one half of the head each. As the
    released weights have it, :func:`rotate` pairs an element of one half with one of the other.

    Args:
        scales: code maps to place, the finest last.
        shift: (B,), added to both coordinates.
        head_dim: d, a multiple of 4.

    Returns:
        (B, Σ h_k·w_k, d).
    """
    height, width = scales[-1]
    grids = []
    for h, w in scales:
        rows = torch.arange(h, device=shift.device) * (height / h)
        columns = torch.arange(w, device=shift.device) * (width / w)
        grids.append(torch.cartesian_prod(rows, columns).view(h * w, 2))
    places = torch.cat(grids).float() + shift.float()[:, None, None]
    steps = torch.arange(0, head_dim, 4, device=shift.device)
    y, x = (places[..., None] * ROPE_BASE ** (-steps / head_dim)).unbind(dim=2)
    return torch.cat([y, y, x, x], dim=-1)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (e, e + d/2) of a head's elements, (B, H, N, d) by cos and sin (B, 1, N, d)."""
    cos, sin = rotation
    if x.dtype == cos.dtype == torch.float32:
        return Rotate.apply(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def block_causal(lengths: Sequence[int], device: torch.device) -> Attend:
    """Attention in which each block of positions sees itself and all blocks before it.

    A short sequence takes one masked call; a long one takes a call a block, so that no mask is made.

    Args:
        lengths: positions in each block; the first is the context.
        device: where the mask lives.
    """
    if sum(lengths) > MASK_LIMIT:
        return lambda q, k, v, scale: _attend_by_block(q, k, v, scale, lengths)
    blocks = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (blocks[:, None] >= blocks[None, :]).to(device)
    return lambda q, k, v, scale: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _attend_by_block(q: Tensor, k: Tensor, v: Tensor, scale: float, lengths: Sequence[int]) -> Tensor:
    outputs, end = [], 0
    for block in q.split(list(lengths), dim=2):
        end += block.shape[2]
        outputs.append(F.scaled_dot_product_attention(block, k[:, :, :end], v[:, :, :end], scale=scale))
    return torch.cat(outputs, dim=2)


def attend_all(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Softmax attention without a mask, (B, H, N, d) over (B, H, M, d) → (B, H, N, d).

    The one place that chooses how: torch's fused kernel, but for bfloat16 on a CPU, where matrix products in
    blocks are faster than it.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):  # which would cast a product but not where it is put
            return attend_in_blocks(q, k, v, scale)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """As :func:`attend_all`, some heads and queries at a time, so that their scores stay in the cache."""
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
        scales: of the code maps whose positions it holds, after the context's.
        device: where it lives.
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

    def attend(self, layer: int) -> Attend:
        """Attention of one layer's new positions over all cached ones and themselves."""

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            end = self.length + k.shape[2]
            keys, values = self.store[layer, :, : len(k), :, :end]
            keys[:, :, self.length :] = k
            values[:, :, self.length :] = v
            return attend_all(q.to(keys.dtype), keys, values, scale)

        return attend

    def attend_context(self, layer: int, rows: slice, positions: int) -> Attend:
        """Attention of the first positions among themselves, for some of the batch's rows.

        A single row or position given for several stands for all of them.
        """

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            keys, values = self.store[layer, :, rows, :, :positions]
            keys.copy_(k)
            values.copy_(v)
            return attend_all(q, k, v, scale)

        return attend

    def advance(self, positions: int) -> None:
        """Count positions as seen, once every layer has taken them."""
        self.length += positions


class LinearGivenBias(nn.Linear):
    """A linear map whose bias comes with the call, so that one kernel adds it and an adapter can wrap it."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """(…, in) → (…, out)."""
        return F.linear(x, self.weight, bias)


class Attention(nn.Module):
    """Multi-head attention with rotary positions; who sees whom is the caller's.

    Args:
        width: C.
        num_heads: heads, each of width/heads channels.
        normalize: cosine attention: unit queries and keys, a learned temperature a head.
    """

    def __init__(self, width: int, num_heads: int, normalize: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = LinearGivenBias(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.log_temperature = (
            nn.Parameter(torch.full((num_heads, 1, 1), math.log(4.0))) if normalize else None
        )
        self.scale = 1.0 if normalize else 0.25 / math.sqrt(width // num_heads)

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Attend) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        return self.merge(attend(*self.heads(x, rotation), self.scale))

    @property
    def qkv_bias(self) -> Tensor:
        """(3C,); keys have none."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (B, N, C) → (B, N, 3C)."""
        return self.qkv(x, self.qkv_bias)

    def heads(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens in their places, (B, N, C) → (B, H, N, d) each."""
        qkv = self.project(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.log_temperature is not None:
            temperature = self.log_temperature.clamp_max(math.log(100)).exp()
            q = (F.normalize(q, dim=-1) * temperature).to(v.dtype)
            k = F.normalize(k, dim=-1).to(v.dtype)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def merge(self, mixed: Tensor) -> Tensor:
        """What the heads found, (B, H, N, d) → (B, N, C)."""
        return self.proj(mixed.transpose(1, 2).flatten(2))
