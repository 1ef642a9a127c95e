"""The loop over the places of one code map, in raster order (VQGAN, arXiv 2012.09841, section 3.2).

A map larger than the transformer's is drawn through a window of the transformer's size (section 3.3). While
the window stays where it is, each code is one step with the key-value cache; where it moves, the codes inside
it are run anew. A map of the transformer's own size has one window: the plain loop with a
cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from openhart.errors import UserError
from openhart.generation.logits import guide, truncate
from openhart.generation.raster_settings import RasterSampling
from openhart.generation.states import KnownCodes, State
from openhart.randomness import Draws
from openhart.tokenizer.quantizer import MultiScaleQuantizer
from openhart.transformer.attention import KVCache
from openhart.transformer.raster import RasterTransformer


@dataclass(frozen=True)
class RasterState(State):
    """The state of generation after one row; ``features`` are the codes' vectors, 0 below this row.

    Attributes:
        codes: (B, h, w); rows after this one hold zeros.
    """

    codes: Tensor


@dataclass
class Window:
    """The part of the map that the transformer sees.

    Attributes:
        top: first row.
        left: first column.
        cache: keys and values of the codes inside it so far.
    """

    top: int
    left: int
    cache: KVCache


@dataclass(frozen=True)
class Loop:
    """Everything that the steps of one loop share; if ``guided``, the context has B further, empty rows."""

    transformer: RasterTransformer
    context: Tensor
    draws: Draws
    settings: RasterSampling
    known: KnownCodes | None
    guided: bool


@torch.no_grad()
def generate(
    transformer: RasterTransformer,
    quantizer: MultiScaleQuantizer,
    context: Tensor,
    empty: Tensor | None,
    draws: Draws,
    settings: RasterSampling,
    known: KnownCodes | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[RasterState]:
    """Generate a map of codes row by row.

    Args:
        transformer: predicts each code.
        quantizer: looks up the codes' vectors.
        context: context tokens (B, T, D), the same for every window; or one per place of the map,
            (B, h, w, D), of which each window sees its own part.
        empty: the empty condition, (1 or B, T, D), for guidance; None for a model without one.
        draws: the source of codes; its ``batch`` is the number of images B.
        settings: the sampling settings.
        known: codes that are given instead of drawn, one map.
        size: height and width of the map, at least the transformer's; None for the transformer's.

    Yields:
        the state after each row.

    Raises:
        UserError: if the map does not suit the transformer or the context, if the model has no empty
            condition for guidance, or if logits are not finite.
    """
    height, width = size or transformer.size
    check_map(transformer, context, (height, width))
    guided = settings.guidance_scale > 1
    if guided and empty is None:
        raise UserError(
            "guidance_scale must be at most 1: the model has no empty condition to guide away from"
        )
    if guided and empty is not None:
        context = torch.cat([context, empty.expand_as(context)])
    loop = Loop(transformer, context, draws, settings, known, guided)
    codes = torch.zeros(draws.batch, height, width, dtype=torch.long, device=context.device)
    window = None
    for row in range(height):
        for column in range(width):
            window, logits = _predict(loop, codes, (row, column), window)
            codes[:, row, column] = _choose(loop, logits, row * width + column)
        yield RasterState(row, height, _vectors(quantizer, codes, row + 1), codes.clone())


def check_map(transformer: RasterTransformer, context: Tensor, size: tuple[int, int]) -> None:
    """Check that a map of some height and width can be generated from a context.

    Raises:
        UserError: if it is smaller than the transformer's, if it differs from a context with a token per
            place, or if it is larger without one.
    """
    if any(side < least for side, least in zip(size, transformer.size, strict=True)):
        height, width = transformer.size
        raise UserError(f"a map of codes must have at least {height}×{width} codes, got {size[0]}×{size[1]}")
    if context.ndim == 3 and size != transformer.size:
        height, width = transformer.size
        raise UserError(
            f"maps larger than {height}×{width} codes need a condition with a token per place, such as the "
            f"codes of a segmentation; got {size[0]}×{size[1]} codes"
        )
    if context.ndim == 4 and tuple(context.shape[1:3]) != size:
        height, width = context.shape[1:3]
        raise UserError(
            f"the condition is a map of {height}×{width} codes, and the image {size[0]}×{size[1]}"
        )


def window_start(place: int, side: int, window: int) -> int:
    """Where a window of some length starts that shows a place of a longer side: the place is in its middle,
    except near the ends (VQGAN, section 3.3, as published)."""
    return min(max(place - window // 2, 0), side - window)


def _predict(
    loop: Loop, codes: Tensor, place: tuple[int, int], window: Window | None
) -> tuple[Window, Tensor]:
    """The window that shows a place, and the place's logits, (B, 1, V), or (2B, 1, V) under guidance."""
    rows, columns = loop.transformer.size
    top = window_start(place[0], codes.shape[1], rows)
    left = window_start(place[1], codes.shape[2], columns)
    seen = codes[:, top : top + rows, left : left + columns].flatten(1)
    count = (place[0] - top) * columns + place[1] - left
    before, context = seen[:, :count].repeat(2 if loop.guided else 1, 1), None
    if window is not None and (window.top, window.left) == (top, left):
        before = before[:, -1:]
    else:
        window = Window(top, left, loop.transformer.allocate_cache(len(loop.context), codes.device))
        context = loop.context
        if context.ndim == 4:
            context = context[:, top : top + rows, left : left + columns].flatten(1, 2)
    return window, loop.transformer(before, context, window.cache).logits


def _choose(loop: Loop, logits: Tensor, index: int) -> Tensor:
    """Codes (B,) of one place from its logits."""
    settings = loop.settings
    if loop.guided:
        logits = guide(logits, settings.guidance_scale)
    logits = logits / settings.temperature
    if not logits.isfinite().all():
        raise UserError(
            "the transformer's logits are not finite: its weights or the condition are broken, or too large "
            f"for {loop.transformer.dtype}"
        )
    codes = loop.draws.codes(truncate(logits, settings.top_k, settings.top_p), index)
    if loop.known is not None:
        given, mask = loop.known.at(0)
        codes = torch.where(mask[:, index, None], given[:, index, None], codes)
    return codes[:, 0]


def _vectors(quantizer: MultiScaleQuantizer, codes: Tensor, rows: int) -> Tensor:
    """The codes' vectors in the first rows, zeros below, (B, h, w) → (B, z, h, w)."""
    vectors = quantizer.lookup(codes.flatten(1)).transpose(1, 2).unflatten(2, tuple(codes.shape[1:]))
    mask = torch.arange(codes.shape[1], device=codes.device) < rows
    return torch.where(mask[:, None], vectors, vectors.new_zeros(()))
