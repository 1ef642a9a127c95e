"""Layout of a scene: each thing gets a cell of its own, so things never overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openhart.data.emoji.content import Content, choose

FILLED = 0.875
"""Longer side of a single thing, as a fraction of the image side."""


@dataclass(frozen=True)
class Box:
    """A rectangle: left, top, width and height as fractions of the image side."""

    left: float
    top: float
    width: float
    height: float

    def at(self, size: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels for an image of ``size`` × ``size`` pixels."""
        left, top = round(self.left * size), round(self.top * size)
        width, height = max(1, round(self.width * size)), max(1, round(self.height * size))
        return left, top, left + width, top + height


Cells = tuple[Box, ...]

WHOLE = Box(0, 0, 1, 1)
BESIDE = (Box(0, 0, 0.5, 1), Box(0.5, 0, 0.5, 1))
STACKED = (Box(0, 0, 1, 0.5), Box(0, 0.5, 1, 0.5))
FALLING = (Box(0, 0, 0.5, 0.5), Box(0.5, 0.5, 0.5, 0.5))
RISING = (Box(0, 0.5, 0.5, 0.5), Box(0.5, 0, 0.5, 0.5))
ROW = tuple(Box(index / 3, 0, 1 / 3, 1) for index in range(3))
ONE_ABOVE = (Box(0.2, 0, 0.6, 0.5), Box(0, 0.5, 0.5, 0.5), Box(0.5, 0.5, 0.5, 0.5))
ONE_BELOW = (Box(0, 0, 0.5, 0.5), Box(0.5, 0, 0.5, 0.5), Box(0.2, 0.5, 0.6, 0.5))
QUARTERS = (Box(0, 0, 0.5, 0.5), Box(0.5, 0, 0.5, 0.5), Box(0, 0.5, 0.5, 0.5), Box(0.5, 0.5, 0.5, 0.5))
ARRANGEMENTS: dict[int, Sequence[Cells]] = {
    2: (BESIDE, BESIDE, STACKED, FALLING, RISING),
    3: (ROW, ONE_ABOVE, ONE_BELOW),
    4: (QUARTERS,),
}
SMALL_AND_LARGE: tuple[Cells, ...] = (
    (Box(0, 0, 0.34, 1), Box(0.34, 0, 0.66, 1)),
    (Box(0.66, 0, 0.34, 1), Box(0, 0, 0.66, 1)),
)
RELATED: dict[str, Cells] = {
    "left of": BESIDE,
    "right of": BESIDE[::-1],
    "above": STACKED,
    "below": STACKED[::-1],
}
MARGIN = 0.02
LONGEST = 0.6
MIN_FILL = 0.78
UNEVEN = 0.05
ALONE = (0.6, 0.9)
SIZES = {"small": (0.26, 0.36), "large": (0.93, 0.98)}
SIZES_OF_TWO = {"small": (0.2, 0.28), "large": (0.54, 0.62)}
RELATED_PLAY = 0.3


def place(content: Content, ratios: Sequence[float], generator: np.random.Generator) -> list[Box]:
    """Choose a box for every thing of a scene, in the order of the items.

    Args:
        content: content of the scene.
        ratios: width divided by height of each thing.
        generator: source of arrangement, scale and position.
    """
    sizes = [item.size for item in content.items for _ in range(item.count)]
    if len(ratios) == 1:
        low, high = SIZES.get(sizes[0] or "", ALONE)
        return [_inside(WHOLE, ratios[0], generator.uniform(low, high), 1, generator)]
    if content.relation is not None:
        cells, play = RELATED[content.relation], RELATED_PLAY
    else:
        cells, play = _arrangement(len(ratios), sizes, generator), 1.0
    fill = generator.uniform(MIN_FILL, 1 - UNEVEN)
    boxes = []
    for cell, ratio, size in zip(cells, ratios, sizes, strict=True):
        if size is None:
            longest = fill * generator.uniform(1 - UNEVEN, 1 + UNEVEN) * LONGEST
        else:
            longest = generator.uniform(*SIZES_OF_TWO[size])
        boxes.append(_inside(cell, ratio, longest, play, generator))
    return boxes


def centred(ratio: float) -> Box:
    """The box of a single thing in the middle, as in the corpus of single things."""
    width, height = FILLED * min(1, ratio), FILLED * min(1, 1 / ratio)
    return Box((1 - width) / 2, (1 - height) / 2, width, height)


def _arrangement(count: int, sizes: Sequence[str | None], generator: np.random.Generator) -> Cells:
    if any(sizes):
        cells = choose(SMALL_AND_LARGE, generator)
        return cells if sizes[0] == "small" else cells[::-1]
    cells = choose(ARRANGEMENTS[count], generator)
    return tuple(cells[index] for index in generator.permutation(count))


def _inside(cell: Box, ratio: float, longest: float, play: float, generator: np.random.Generator) -> Box:
    """A box inside a cell: longer side at most ``longest``, offset at most ``play`` of the free room."""
    width, height = longest * min(1, ratio), longest * min(1, 1 / ratio)
    room = (cell.width - 2 * MARGIN, cell.height - 2 * MARGIN)
    factor = min(1, room[0] / width, room[1] / height)
    width, height = width * factor, height * factor
    shift = 0.5 + play * generator.uniform(-0.5, 0.5, 2)
    left = cell.left + MARGIN + (room[0] - width) * float(shift[0])
    top = cell.top + MARGIN + (room[1] - height) * float(shift[1])
    return Box(left, top, width, height)
