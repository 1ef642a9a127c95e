"""Detection of known things on a plain background: segmentation, grouping and classification of groups."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openhart.evaluation.checker.classifier import ThingClassifier
from openhart.evaluation.checker.crops import cut_out
from openhart.evaluation.checker.segments import Group, find_pieces, group_pieces
from openhart.evaluation.geneval.detections import Found, Objects


class SceneDetector:
    """A :class:`openhart.evaluation.geneval.detections.Detector` of the things of its classifier.

    Args:
        classifier: classifier of crops.
        name: name that is written into every result.
    """

    def __init__(self, classifier: ThingClassifier, name: str) -> None:
        self.classifier, self.name = classifier, name

    def __call__(self, image: Image.Image) -> Found:
        """See :class:`openhart.evaluation.geneval.detections.Detector`."""
        picture = np.array(image.convert("RGB"))
        groups = group_pieces(*find_pieces(picture))
        if not groups:
            return {}
        probabilities = self.classifier.probabilities(np.stack([cut_out(picture, group) for group in groups]))
        found: dict[str, list[tuple[float, Group]]] = {}
        for index in choose_groups(groups, probabilities.max(axis=1)):
            name = self.classifier.things[int(probabilities[index].argmax())]
            found.setdefault(name, []).append((float(probabilities[index].max()), groups[index]))
        return {name: _objects(objects) for name, objects in found.items()}


def choose_groups(groups: list[Group], certainty: NDArray[np.floating]) -> list[int]:
    """Choose the division of all pieces into groups with the largest area-weighted certainty.

    Args:
        groups: the result of :func:`openhart.evaluation.checker.segments.group_pieces`.
        certainty: probability of each group to be one known thing.

    Returns:
        indices of the chosen groups, which together cover every piece once.
    """
    best: list[tuple[float, list[int]]] = []
    for index, group in enumerate(groups):
        alone = float(certainty[index]) * int(group.mask.sum())
        if group.parts is not None:
            first, second = (best[part] for part in group.parts)
            if first[0] + second[0] > alone:
                best.append((first[0] + second[0], first[1] + second[1]))
                continue
        best.append((alone, [index]))
    return best[-1][1]


def _objects(found: list[tuple[float, Group]]) -> Objects:
    rows: list[Any] = [[*group.box, score] for score, group in found]
    return Objects(np.array(rows, dtype=np.float32), np.stack([group.mask for _, group in found]))
