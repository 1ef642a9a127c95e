"""Scenes: placing things in one image, drawing the image, and its description."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from openhart.data.emoji.colours import BACKGROUNDS, WHITE
from openhart.data.emoji.common import everyday_name
from openhart.data.emoji.content import Content
from openhart.data.emoji.icons import may_be_mirrored
from openhart.data.emoji.layout import Box, centred, place
from openhart.data.emoji.sprites import Sprites

SHRINKING_FIRST = 2.0


@dataclass(frozen=True)
class Scene:
    """Content of a scene with the box of each thing and whether it is mirrored, in the order of the items."""

    content: Content
    boxes: tuple[Box, ...]
    mirrored: tuple[bool, ...]


def place_scene(
    content: Content, sprites: Sprites, generator: np.random.Generator, as_in_corpus: bool = False
) -> Scene:
    """Place the things at random; with ``as_in_corpus``, place one thing in the middle without mirroring."""
    shapes = [
        sprites.draw(item.thing, content.style, item.colour).size
        for item in content.items
        for _ in range(item.count)
    ]
    ratios = [width / height for width, height in shapes]
    if as_in_corpus:
        return Scene(content, (centred(ratios[0]),), (False,))
    boxes = place(content, ratios, generator)
    mirrored = tuple(
        may_be_mirrored(item.thing) and bool(generator.random() < 0.5)
        for item in content.items
        for _ in range(item.count)
    )
    return Scene(content, tuple(boxes), mirrored)


def compose(scene: Scene, sprites: Sprites) -> Image.Image:
    """Draw a scene, RGB, at the size of the sprites."""
    content, size = scene.content, sprites.size
    picture = Image.new("RGB", (size, size), BACKGROUNDS.get(content.background, WHITE))
    items = [item for item in content.items for _ in range(item.count)]
    for item, box, mirrored in zip(items, scene.boxes, scene.mirrored, strict=True):
        left, top, right, bottom = box.at(size)
        drawing = sprites.draw(item.thing, content.style, item.colour).resize(
            (right - left, bottom - top), Image.Resampling.LANCZOS, reducing_gap=SHRINKING_FIRST
        )
        if mirrored:
            drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture.paste(drawing, (left, top), drawing)
    return picture


def facts(scene: Scene, size: int) -> dict[str, Any]:
    """The description of a scene of ``size`` × ``size`` pixels that a checker needs.

    ``tag`` is GenEval's name of the task. ``objects`` lists the things: ``box`` is left, top, right, bottom
    in pixels; ``colour`` and ``size`` are null if the captions do not name them. ``mirror`` states whether
    the captions hold for the mirror image too; ``unseen`` lists the held-out combinations.
    """
    content = scene.content
    items = [item for item in content.items for _ in range(item.count)]
    sideless = content.relation not in ("left of", "right of")
    objects = [
        {
            "name": everyday_name(item.thing) or item.name,
            "thing": item.thing,
            "colour": item.colour,
            "size": item.size,
            "style": content.style,
            "box": list(box.at(size)),
            "mirrored": mirrored,
        }
        for item, box, mirrored in zip(items, scene.boxes, scene.mirrored, strict=True)
    ]
    return {
        "tag": content.tag,
        "style": content.style,
        "background": content.background,
        "relation": content.relation,
        "objects": objects,
        "mirror": sideless and all(may_be_mirrored(item.thing) for item in items),
        "unseen": content.unseen,
    }
