"""The mixture of scenes for training, and the scenes with held-out combinations."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from openhart.data.emoji.colours import BACKGROUNDS, COLOURS
from openhart.data.emoji.common import BY_THING, unseen_combinations
from openhart.data.emoji.content import TAGS, TRIES, Content, Item, choose, draw_content
from openhart.data.emoji.icons import is_held_out
from openhart.data.emoji.prompts import kinds_of_unseen
from openhart.data.emoji.scenes import Scene, place_scene
from openhart.data.emoji.sprites import Sprites
from openhart.errors import UserError

SHARES = {
    "thing": 0.34,
    "coloured_thing": 0.08,
    "single_object": 0.04,
    "colors": 0.08,
    "counting": 0.14,
    "two_object": 0.10,
    "position": 0.13,
    "color_attr": 0.09,
}
"""Fractions of the training images: any thing unchanged, any thing recoloured, then GenEval's tasks."""
GROUNDS = ("white",) * len(BACKGROUNDS) + tuple(BACKGROUNDS)
AS_IN_CORPUS = 0.4
TRAIN, UNSEEN, ORDER = range(3)


def training_scenes(
    count: int, seed: int, sprites: Sprites, styles: Sequence[str], numbers: Iterable[int] | None = None
) -> Iterator[Scene]:
    """Scenes without held-out combinations; every thing occurs unchanged equally often.

    Args:
        count: number of all scenes.
        seed: seed of all random choices.
        sprites: the drawings.
        styles: the styles to use.
        numbers: the scenes to make, from 0; None for all. A scene does not depend on the others.
    """
    kinds = _kinds(count)
    things = _things(kinds.count("thing"), seed, sprites)
    for index in range(count) if numbers is None else numbers:
        kind = kinds[index]
        generator = np.random.default_rng([seed, TRAIN, index])
        as_in_corpus = False
        if kind == "thing":  # the first kind, so that the scene's number is that of the thing
            content = _thing_alone(*things[index], sprites, generator)
            as_in_corpus = bool(generator.random() < AS_IN_CORPUS)
        elif kind == "coloured_thing":
            content = _coloured_thing(sprites, generator)
        else:
            content = draw_content(kind, sprites, styles, GROUNDS, generator)
        yield place_scene(content, sprites, generator, as_in_corpus)


def unseen_scenes(
    count: int, seed: int, sprites: Sprites, styles: Sequence[str], numbers: Iterable[int] | None = None
) -> Iterator[Scene]:
    """Scenes with one held-out combination each; arguments as in :func:`training_scenes`."""
    for index in range(count) if numbers is None else numbers:
        generator = np.random.default_rng([seed, UNSEEN, index])
        tag = TAGS[index % len(TAGS)]
        kind = choose(kinds_of_unseen(tag, styles), generator)
        content = draw_content(tag, sprites, styles, GROUNDS, generator, kind)
        yield place_scene(content, sprites, generator)


def _kinds(count: int) -> list[str]:
    """The kinds of ``count`` scenes, in their fractions."""
    ends = np.round(np.cumsum(list(SHARES.values())) * count).astype(int)
    return [
        kind for kind, number in zip(SHARES, np.diff(ends, prepend=0), strict=True) for _ in range(number)
    ]


def _things(count: int, seed: int, sprites: Sprites) -> list[tuple[str, str]]:
    """Things and styles for training in random order, each equally often; repetitions are consecutive, so
    that each is drawn once."""
    pairs = [
        (thing, style)
        for thing, style in sprites.library.icons
        if not is_held_out(thing) and not unseen_combinations(thing, style, "white")
    ]
    order = np.random.default_rng([seed, ORDER]).permutation(len(pairs))
    return [pairs[order[number * len(pairs) // max(count, len(pairs))]] for number in range(count)]


def _thing_alone(thing: str, style: str, sprites: Sprites, generator: np.random.Generator) -> Content:
    common = BY_THING.get(thing)
    item = Item(sprites.library.name(thing), thing, common.colour if common else None)
    while True:
        content = Content("single_object", style, choose(GROUNDS, generator), (item,))
        if content.visible and not content.unseen:
            return content


def _coloured_thing(sprites: Sprites, generator: np.random.Generator) -> Content:
    """Any thing that can be recoloured, with a name without its usual colour."""
    pairs = list(sprites.library.icons)
    for _ in range(TRIES):
        thing, style = choose(pairs, generator)
        colours = () if is_held_out(thing) else sprites.colours(thing, style)
        if not colours:
            continue
        first, _, rest = sprites.library.name(thing).partition(" ")
        name = rest if first in (*COLOURS, "grey") and rest else f"{first} {rest}".strip()
        item = Item(name, thing, colour=choose(colours, generator))
        content = Content("colors", style, choose(GROUNDS, generator), (item,))
        if content.visible and not content.unseen:
            return content
    raise UserError("none of the things of these styles can be recoloured: choose other styles")
