"""Rotary positions of context tokens and of code maps (RoFormer, arXiv 2104.09864; HART, section 3.2)."""

import torch
from torch import Tensor

from openhart.scales import Scales, split_by_scale
from openhart.transformer.functions import Rotate

BASE = 10_000.0

Rotation = tuple[Tensor, Tensor]


def context_angles(position_ids: Tensor, head_dim: int) -> Tensor:
    """Rotary angles of context positions (RoFormer, section 3.2), (B, T) → (B, T, d)."""
    steps = torch.arange(0, head_dim, 2, device=position_ids.device)
    angles = position_ids.float()[..., None] * BASE ** (-steps / head_dim)
    return torch.cat([angles, angles], dim=-1)


def scale_angles(scales: Scales, shift: Tensor, head_dim: int) -> Tensor:
    """Rotary angles of code maps on the grid of the finest map (HART, section 3.2).

    The row and the column of a token, stretched to the finest scale, rotate one half of the head each. As the
    released weights require, :func:`rotate` pairs an element of one half with an element of the other.

    Args:
        scales: code maps, the finest last.
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
    coordinates = torch.cat(grids).float() + shift.float()[:, None, None]
    steps = torch.arange(0, head_dim, 4, device=shift.device)
    y, x = (coordinates[..., None] * BASE ** (-steps / head_dim)).unbind(dim=2)
    return torch.cat([y, y, x, x], dim=-1)


def rotations(mask: Tensor, scales: Scales, head_dim: int) -> list[Rotation]:
    """Cosines and sines of the context and of scales 2 … K.

    Args:
        mask: (B, T) bool, true at real context positions; padding repeats the position before it.
        scales: of the code maps.
        head_dim: d.

    Returns:
        (B, 1, T, d) for the context, then (B, 1, h_k·w_k, d) per scale.
    """
    ids = mask.cumsum(dim=1) - 1
    parts = [context_angles(ids, head_dim)]
    if len(scales) > 1:
        angles = scale_angles(scales[1:], ids[:, -1], head_dim)
        parts += split_by_scale(angles, scales[1:])
    return [(part[:, None].cos(), part[:, None].sin()) for part in parts]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each pair (e, e + d/2) of a head's elements, (B, H, N, d), by cos and sin (B, 1, N, d)."""
    cos, sin = rotation
    if x.dtype == cos.dtype == torch.float32:
        rotated: Tensor = Rotate.apply(x, cos, sin)
        return rotated
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def join_rotations(parts: list[Rotation]) -> Rotation:
    """Rotations of consecutive tokens as one."""
    cos, sin = zip(*parts, strict=True)
    return torch.cat(cos, dim=2), torch.cat(sin, dim=2)


def keep_tokens(rotation: Rotation, keep: Tensor) -> Rotation:
    """The rotation of the tokens that ``keep`` (B, N) selects, as many in each row."""
    cos, sin = (
        part[:, 0].expand(len(keep), -1, -1)[keep].unflatten(0, (len(keep), -1))[:, None] for part in rotation
    )
    return cos, sin
