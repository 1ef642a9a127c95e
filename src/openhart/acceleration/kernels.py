"""Triton kernels for the operations of a transformer block between its matrix products.

Each kernel is one pass over memory. The results equal those of the unfused block up to rounding.
:mod:`openhart.acceleration.fused` uses the kernels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from openhart.transformer.rotary import Rotation

ELEMENTS = 1024


@triton.jit
def _modulated_norm(
    x, weight, scale, shift, out, tokens, width, modulation_stride, eps,
    weighted: tl.constexpr, centred: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if centred:
        values = tl.where(inside, values - tl.sum(values) / width, 0.0)
    values *= 1.0 / tl.sqrt(tl.sum(values * values) / width + eps)
    if weighted:
        values *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    offset = row // tokens * modulation_stride + columns
    factor = 1.0 + tl.load(scale + offset, mask=inside, other=0.0).to(tl.float32)
    values = values * factor + tl.load(shift + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, values.to(out.dtype.element_ty), mask=inside)


def modulated_norm(
    x: Tensor, weight: Tensor | None, scale: Tensor, shift: Tensor, eps: float, centred: bool
) -> Tensor:
    """norm(x)·(1 + scale) + shift.

    Args:
        x: (B, N, C).
        weight: weight of the norm, (C,), or None.
        scale: (B, C); may be a view of a larger tensor.
        shift: (B, C), with the same strides as ``scale``.
        eps: ε of the norm.
        centred: subtract the mean first (LayerNorm), otherwise do not (RMSNorm).

    Returns:
        (B, N, C).
    """
    x = x.contiguous()
    batch, tokens, width = x.shape
    out = torch.empty_like(x)
    _modulated_norm[(batch * tokens,)](
        x, x if weight is None else weight, scale, shift, out, tokens, width, scale.stride(0), eps,
        weighted=weight is not None, centred=centred, block=triton.next_power_of_2(width),
    )  # fmt: skip
    return out


@triton.jit
def _split_heads(
    qkv, bias, cos, sin, temperature, q, k, v, tokens, heads, half, rotation_stride,
    rotated: tl.constexpr, normalized: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = tl.arange(0, block)
    inside = first < half
    width = heads * 2 * half
    sample, token = row // tokens, row % tokens
    target = ((sample * heads + head) * tokens + token) * 2 * half + first
    for part in tl.static_range(3):
        column = part * width + head * 2 * half + first
        source = qkv + row * 3 * width + column
        low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
        low += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        high += tl.load(bias + column + half, mask=inside, other=0.0).to(tl.float32)
        if normalized and part < 2:
            size = tl.sqrt(tl.sum(low * low) + tl.sum(high * high))
            factor = 1.0 / tl.maximum(size, 1e-12)
            if part == 0:
                factor *= tl.load(temperature + head).to(tl.float32)
            low *= factor
            high *= factor
        if rotated and part < 2:
            angle = sample * rotation_stride + token * 2 * half + first
            low_cos = tl.load(cos + angle, mask=inside, other=0.0)
            low_sin = tl.load(sin + angle, mask=inside, other=0.0)
            high_cos = tl.load(cos + angle + half, mask=inside, other=0.0)
            high_sin = tl.load(sin + angle + half, mask=inside, other=0.0)
            turned = low * low_cos - high * low_sin
            high = high * high_cos + low * high_sin
            low = turned
        out = q
        if part == 1:
            out = k
        if part == 2:
            out = v
        tl.store(out + target, low.to(out.dtype.element_ty), mask=inside)
        tl.store(out + target + half, high.to(out.dtype.element_ty), mask=inside)


def split_heads(
    qkv: Tensor, bias: Tensor, heads: int, rotation: Rotation | None, temperature: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the bias, split into heads, normalise queries and keys (cosine attention), and rotate them.

    Args:
        qkv: (B, N, 3C).
        bias: (3C,).
        heads: number of heads H.
        rotation: cosines and sines, (B, 1, N, d) or (1, 1, N, d), or None.
        temperature: (H,), factor of the normalised queries; None for queries and keys without normalisation.

    Returns:
        queries, keys and values, (B, H, N, d) each.
    """
    qkv = qkv.contiguous()
    batch, tokens, width = qkv.shape
    size = width // 3 // heads
    q, k, v = qkv.new_empty(3, batch, heads, tokens, size).unbind(0)
    cos, sin = (bias, bias) if rotation is None else (part.contiguous() for part in rotation)
    _split_heads[(batch * tokens, heads)](
        qkv, bias, cos, sin, bias if temperature is None else temperature, q, k, v, tokens, heads,
        size // 2, cos.stride(0) if len(cos) == batch else 0, rotated=rotation is not None,
        normalized=temperature is not None, block=triton.next_power_of_2(size // 2),
    )  # fmt: skip
    return q, k, v


@triton.jit
def _silu_times(gate, up, out, count, block: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = offset < count
    x = tl.load(gate + offset, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + offset, (x * tl.sigmoid(x) * y).to(out.dtype.element_ty), mask=inside)


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate)·up, for two tensors of the same shape."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _silu_times[(triton.cdiv(gate.numel(), ELEMENTS),)](gate, up, out, gate.numel(), block=ELEMENTS)
    return out
