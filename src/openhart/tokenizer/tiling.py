"""Decoding a large image a part at a time, so that memory does not grow with it.

What a decoder does at its coarsest resolution, attention above all, is done for the whole map: it is small,
and it is where distant parts agree. The finer levels, which hold nearly all the memory, run tile by tile;
tiles overlap, and are blended where they do.
"""

import torch
from torch import Tensor

from openhart.errors import UserError
from openhart.tokenizer.model import HybridTokenizer


def decode_in_tiles(tokenizer: HybridTokenizer, features: Tensor, tile: int = 64, overlap: int = 8) -> Tensor:
    """As :meth:`HybridTokenizer.decode`, but for what GroupNorm sees: a tile's own statistics.

    Args:
        tokenizer: its decoder is used.
        features: (B, z, h, w).
        tile: side of a tile in places of the feature map.
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
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            part = coarse[:, :, top : top + tile, left : left + tile]
            painted = decoder.fine(part).float()
            ramp = _ramp(painted.shape[-2], overlap * factor)[:, None] * _ramp(
                painted.shape[-1], overlap * factor
            )
            place = (
                ...,
                slice(top * factor, top * factor + painted.shape[-2]),
                slice(left * factor, left * factor + painted.shape[-1]),
            )
            ramp = ramp.to(image.device)
            image[place] += painted * ramp
            weights[place] += ramp
    return (image / weights).clamp(-1, 1)


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, the last one flush with the end."""
    if side <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, side - tile, step), side - tile]


def _ramp(side: int, overlap: int) -> Tensor:
    """Weight of each row of a tile: rising over the overlap, falling at the end."""
    rise = (torch.arange(side) + 0.5) / max(overlap, 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)
