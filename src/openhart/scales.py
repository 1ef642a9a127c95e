"""Scales: height and width of the code maps, coarse to fine (VAR, arXiv 2404.02905, section 3.1)."""

import reprlib
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import PlainValidator
from torch import Tensor

from openhart.errors import UserError

Scales = tuple[tuple[int, int], ...]

MAX_SCALES = 64
MAX_SIDE = 1024


def parse_scales(values: Sequence[int | Sequence[int]]) -> Scales:
    """Normalise a configured list of scales.

    Args:
        values: one entry per scale, coarse to fine: the side of a square map, or ``[height, width]``.

    Returns:
        ``((height, width), ...)``; the last entry is the size of the feature map.

    Raises:
        UserError: if the list is empty or has more than :data:`MAX_SCALES` entries, if an entry is not a size
            of 1 to :data:`MAX_SIDE`, or if a scale is larger than the last one.
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or not 1 <= len(values) <= MAX_SCALES:
        raise UserError(
            f"scales must be a list of 1 to {MAX_SCALES} sides such as [1, 2, 4, 8], "
            f"got {reprlib.repr(values)}"
        )
    scales = tuple(_parse_size(value) for value in values)
    height, width = scales[-1]
    for h, w in scales:
        if h > height or w > width:
            raise UserError(
                f"scales must end with the largest one: {h}×{w} does not fit into the last, {height}×{width}"
            )
    return scales


def _parse_size(value: int | Sequence[int]) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(sides, Sequence)
        or len(sides) != 2
        or not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)
    ):
        raise UserError(
            f"a scale must be a side or [height, width] of 1 to {MAX_SIDE}, got {reprlib.repr(value)}"
        )
    return (sides[0], sides[1])


def _checked(values: Any) -> Any:
    parse_scales(values)
    return values


ScaleList = Annotated[Sequence[int | Sequence[int]], PlainValidator(_checked)]
OptionalScales = Annotated[
    Sequence[int | Sequence[int]] | None,
    PlainValidator(lambda values: None if values is None else _checked(values)),
]


def fit_scales(scales: Scales, size: tuple[int, int]) -> Scales:
    """The same number of scales for a feature map of another size, each side in proportion.

    The first scale stays unchanged. So a model that was trained with one aspect ratio can use others (as in
    Infinity, arXiv 2412.04431).

    Args:
        scales: ``((height, width), ...)``, coarse to fine.
        size: height and width of the feature map, which is the last scale.
    """
    height, width = scales[-1]
    between = [(max(1, round(h * size[0] / height)), max(1, round(w * size[1] / width))) for h, w in scales]
    return (scales[0], *between[1:-1], size) if len(scales) > 1 else (size,)


def count_tokens(scales: Scales) -> int:
    """Total number of codes over all scales, Σ h_k·w_k."""
    return sum(h * w for h, w in scales)


def split_by_scale(tokens: Tensor, scales: Scales) -> list[Tensor]:
    """Split ``tokens`` of shape (B, Σ h_k·w_k, ...) into one tensor per scale, (B, h_k·w_k, ...)."""
    return list(tokens.split([h * w for h, w in scales], dim=1))
