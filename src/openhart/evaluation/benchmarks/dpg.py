"""DPG-Bench (arXiv 2403.05135), as the published program computes it and with its mistakes corrected.

The published program omits the first question of the table, computes category scores from the last image of
an item only and before the parent rule, and reads a parent that is listed later before that parent was set to
zero itself. :func:`score_as_published` reproduces all of this, :func:`score_corrected` none of it.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openhart.errors import UserError, reason
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.result import Figure, Result

COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
Answers = Mapping[int, str]
Ask = Callable[[Image.Image, str], str]


@dataclass(frozen=True)
class Question:
    """One question about an item: number, parents, category such as ``entity - whole``, and text."""

    number: int
    parents: tuple[int, ...]
    category: str
    text: str


Questions = Mapping[str, Mapping[int, Question]]


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


def read_table(path: Path) -> list[dict[str, str]]:
    """Read ``dpg_bench.csv``, one question per row.

    Raises:
        UserError: the file does not exist or a column is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path} has no column {', '.join(missing)}: give the published dpg_bench.csv"
                )
            return list(reader)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: give the published dpg_bench.csv") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table: {reason(error)}") from error


def questions_as_published(rows: Sequence[Mapping[str, Any]]) -> Questions:
    """Questions by item without the first row; if the rows of an item are not adjacent, the last count."""
    items: dict[str, dict[int, Question]] = {}
    last = None
    for row in rows[1:]:
        item, question = row["item_id"], _question(row)
        if item != last:
            items[item] = {}
        items[item][question.number] = question
        last = item
    return items


def questions_corrected(rows: Sequence[Mapping[str, Any]]) -> Questions:
    """Questions by item, all of them."""
    items: dict[str, dict[int, Question]] = {}
    for row in rows:
        question = _question(row)
        items.setdefault(row["item_id"], {})[question.number] = question
    return items


def _question(row: Mapping[str, Any]) -> Question:
    try:
        number = int(row["proposition_id"])
        parents = tuple(int(parent) for parent in str(row["dependency"]).split(","))
    except ValueError as error:
        raise UserError(
            f"a row of {row['item_id']} must have numbers in proposition_id and dependency: {reason(error)}"
        ) from error
    category = str(row["tuple"]).split("(")[0].strip()
    return Question(
        number, tuple(parent for parent in parents if parent), category, row["question_natural_language"]
    )


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


def crops(grid: Image.Image, resolution: int, pictures: int) -> list[Image.Image]:
    """Cut up to four images from a grid: top left, top right, bottom left, bottom right.

    Raises:
        UserError: the size of the grid does not match the resolution, so that crops would mix images.
    """
    columns, rows = (1, 1) if pictures == 1 else (2, 2)
    fits = grid.size == (columns * resolution, rows * resolution)
    if not fits and not (pictures == 1 and grid.size == (2 * resolution, 2 * resolution)):
        raise UserError(
            f"a grid of {pictures} images with {resolution} pixels per side must have the size "
            f"{columns * resolution}×{rows * resolution}, got {grid.width}×{grid.height}"
        )
    corners = [(0, 0), (resolution, 0), (0, resolution), (resolution, resolution)][:pictures]
    return [grid.crop((x, y, x + resolution, y + resolution)) for x, y in corners]


def key_of(file: str) -> str:
    """The item of a file: the file name up to the first dot."""
    return file.split(".")[0]


def ask_all(
    files: Iterable[Path], questions: Questions, ask: Ask, resolution: int, pictures: int = 4
) -> dict[str, list[dict[int, str]] | None]:
    """Answer every question about every image with a model.

    Args:
        files: grids, each named after its item.
        questions: the questions of :func:`questions_corrected`, which include the published ones.
        ask: image and question → answer; only ``yes`` counts.
        resolution: side of one image of the grid in pixels.
        pictures: number of images per grid, 1 to 4.

    Returns:
        answers per image by file name; None for a file that has no questions or cannot be read.

    Raises:
        UserError: the size of a grid does not match the resolution.
    """
    found: dict[str, list[dict[int, str]] | None] = {}
    for path in files:
        known = questions.get(key_of(path.name))
        try:
            with Image.open(path) as opened:
                grid = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError):
            known = None
        found[path.name] = None
        if known is not None:
            found[path.name] = [
                {number: ask(picture, question.text) for number, question in known.items()}
                for picture in crops(grid, resolution, pictures)
            ]
    return found


def score_all(
    answers: Mapping[str, Sequence[Answers] | None],
    questions: Questions,
    score: Callable[[str, Mapping[int, Question], Sequence[Answers]], ItemScore],
) -> DpgScores:
    """Score all files that have answers; the others are listed as failed.

    Args:
        answers: the result of :func:`ask_all`.
        questions: the result of :func:`questions_as_published` or :func:`questions_corrected`.
        score: :func:`score_as_published` or :func:`score_corrected`.
    """
    items, failed = [], []
    for file, given in answers.items():
        try:
            if given is None:
                raise KeyError(file)
            items.append(score(file, questions[key_of(file)], given))
        except KeyError:
            failed.append(file)
    return DpgScores(tuple(items), tuple(failed))


def dpg_result(
    published: DpgScores, corrected: DpgScores, model: str, resolution: int, pictures: int
) -> Result:
    """Both scores, published and corrected, with bootstrap intervals over items.

    Raises:
        UserError: nothing could be scored.
    """
    figures = []
    for name, scores in (("DPG as published", published), ("DPG corrected", corrected)):
        if scores.score is None:
            raise UserError(
                f"none of the {len(scores.failed)} files could be scored: name each file after its item"
            )
        interval = bootstrap_interval(100 * np.array([item.mean for item in scores.items]))
        rules = {"resolution": resolution, "pictures": pictures}
        figures.append(Figure(name, scores.score, len(scores.items), interval, model, rules))
    details = {
        name: {"level_1": scores.level_1, "level_2": scores.level_2, "failed": list(scores.failed)}
        for name, scores in (("as published", published), ("corrected", corrected))
    }
    return Result("dpg", tuple(figures), details=details)
