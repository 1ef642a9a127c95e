"""The rules of GenEval (arXiv 2310.11513): which detections count, and whether they satisfy the prompt.

All comparisons use float32, as in the published program, in which a score of 0.30000001 is not above 0.3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openhart.errors import UserError
from openhart.evaluation.geneval.detections import Floats, Found, Objects

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
SMALLEST_OFFSET = 1e-3
LEAST_DIRECTION = 0.5
NONE = Objects(np.zeros((0, 5), np.float32))
NameColours = Callable[[Objects, str], list[str]]


@dataclass(frozen=True)
class Thresholds:
    """The options of the published program, with their defaults.

    Attributes:
        threshold: the score of a detection must exceed this value.
        counting_threshold: the same for prompts of the task ``counting``.
        max_objects: maximum number of detections that are kept per class.
        max_overlap: intersection over union from which the less confident of two detections is dropped; 1
            switches this off.
        position_threshold: fraction of the two objects' sizes that is subtracted from their distance.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether an image satisfies its prompt; if it does not, ``reason`` has one line per failure."""

    correct: bool
    reason: str


def kept_indices(boxes: Floats, threshold: float, options: Thresholds) -> list[int]:
    """Indices of the detections that count, by descending score: threshold, then limit, then suppression.

    Args:
        boxes: float32 (n, 5).
        threshold: the score that must be exceeded.
        options: the limit and the overlap.
    """
    order = np.argsort(boxes[:, 4])[::-1]
    waiting = order[boxes[order, 4] > threshold][: options.max_objects].tolist()
    kept: list[int] = []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        if options.max_overlap != 1:
            waiting = [other for other in waiting if overlap(boxes[best], boxes[other]) < options.max_overlap]
    return kept


def keep(found: Found, tag: str, options: Thresholds) -> dict[str, Objects]:
    """The detections that count for a prompt of the task ``tag``; classes without detections are omitted."""
    threshold = options.counting_threshold if tag == "counting" else options.threshold
    kept = {
        name: objects.take(kept_indices(objects.boxes, threshold, options)) for name, objects in found.items()
    }
    return {name: objects for name, objects in kept.items() if len(objects)}


def overlap(first: Floats, second: Floats) -> float:
    """Intersection over union of two boxes; as published, sides are one pixel longer than the difference."""

    def area(corners: Any) -> Any:
        return max(corners[2] - corners[0] + 1, 0) * max(corners[3] - corners[1] + 1, 0)

    common = area([*np.maximum(first[:2], second[:2]), *np.minimum(first[2:4], second[2:4])])
    union = area(first) + area(second) - common
    return common / union if union else 0.0


def relations(first: Floats, second: Floats, position_threshold: float) -> list[str]:
    """Position of the first box relative to the second: none, one or two of :data:`RELATIONS`."""
    boxes = np.stack([first, second])[:, :4].reshape(2, 2, 2)
    centres = boxes.mean(axis=1)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    gap = np.maximum(np.abs(offset) - position_threshold * (sizes[0] + sizes[1]), 0) * np.sign(offset)
    if (np.abs(gap) < SMALLEST_OFFSET).all():
        return []
    x, y = gap / np.linalg.norm(offset)  # by the length of the offset before it was reduced
    holds = (x < -LEAST_DIRECTION, x > LEAST_DIRECTION, y < -LEAST_DIRECTION, y > LEAST_DIRECTION)
    return [relation for relation, true in zip(RELATIONS, holds, strict=True) if true]


def judge(
    metadata: Mapping[str, Any], objects: Found, name_colours: NameColours, options: Thresholds
) -> Verdict:
    """Decide whether the kept objects satisfy a prompt.

    Colour and position are checked on the ``count`` most confident objects of a class only; an ``exclude``
    clause counts all objects.

    Args:
        metadata: the prompt's line of the benchmark file, with ``include`` and optionally ``exclude``.
        objects: the result of :func:`keep`.
        name_colours: classifies the colours of objects of one class.
        options: the position threshold.

    Raises:
        UserError: the position of a clause refers to a clause that does not precede it.
    """
    reasons: list[str] = []
    matched: list[Objects | None] = []
    for clause in metadata.get("include", []):
        name, count = clause["class"], clause["count"]
        all_found = objects.get(name, NONE)
        best = all_found.take(list(range(min(count, len(all_found)))))
        failure: str | None
        if len(best) < count:
            failure = f"expected {name}>={count}, found {len(best)}"
        else:
            failure = _wrong_colour(clause, best, name_colours)
            if failure is None and "position" in clause:
                failure = _wrong_position(clause, best, matched, options.position_threshold)
        matched.append(best if failure is None else None)
        if failure is not None:
            reasons.append(failure)
    for clause in metadata.get("exclude", []):
        name = clause["class"]
        number = len(objects.get(name, NONE))
        if number >= clause["count"]:
            reasons.append(f"expected {name}<{clause['count']}, found {number}")
    return Verdict(not reasons, "\n".join(reasons))


def _wrong_colour(clause: Mapping[str, Any], objects: Objects, name_colours: NameColours) -> str | None:
    if "color" not in clause:
        return None
    name, count, wanted = clause["class"], clause["count"], clause["color"]
    colours = name_colours(objects, name)
    if colours.count(wanted) >= count:
        return None
    seen = ", ".join(f"{colours.count(colour)} {colour}" for colour in COLOURS if colour in colours)
    return f"expected {wanted} {name}>={count}, found {colours.count(wanted)} {wanted}; and {seen}"


def _wrong_position(
    clause: Mapping[str, Any], objects: Objects, matched: Sequence[Objects | None], threshold: float
) -> str | None:
    name, (wanted, index) = clause["class"], clause["position"]
    if not -len(matched) <= index < len(matched):
        raise UserError(f"the position of {name} refers to clause {index}, which does not precede it")
    target = matched[index]
    if target is None:
        return f"no target for {name} to be {wanted}"
    for box in objects.boxes:
        for other in target.boxes:
            true = relations(box, other, threshold)
            if wanted not in true:
                return f"expected {name} {wanted} target, found {' and '.join(true)} target"
    return None
