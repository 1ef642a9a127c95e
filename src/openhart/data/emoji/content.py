"""What a scene shows, before it is placed or drawn: things with colours, sizes and counts, and a relation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from openhart.data.emoji.colours import COLOURS
from openhart.data.emoji.common import TOO_CLOSE, unseen_combinations
from openhart.data.emoji.sprites import Sprites
from openhart.errors import UserError

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's tasks (arXiv 2310.11513)."""
RELATIONS = ("left of", "right of", "above", "below")
MOST_THINGS = 4
SIZED = 0.3
MIXED_COUNTS = 0.25
COLOURED = {"colors": 1.0, "color_attr": 1.0, "counting": 0.2, "position": 0.2}
TRIES = 3000

Value = TypeVar("Value")


@dataclass(frozen=True)
class Item:
    """One kind of thing in a scene: its everyday name, its name in the corpus, how many there are of it.

    ``colour`` is what it was recoloured to, None for its own colours; ``size`` is ``small``, ``large`` or
    None.
    """

    name: str
    thing: str
    natural: str | None = None
    count: int = 1
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Content:
    """What a scene shows. ``relation`` is that of the first item to the second, such as ``left of``."""

    tag: str
    style: str
    background: str
    items: tuple[Item, ...]
    relation: str | None = None

    @property
    def unseen(self) -> list[str]:
        """Which kinds of combinations in it are held out of training."""
        found = [
            kind
            for item in self.items
            for kind in unseen_combinations(item.thing, self.style, self.background, item.colour)
        ]
        return sorted(set(found))

    @property
    def visible(self) -> bool:
        """Whether every thing stands out from the background."""
        return all(
            self.background not in TOO_CLOSE.get(item.colour or item.natural or "", ()) for item in self.items
        )


def choose(values: Sequence[Value], generator: np.random.Generator) -> Value:
    """One of several values, drawn uniformly."""
    return values[int(generator.integers(len(values)))]


def draw_content(
    tag: str,
    sprites: Sprites,
    styles: Sequence[str],
    backgrounds: Sequence[str],
    generator: np.random.Generator,
    unseen: str | None = None,
) -> Content:
    """Choose what a scene of common things shows.

    Args:
        tag: one of :data:`TAGS`.
        sprites: the things that each style has, and the colours that they can have.
        styles: one of them is taken.
        backgrounds: names of colours; one of them is taken.
        generator: of all choices.
        unseen: the one kind of combination that must be held out of training, ``style``, ``background`` or
            ``colour``; None for a scene without any.

    Raises:
        UserError: nothing like that was found among the things, styles and backgrounds.
    """
    wanted = [unseen] if unseen else []
    for _ in range(TRIES):
        style, background = choose(styles, generator), choose(backgrounds, generator)
        content = _draw_any(tag, sprites, style, background, generator)
        if content is None or not content.visible:
            continue
        if content.unseen == wanted:
            return content
    kind = f" with an unseen {unseen}" if unseen else ""
    raise UserError(f"the styles {', '.join(styles)} have no things for a scene of kind {tag}{kind}")


def _draw_any(
    tag: str, sprites: Sprites, style: str, background: str, generator: np.random.Generator
) -> Content | None:
    common = sprites.common[style]
    kinds = _kinds(tag, generator)
    if len(common) < kinds:
        return None
    chosen = [common[index] for index in generator.choice(len(common), kinds, replace=False)]
    items = [Item(thing.name, thing.thing, thing.colour) for thing in chosen]
    if generator.random() < COLOURED.get(tag, 0):
        coloured = _with_colours(items, sprites, style, generator)
        if coloured is None:
            return None
        items = coloured
    if tag == "counting":
        items = _with_counts(items, generator)
    if tag in ("single_object", "two_object") and generator.random() < SIZED:
        sizes = generator.permutation(["small", "large"])
        items = [replace(item, size=str(size)) for item, size in zip(items, sizes, strict=False)]
    relation = choose(RELATIONS, generator) if tag == "position" else None
    return Content(tag, style, background, tuple(items), relation)


def _kinds(tag: str, generator: np.random.Generator) -> int:
    if tag == "counting":
        return 2 if generator.random() < MIXED_COUNTS else 1
    return 1 if tag in ("single_object", "colors") else 2


def _with_colours(
    items: list[Item], sprites: Sprites, style: str, generator: np.random.Generator
) -> list[Item] | None:
    """Each in a colour of its own, or None if one cannot be recoloured."""
    colours = generator.permutation(list(COLOURS))
    found = [replace(item, colour=str(colour)) for item, colour in zip(items, colours, strict=False)]
    possible = all(item.colour in sprites.colours(item.thing, style) for item in found)
    return found if possible else None


def _with_counts(items: list[Item], generator: np.random.Generator) -> list[Item]:
    """Two to four in all of one kind, three or four of two kinds."""
    if len(items) == 1:
        return [replace(items[0], count=int(generator.integers(2, MOST_THINGS + 1)))]
    first = int(generator.integers(1, MOST_THINGS))
    second = int(generator.integers(2 if first == 1 else 1, MOST_THINGS - first + 1))
    return [replace(items[0], count=first), replace(items[1], count=second)]
