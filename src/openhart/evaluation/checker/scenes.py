"""Reading the scenes that ``openhart data scenes`` writes, with the things in them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.checker.segments import Group
from openhart.reading import read_json_lines

GENEVAL_KEYS = ("tag", "include", "exclude")
SAME, OTHER = 0.7, 0.5
NONE = -1
UNCERTAIN = -2


@dataclass(frozen=True)
class Thing:
    """One thing in a scene: everyday name, the colour it was recoloured to or None, and box in pixels."""

    name: str
    colour: str | None
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """An image file, its metadata in GenEval's layout, and the things in it."""

    path: Path
    metadata: dict[str, Any]
    things: tuple[Thing, ...]

    def picture(self) -> Image.Image:
        """The image, RGB."""
        with Image.open(self.path) as opened:
            return opened.convert("RGB")


def read_scenes(folder: Path) -> list[Scene]:
    """Read ``metadata.jsonl`` of a folder of scenes, or of all folders in it (``train`` and ``unseen``).

    Raises:
        UserError: there is no such file, or its records have no objects.
    """
    inside = sorted(path.parent for path in folder.glob("*/metadata.jsonl"))
    if (folder / "metadata.jsonl").is_file():
        inside = [folder]
    if not inside:
        raise UserError(f"{folder} has no metadata.jsonl: make scenes with openhart data scenes FOLDER")
    records = [(place, record) for place in inside for record in read_json_lines(place / "metadata.jsonl")]
    try:
        names = _everyday_names([record for _, record in records])
        return [_scene(place, record, names) for place, record in records]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} contains no scenes: each record needs file_name, tag and objects"
        ) from error


def _everyday_names(records: list[dict[str, Any]]) -> dict[str, str]:
    """Names of the things in prompts, taken from the scenes with one kind of thing."""
    alone = [record for record in records if len(record["include"]) == 1]
    return {record["objects"][0]["thing"]: record["include"][0]["class"] for record in alone}


def _scene(folder: Path, record: dict[str, Any], names: dict[str, str]) -> Scene:
    things = tuple(
        Thing(names.get(one["thing"], one["name"]), one.get("colour"), _box(one["box"]))
        for one in record["objects"]
    )
    metadata: dict[str, Any] = {key: record[key] for key in GENEVAL_KEYS if key in record}
    return Scene(folder / record["file_name"], metadata | {"prompt": record.get("text", "")}, things)


def _box(values: Iterable[Any]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(value) for value in values)
    return left, top, right, bottom


def match(group: Group, things: tuple[Thing, ...]) -> int:
    """Index of the thing that a group shows, :data:`NONE` or :data:`UNCERTAIN`, by the overlap of boxes."""
    overlaps = np.array([box_overlap(group.box, thing.box) for thing in things])
    best = int(overlaps.argmax())
    if overlaps[best] >= SAME:
        return best
    return NONE if overlaps[best] < OTHER else UNCERTAIN


def box_overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes."""

    def area(box: NDArray[np.int_]) -> int:
        width, height = np.maximum(box[2:] - box[:2], 0)
        return int(width * height)

    one, other = np.array(first), np.array(second)
    common = area(np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])]))
    return common / max(1, area(one) + area(other) - common)
