"""A trained transformer at another resolution (HART, section 3.2).

A sinusoidal embedding of the scale's index and rotary positions on the finest grid have no weights of a
single scale, so they carry over unchanged. Learned tables have rows per scale: the rows of a size that both
lists have are copied, and the others are initialised.
"""

import torch
from torch import Tensor, nn

from openhart.scales import Scales, parse_scales
from openhart.transformer.model import HartTransformer


@torch.no_grad()
def with_scales(transformer: HartTransformer, scales: list[int | tuple[int, int]]) -> HartTransformer:
    """The same transformer for another list of scales.

    Args:
        transformer: trained; it is returned itself if the scales are its own.
        scales: sides or ``[height, width]``, the first 1.

    Returns:
        a transformer with the same weights; in learned tables, rows of new scales are initialised.

    Raises:
        UserError: impossible scales.
    """
    if parse_scales(scales) == transformer.scales:
        return transformer
    grown: HartTransformer = HartTransformer.from_config(transformer.config, scales=scales)
    weights = transformer.state_dict()
    if isinstance(grown.level_embed, nn.Embedding):
        name = "level_embed.weight"
        fresh, before = grown.level_embed.weight.split(1), weights[name].split(1)
        weights[name] = _rows_by_scale(fresh, grown.scales, before, transformer)
    if grown.position_embed is not None:
        name = "position_embed"
        fresh = grown.position_embed.split(_lengths(grown))
        before = weights[name].split(_lengths(transformer))
        weights[name] = _rows_by_scale(fresh, grown.scales, before, transformer)
    grown.load_state_dict(weights)
    return grown


def _lengths(transformer: HartTransformer) -> list[int]:
    """Number of positions of the context, which stands in place of scale 1, and of each scale after it."""
    return [transformer.config.context_tokens, *(h * w for h, w in transformer.scales[1:])]


def _rows_by_scale(
    fresh: tuple[Tensor, ...], scales: Scales, before: tuple[Tensor, ...], transformer: HartTransformer
) -> Tensor:
    known = dict(zip(transformer.scales, before, strict=True))
    return torch.cat([known.get(size, rows) for size, rows in zip(scales, fresh, strict=True)])
