"""Decoding a large image a part at a time, so that memory does not grow with it.

What a decoder does at its coarsest resolution, attention above all, is done for the whole map: it is small,
and it is where distant parts agree. The finer levels, which hold nearly all the memory, run tile by tile;
tiles overlap, and are blended where they do.
"""

import math
from typing import Any

import torch
from torch import Tensor

from openhart.errors import UserError
from openhart.tokenizer.model import HybridTokenizer


def decode_in_tiles(tokenizer: HybridTokenizer, features: Tensor, tile: int = 64, overlap: int = 8) -> Tensor:
    """As :meth:`HybridTokenizer.decode`, but for what GroupNorm sees: a tile's own statistics.

    Args:
        tokenizer: its decoder is used.
        features: (B, z, h, w).
        tile: largest side of a tile in places of the feature map.
        overlap: places that neighbouring tiles share.

    Returns:
        (B, 3, h·f, w·f) in [−1, 1]. A map that fits one tile is decoded as ever.

    Raises:
        UserError: tiles that do not exceed their overlap.
    """
    if not 0 <= overlap < tile:
        raise UserError(f"a tile must be larger than its overlap, got {tile} and {overlap}")
    height, width = features.shape[-2:]
    if max(height, width) <= tile:
        return tokenizer.decode(features)
    decoder, factor = tokenizer.decoder, tokenizer.downsample_factor
    coarse = decoder.coarse(tokenizer.post_quant_conv(features.to(tokenizer.post_quant_conv.weight.dtype)))
    image = torch.zeros(len(features), 3, height * factor, width * factor, device=features.device)
    weights = torch.zeros(1, 1, height * factor, width * factor, device=features.device)
    for rows in _cut(height, tile, overlap):
        for columns in _cut(width, tile, overlap):
            painted = decoder.fine(coarse[:, :, rows, columns]).float()
            ramps = [_ramp(side, overlap * factor).to(image.device) for side in painted.shape[-2:]]
            weight = ramps[0][:, None] * ramps[1]
            place: Any = (..., *(slice(part.start * factor, part.stop * factor) for part in (rows, columns)))
            image[place] += painted * weight
            weights[place] += weight
    return (image / weights).clamp(-1, 1)


def _cut(side: int, tile: int, overlap: int) -> list[slice]:
    """As few parts of a side as tiles of this size allow, all of one length."""
    count = math.ceil((max(side, tile) - overlap) / (tile - overlap))
    length = math.ceil((side + (count - 1) * overlap) / count)
    starts = [round(place * (side - length) / max(count - 1, 1)) for place in range(count)]
    return [slice(start, start + length) for start in starts]


def _ramp(side: int, overlap: int) -> Tensor:
    """Weight of each row of a tile: rising over the overlap, falling at the end."""
    rise = (torch.arange(side) + 0.5) / max(overlap, 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)
