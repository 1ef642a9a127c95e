"""Scenes of plain shapes in the layout of ``openhart data scenes``: small enough to train on in a test."""

import json

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
GROUNDS = {"white": (255, 255, 255), "light blue": (173, 216, 240), "black": (20, 20, 20)}
COLOURS = {
    "red": (215, 40, 40),
    "green": (50, 160, 70),
    "blue": (50, 80, 210),
    "purple": (130, 60, 170),
    "yellow": (240, 215, 60),
}
CELLS = {
    1: [(8, 8, 56, 56)],
    2: [(3, 18, 28, 46), (36, 18, 61, 46)],
    3: [(2, 4, 29, 29), (35, 4, 62, 29), (20, 36, 46, 61)],
}


def ball(draw, box, colour):
    draw.ellipse(box, colour)


def block(draw, box, colour):
    draw.rectangle(box, colour)


def kite(draw, box, colour):
    left, top, right, bottom = box
    draw.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], colour)


def dumbbell(draw, box, colour):
    """Two pieces that are one thing."""
    left, top, right, bottom = box
    third = (right - left) / 2.6
    draw.ellipse((left, top, left + third, bottom), colour)
    draw.ellipse((right - third, top, right, bottom), colour)


THINGS = {"ball": ball, "block": block, "kite": kite, "dumbbell": dumbbell}


def draw_scene(names, colours, ground="white", cells=None):
    image = Image.new("RGB", (SIZE, SIZE), GROUNDS[ground])
    for name, colour, box in zip(names, colours, cells or CELLS[len(names)], strict=True):
        THINGS[name](ImageDraw.Draw(image), box, COLOURS[colour])
    return image


def write_scenes(folder, count, seed=0):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    lines = []
    for index in range(count):
        tag = ("colors", "counting", "position", "color_attr")[index % 4]
        number = {"colors": 1, "counting": int(random.integers(2, 4))}.get(tag, 2)
        names = [str(name) for name in random.permutation(list(THINGS))[:number]]
        if tag == "counting":
            names = names[:1] * number
        colours = [str(colour) for colour in random.permutation(list(COLOURS))[:number]]
        ground = str(random.choice(list(GROUNDS)))
        cells = CELLS[number]
        draw_scene(names, colours, ground).save(folder / f"{index:03}.png")
        include = [
            {"class": name, "count": names.count(name), "color": colour}
            for name, colour in dict(zip(names, colours, strict=True)).items()
        ]
        extra = {}
        if tag == "counting":
            include = [{"class": names[0], "count": number}]
            extra = {"exclude": [{"class": names[0], "count": number + 1}]}
        if tag == "position":
            include = [{"class": name, "count": 1} for name in names]
            include[1]["position"] = ["right of", 0]
        objects = [
            {"name": name, "thing": name, "colour": colour, "box": [*box[:2], box[2] + 1, box[3] + 1]}
            for name, colour, box in zip(names, colours, cells, strict=True)
        ]
        record = {"file_name": f"{index:03}.png", "tag": tag, "text": "a scene", "include": include, **extra}
        lines.append(json.dumps({**record, "background": ground, "objects": objects}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder
