"""The eighty things that scenes consist of: their names are unambiguous, and they look different."""

import re
from dataclasses import dataclass
from importlib.resources import files

from openhart.data.emoji.colours import BACKGROUNDS, COLOURS
from openhart.data.emoji.icons import stable_hash

NEVER_RECOLOURED = re.compile(
    r"^(pizza|hamburger|laptop|watermelon|pineapple|blackbird|polar bear|leafy green|locked|unlocked|dizzy"
    r"|zzz|cooking|camping|collision|wedding|station|metro|desert|motorway|foggy?|high voltage"
    r"|performing arts)$"
    r"|^(two|dashing|rolling|star struck|hot springs|locked with|night with|bridge at|mount|milky|national)\b"
    r"|^(beach|cityscape|sunrise|sunset|landslide|moon viewing|money with|full moon|new moon|love hotel)\b"
    r"|^(sun behind|nest with|magnifying glass)\b"
)
"""Things that are not recoloured: landscapes, states, names with a colour, parts of many colours."""
THINGS_OF_THEIR_OWN = frozenset(
    ["green apple", "black cat", "blue book", "green book", "orange book", "brown mushroom"]
    + [f"{colour} heart" for colour in COLOURS]
)
"""Combinations that are things of the corpus themselves, and therefore occur in training."""
SIMILAR = {
    "red": ("pink", "orange", "brown"),
    "orange": ("red", "yellow", "brown"),
    "yellow": ("orange",),
    "blue": ("purple",),
    "purple": ("blue", "pink"),
    "pink": ("red", "purple"),
    "brown": ("red", "orange"),
    "black": ("brown", "purple"),
}
"""Colours that a thing of the given colour has, or seems to have, in another style."""
UNSEEN_STYLES = ("fluent-flat", "noto")
UNSEEN_STYLE_ONE_IN = 3
TOO_CLOSE = {
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("mint green",),
    "blue": ("light blue",),
    "purple": ("lavender",),
    "pink": ("pink",),
    "brown": ("black",),
    "black": ("black",),
    "white": ("white", "grey"),
}
"""Backgrounds on which a thing of the given colour is hard to see."""


@dataclass(frozen=True)
class CommonThing:
    """A thing: everyday name, name in the corpus, and usual colour or None.

    ``unseen_style``, ``unseen_background`` and ``unseen_colour`` are held out of training for it.
    """

    name: str
    thing: str
    colour: str | None

    @property
    def unseen_style(self) -> str | None:
        """The style that is held out of training for this thing; one third of the things have one."""
        number = stable_hash(f"{self.thing} style")
        if number % UNSEEN_STYLE_ONE_IN:
            return None
        return UNSEEN_STYLES[number // UNSEEN_STYLE_ONE_IN % len(UNSEEN_STYLES)]

    @property
    def unseen_background(self) -> str:
        """The background colour that is held out of training for this thing."""
        choices = [name for name in BACKGROUNDS if name not in TOO_CLOSE.get(self.colour or "", ())]
        return choices[stable_hash(f"{self.thing} background") % len(choices)]

    @property
    def unseen_colour(self) -> str | None:
        """The colour that is held out of training for this thing; hearts have none."""
        known = (self.colour, *SIMILAR.get(self.colour or "", ()))
        choices = [
            colour
            for colour in COLOURS
            if colour not in known and f"{colour} {self.name}" not in THINGS_OF_THEIR_OWN
        ]
        return choices[stable_hash(f"{self.thing} colour") % len(choices)] if choices else None


def _read(text: str) -> list[CommonThing]:
    things = []
    for line in text.splitlines():
        name, rest = line.split(": ")
        thing, colour = rest.split(", ")
        things.append(CommonThing(name, thing, None if colour == "-" else colour))
    return things


COMMON_THINGS = _read(files("openhart.data.emoji").joinpath("common.txt").read_text())
BY_THING = {common.thing: common for common in COMMON_THINGS}


def everyday_name(thing: str) -> str | None:
    """The everyday name of a common thing, such as ``apple`` for ``red apple``; None for other things."""
    return BY_THING[thing].name if thing in BY_THING else None


def unseen_combinations(thing: str, style: str, background: str, colour: str | None = None) -> list[str]:
    """Which of ``style``, ``background`` and ``colour`` are held out of training for this thing.

    Args:
        thing: name in the corpus.
        style: style of the drawing.
        background: colour of the background.
        colour: the colour to which the thing is recoloured, or None.
    """
    common = BY_THING.get(thing)
    if common is None:
        return []
    pairs = {
        "style": (style, common.unseen_style),
        "background": (background, common.unseen_background),
        "colour": (colour, common.unseen_colour),
    }
    return [kind for kind, (value, unseen) in pairs.items() if value is not None and value == unseen]
