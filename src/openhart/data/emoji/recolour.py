"""Recolouring: the dominant hue of a drawing is replaced in its SVG, everything else stays.

Fills, strokes, gradient stops and tints of filters are changed one by one in Oklab. A colour within
:data:`WINDOW` degrees of the dominant hue gets the new hue, a proportional chroma, and the same change of
lightness as the dominant colour. White, black and grey parts stay.
"""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor

from openhart.data.emoji.colours import COLOURS
from openhart.data.oklab import Floats, hue_distance, to_lightness_chroma_hue, to_rgb

COLOUR = re.compile(r'(?<=[ ;"])(fill|stroke|stop-color|flood-color)="(?!url|none)([^"]+)"')
TINT = re.compile(r'(?<= values=")0 0 0 0 ([\d.]+) 0 0 0 0 ([\d.]+) 0 0 0 0 ([\d.]+)(?= 0 0 0 [\d.]+ 0")')
COLOURFUL = 0.04
WINDOW = (34.0, 48.0)
GREY = (0.015, 0.04)
MIN_CHROMA = 0.055
MIN_SHARE = 0.45
MAX_RIVALS = 0.5


@dataclass(frozen=True)
class MainColour:
    """The dominant hue of a drawing in degrees, with the median lightness and chroma of its pixels."""

    lightness: float
    chroma: float
    hue: float


def main_colour(drawing: Image.Image) -> MainColour | None:
    """The dominant colour of a drawing; None if it is grey or has several colours."""
    pixels = np.asarray(drawing.convert("RGBA"), dtype=np.float64).reshape(-1, 4) / 255
    lightness, chroma, hue = to_lightness_chroma_hue(pixels[pixels[:, 3] > 0.5, :3]).T
    colourful = chroma > COLOURFUL
    if not colourful.any():
        return None
    counts = np.histogram(hue[colourful], 36, (0, 360))[0]
    nearby = sum((4 - abs(shift)) * np.roll(counts, shift) for shift in range(-3, 4))
    centre = float(np.argmax(nearby)) * 10 + 5
    for _ in range(3):
        same = colourful & (hue_distance(hue, centre) < WINDOW[0])
        angle = np.radians(hue[same])
        centre = float(np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360)
    rivals = colourful & (hue_distance(hue, centre) > WINDOW[1])
    if same.sum() < MIN_SHARE * len(hue) or rivals.sum() > MAX_RIVALS * same.sum():
        return None
    main = MainColour(float(np.median(lightness[same])), float(np.median(chroma[same])), centre)
    return main if main.chroma >= MIN_CHROMA else None


def recolour(svg: str, main: MainColour, colour: str) -> str:
    """Replace the main colour of an SVG.

    Args:
        svg: the drawing.
        main: its main colour.
        colour: one of :data:`openhart.data.emoji.colours.COLOURS`.
    """

    def replace_attribute(found: re.Match[str]) -> str:
        try:
            rgb = ImageColor.getrgb(found[2])
        except ValueError:
            return found[0]
        new = _replace(np.array(rgb[:3]) / 255, main, colour)
        digits = "".join(f"{round(value * 255):02x}" for value in new)
        return f'{found[1]}="#{digits}"'

    def replace_tint(found: re.Match[str]) -> str:
        new = _replace(np.array([float(value) for value in found.groups()]), main, colour)
        return " ".join(f"0 0 0 0 {value:.4f}" for value in new)

    return TINT.sub(replace_tint, COLOUR.sub(replace_attribute, svg))


def _replace(rgb: Floats, main: MainColour, colour: str) -> Floats:
    lightness, chroma, hue = to_lightness_chroma_hue(rgb)
    wanted_lightness, wanted_chroma, wanted_hue = COLOURS[colour]
    distance = hue_distance(hue, main.hue)
    share = np.interp(distance, WINDOW, (1, 0)) * np.interp(chroma, GREY, (0, 1))
    if share == 0:
        return rgb
    room, new_room = main.lightness, wanted_lightness
    if lightness > main.lightness:
        room, new_room = 1 - main.lightness, 1 - wanted_lightness
    new_lightness = wanted_lightness + (lightness - main.lightness) * min(1, new_room / room)
    new = np.array([new_lightness, wanted_chroma * min(chroma / main.chroma, 1.3), wanted_hue])
    mixed: Floats = rgb + share * (to_rgb(new) - rgb)
    return mixed
