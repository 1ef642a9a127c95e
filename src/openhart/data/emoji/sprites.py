"""Drawings with transparency, unchanged or recoloured, cached in memory for scenes."""

from functools import cached_property, lru_cache

from PIL import Image

from openhart.data.emoji.colours import COLOURS
from openhart.data.emoji.common import COMMON_THINGS, NEVER_RECOLOURED, CommonThing
from openhart.data.emoji.drawing import OVERSAMPLING, draw
from openhart.data.emoji.library import Library
from openhart.data.emoji.recolour import MainColour, main_colour, recolour
from openhart.errors import UserError

NOT_FOR_FACES = ("brown", "black", "white")
COLOUR_SIDE = 96


class Sprites:
    """Drawings of the things of a library; each is rendered once.

    Args:
        library: icons by thing and style.
        size: side of the scenes in pixels; drawings are larger and are scaled down.
        cache_size: maximum number of drawings in memory, about 200 kB each at 128 pixels.
    """

    def __init__(self, library: Library, size: int, cache_size: int = 3000) -> None:
        self.library, self.size = library, size
        self.draw = lru_cache(cache_size)(self._draw)
        self.colours = lru_cache(None)(self._colours)
        self.main_colour = lru_cache(None)(self._main_colour)

    @cached_property
    def common(self) -> dict[str, list[CommonThing]]:
        """The common things of each style."""
        return {
            style: [common for common in COMMON_THINGS if (common.thing, style) in self.library.icons]
            for style in self.library.sets
        }

    def _draw(self, thing: str, style: str, colour: str | None = None) -> Image.Image:
        icon = self.library.icons[thing, style]
        svg = icon.svg
        if colour is not None:
            main = self.main_colour(thing, style)
            if main is None:
                raise UserError(
                    f"{thing} in style {style} has no main colour, so it cannot be recoloured to {colour}"
                )
            svg = recolour(svg, main, colour)
        drawing = draw(svg, icon.ratio, self.size * OVERSAMPLING)
        if drawing is None:
            raise UserError(f"the icon of {thing} in style {style} is empty")
        return drawing

    def _colours(self, thing: str, style: str) -> tuple[str, ...]:
        """Colours to which a thing can be recoloured; people and hands have none."""
        person = thing in self.library.category("People & Body")
        if person or NEVER_RECOLOURED.search(thing) or self.main_colour(thing, style) is None:
            return ()
        face = thing in self.library.category("Smileys & Emotion")
        return tuple(colour for colour in COLOURS if not (face and colour in NOT_FOR_FACES))

    def _main_colour(self, thing: str, style: str) -> MainColour | None:
        icon = self.library.icons[thing, style]
        drawing = draw(icon.svg, icon.ratio, COLOUR_SIDE)
        return None if drawing is None else main_colour(drawing)
