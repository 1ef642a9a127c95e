"""The content of a scene before it is placed and drawn: things with colours, sizes, counts and a relation."""

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
MAX_THINGS = 4
SIZED = 0.3
MIXED_COUNTS = 0.25
COLOURED = {"colors": 1.0, "color_attr": 1.0, "counting": 0.2, "position": 0.2}
TRIES = 3000

Value = TypeVar("Value")


@dataclass(frozen=True)
class Item:
    """One kind of thing in a scene: everyday name, name in the corpus, usual colour and count.

    ``colour`` is the colour to which it is recoloured, or None for its own colours; ``size`` is ``small``,
    ``large`` or None.
    """

    name: str
    thing: str
    natural: str | None = None
    count: int = 1
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Content:
    """The content of a scene; ``relation`` is the position of the first item relative to the second."""

    tag: str
    style: str
    background: str
    items: tuple[Item, ...]
    relation: str | None = None

    @property
    def unseen(self) -> list[str]:
        """The kinds of held-out combinations in this scene, in alphabetical order."""
        found = [
            kind
            for item in self.items
            for kind in unseen_combinations(item.thing, self.style, self.background, item.colour)
        ]
        return sorted(set(found))

    @property
    def visible(self) -> bool:
        """Whether every thing contrasts with the background."""
        return all(
            self.background not in TOO_CLOSE.get(item.colour or item.natural or "", ()) for item in self.items
        )


def choose(values: Sequence[Value], generator: np.random.Generator) -> Value:
    """Draw one of several values uniformly."""
    return values[int(generator.integers(len(values)))]


def draw_content(
    tag: str,
    sprites: Sprites,
    styles: Sequence[str],
    backgrounds: Sequence[str],
    generator: np.random.Generator,
    unseen: str | None = None,
) -> Content:
    """Choose the content of a scene of common things.

    Args:
        tag: one of :data:`TAGS`.
        sprites: the things of each style, and the colours to which they can be recoloured.
        styles: the style is one of these.
        backgrounds: names of colours; the background is one of these.
        generator: source of all random choices.
        unseen: the only kind of held-out combination in the scene, ``style``, ``background`` or ``colour``;
            None for a scene without held-out combinations.

    Raises:
        UserError: if the things, styles and backgrounds allow no such scene.
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
    """Give each item a colour of its own; None if an item cannot be recoloured."""
    colours = generator.permutation(list(COLOURS))
    found = [replace(item, colour=str(colour)) for item, colour in zip(items, colours, strict=False)]
    possible = all(item.colour in sprites.colours(item.thing, style) for item in found)
    return found if possible else None


def _with_counts(items: list[Item], generator: np.random.Generator) -> list[Item]:
    """Two to four things of one kind, or three to four things of two kinds."""
    if len(items) == 1:
        return [replace(items[0], count=int(generator.integers(2, MAX_THINGS + 1)))]
    first = int(generator.integers(1, MAX_THINGS))
    second = int(generator.integers(2 if first == 1 else 1, MAX_THINGS - first + 1))
    return [replace(items[0], count=first), replace(items[1], count=second)]
