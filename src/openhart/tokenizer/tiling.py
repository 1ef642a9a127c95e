"""Decoding of large images in tiles, so that the memory of the finer levels does not grow with the image.

The decoder's layers at the coarsest resolution, including attention, process the whole map: it is small, and
these layers make distant regions consistent. The finer levels, which need nearly all the memory, process one
tile at a time. Tiles overlap and are blended linearly where they overlap.
"""

import math
from typing import Any

import torch
from torch import Tensor

from openhart.errors import UserError
from openhart.tokenizer.base import CodeTokenizer


def decode_in_tiles(tokenizer: CodeTokenizer, features: Tensor, tile: int = 64, overlap: int = 8) -> Tensor:
    """As :meth:`CodeTokenizer.decode`, except that GroupNorm in the finer levels normalizes each tile.

    Args:
        tokenizer: the tokenizer whose decoder is used.
        features: (B, z, h, w).
        tile: largest side of a tile, in positions of the feature map.
        overlap: number of positions that neighbouring tiles share.

    Returns:
        (B, 3, h·f, w·f) in [−1, 1]. A map that fits into one tile is decoded without tiles.

    Raises:
        UserError: if ``tile`` is not larger than ``overlap``, or if ``overlap`` is negative.
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
            pixels = decoder.fine(coarse[:, :, rows, columns]).float()
            ramps = [_ramp(side, overlap * factor).to(image.device) for side in pixels.shape[-2:]]
            weight = ramps[0][:, None] * ramps[1]
            region: Any = (..., *(slice(each.start * factor, each.stop * factor) for each in (rows, columns)))
            image[region] += pixels * weight
            weights[region] += weight
    return (image / weights).clamp(-1, 1)


def _cut(side: int, tile: int, overlap: int) -> list[slice]:
    """Divide a side into the smallest number of overlapping intervals, all of the same length."""
    count = math.ceil((max(side, tile) - overlap) / (tile - overlap))
    length = math.ceil((side + (count - 1) * overlap) / count)
    starts = [round(index * (side - length) / max(count - 1, 1)) for index in range(count)]
    return [slice(start, start + length) for start in starts]


def _ramp(side: int, overlap: int) -> Tensor:
    """Blending weight of each row of a tile: linear in the overlap at both ends, 1 between."""
    rise = (torch.arange(side) + 0.5) / max(overlap, 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)
