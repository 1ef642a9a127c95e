"""The scores of DPG-Bench (arXiv 2403.05135), as the published program computes them and corrected.

The published program omits the first question of the table, computes category scores from the last image of
an item only and before the parent rule, and reads a parent that is listed later before that parent was set to
zero itself. :func:`score_as_published` reproduces all of this, :func:`score_corrected` none of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openhart.evaluation.dpg.questions import Question

Answers = Mapping[int, str]
"""The answer to each question, by its number."""


@dataclass(frozen=True)
class ItemScore:
    """The scores of one grid of images: one per image in [0, 1], and one per question with its category."""

    file: str
    pictures: tuple[float, ...]
    by_category: tuple[tuple[str, float], ...]

    @property
    def mean(self) -> float:
        """Mean over the images of the item."""
        return sum(self.pictures) / len(self.pictures)


@dataclass(frozen=True)
class DpgScores:
    """Scores of all items; ``level_1`` and ``level_2`` are scores of categories in percent.

    ``failed`` lists the files that could not be scored and are excluded from every mean.
    """

    items: tuple[ItemScore, ...]
    failed: tuple[str, ...]

    @property
    def score(self) -> float | None:
        """The benchmark's score in percent; None if nothing was scored."""
        return 100 * float(np.mean([item.mean for item in self.items])) if self.items else None

    @property
    def level_2(self) -> dict[str, float]:
        """Scores of the detailed categories, in alphabetical order."""
        return self._means(lambda category: category)

    @property
    def level_1(self) -> dict[str, float]:
        """Scores of the broad categories, in alphabetical order."""
        return self._means(lambda category: category.split("-")[0].strip())

    def _means(self, group: Callable[[str], str]) -> dict[str, float]:
        scores: dict[str, list[float]] = {}
        for item in self.items:
            for category, score in item.by_category:
                scores.setdefault(group(category), []).append(score)
        return {category: 100 * float(np.mean(scores[category])) for category in sorted(scores)}


def score_as_published(file: str, questions: Mapping[int, Question], answers: Sequence[Answers]) -> ItemScore:
    """Score one item by the published rules.

    Args:
        file: name of the image file.
        questions: the questions of the item, in the order of the table.
        answers: per picture, the model's answer to each question.

    Raises:
        KeyError: a parent is not a question of the item; the published program then excludes the item.
    """
    pictures = []
    scores: dict[int, float] = {}
    for given in answers:
        scores = {number: float(given[number] == "yes") for number in questions}
        current = dict(scores)
        for number, question in questions.items():
            if any(current[parent] == 0 for parent in question.parents):
                current[number] = 0.0
        pictures.append(sum(current.values()) / len(current))
    return ItemScore(
        file, tuple(pictures), tuple((question.category, scores[n]) for n, question in questions.items())
    )


def score_corrected(file: str, questions: Mapping[int, Question], answers: Sequence[Answers]) -> ItemScore:
    """Score one item by the corrected rule: a question counts only if all its ancestors are true.

    Categories are scored on all images and after this rule, so their mean agrees with the score of the items.

    Raises:
        KeyError: a parent is not a question of the item.
    """
    pictures, by_category = [], []
    for given in answers:
        valid = {number: float(_holds(number, questions, given, frozenset())) for number in questions}
        pictures.append(sum(valid.values()) / len(valid))
        by_category += [(question.category, valid[number]) for number, question in questions.items()]
    return ItemScore(file, tuple(pictures), tuple(by_category))


def _holds(number: int, questions: Mapping[int, Question], given: Answers, above: frozenset[int]) -> bool:
    parents = [parent for parent in questions[number].parents if parent not in above | {number}]
    return given[number] == "yes" and all(
        _holds(parent, questions, given, above | {number}) for parent in parents
    )
