"""Drawings in another colour: the main hue changes, the rest stays."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from openhart.data.emoji.colours import COLOURS
from openhart.data.emoji.drawing import draw
from openhart.data.emoji.recolour import main_colour, recolour
from openhart.data.oklab import hue_distance, to_lightness_chroma_hue, to_rgb

APPLE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32">'
    '<rect width="32" height="24" fill="{body}"/><rect y="24" width="8" height="8" fill="#30b030"/>'
    '<rect x="8" y="24" width="8" height="8" fill="#ffffff"/><rect x="16" y="24" width="8" height="8" '
    'fill="#111111"/></svg>'
)
RED = APPLE.format(body="#e02020")
TINTED = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><filter id="f"><feColorMatrix '
    'values="0 0 0 0 0.9 0 0 0 0 0.1 0 0 0 0 0.1 0 0 0 1 0"/></filter>'
    '<rect width="32" height="32" fill="#dd2222" filter="url(#f)"/></svg>'
)


def pixels(svg):
    return np.asarray(draw(svg, 1, 32).convert("RGB"))


def nearest(colour):
    """The named colour that a pixel is nearest to in Oklab."""
    lightness, chroma, hue = to_lightness_chroma_hue(np.array(colour) / 255)

    def distance(name):
        other_lightness, other_chroma, other_hue = COLOURS[name]
        chord = 2 * np.sqrt(chroma * other_chroma) * np.sin(np.radians(hue_distance(hue, other_hue)) / 2)
        return np.hypot(np.hypot(lightness - other_lightness, chroma - other_chroma), chord)

    return min(COLOURS, key=distance)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("body", ["#e02020", "#ffd23f", "#5b3a1e", "#70a8ff"])
def test_the_main_colour_becomes_the_one_named_and_the_rest_stays(colour, body):
    before = APPLE.format(body=body)
    main = main_colour(draw(before, 1, 32))
    after = pixels(recolour(before, main, colour))
    assert nearest(after[10, 10]) == colour
    assert (after[24:] == pixels(before)[24:]).all()


def test_lightness_keeps_its_order():
    shaded = RED.replace('<rect y="24" width="8" height="8" fill="#30b030"/>', "").replace(
        "</svg>",
        '<rect width="8" height="8" fill="#ff7070"/><rect x="8" width="8" height="8" fill="#a01010"/></svg>',
    )
    main = main_colour(draw(shaded, 1, 32))
    for colour in COLOURS:
        after = to_lightness_chroma_hue(pixels(recolour(shaded, main, colour)) / 255)
        assert after[4, 4, 0] > after[16, 16, 0] > after[4, 12, 0]


def test_tints_of_filters_change_too():
    after = pixels(recolour(TINTED, main_colour(draw(TINTED, 1, 32)), "blue"))
    assert nearest(after[16, 16]) == "blue"


def test_references_and_absent_fills_are_left_alone():
    svg = RED.replace("</svg>", '<path fill="url(#a1b2c3)" stroke="none" d="M0 0"/></svg>')
    after = recolour(svg, main_colour(draw(svg, 1, 32)), "blue")
    assert 'fill="url(#a1b2c3)" stroke="none"' in after


def test_what_is_grey_or_of_many_colours_has_no_main_colour():
    grey = Image.new("RGBA", (32, 32), (150, 150, 155, 255))
    many = Image.new("RGBA", (32, 32), (220, 40, 40, 255))
    ImageDraw.Draw(many).rectangle((0, 16, 31, 31), fill=(40, 80, 220, 255))
    assert main_colour(grey) is None
    assert main_colour(many) is None
    assert main_colour(Image.new("RGBA", (32, 32))) is None


def test_oklab_is_inverted():
    rgb = np.random.default_rng(0).random((50, 3))
    assert np.abs(to_rgb(to_lightness_chroma_hue(rgb)) - rgb).max() < 1e-4
    white = to_lightness_chroma_hue(np.ones(3))
    assert white[0] == pytest.approx(1, abs=1e-4)
    assert white[1] == pytest.approx(0, abs=1e-4)


def test_colours_that_no_screen_shows_keep_lightness_and_hue():
    shown = to_lightness_chroma_hue(to_rgb(np.array([0.6, 0.5, 200.0])))
    assert shown[0] == pytest.approx(0.6, abs=0.01)
    assert shown[2] == pytest.approx(200, abs=2)
