"""DPG-Bench (arXiv 2403.05135), as its published program computes it and as it was meant.

The published program leaves the first question of the table out, takes its category scores from the last
picture of an item alone and before the parent rule, and consults a parent that is listed later before that
parent was zeroed itself. :func:`score_as_published` does all of that, :func:`score_corrected` none.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.result import Figure, Result

COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
Answers = Mapping[int, str]
Ask = Callable[[Image.Image, str], str]


@dataclass(frozen=True)
class Question:
    """One question on an item: its number, parents, category such as ``entity - whole``, and text."""

    number: int
    parents: tuple[int, ...]
    category: str
    text: str


Questions = Mapping[str, Mapping[int, Question]]


@dataclass(frozen=True)
class ItemScore:
    """What one grid of pictures scored: per picture in [0, 1], and each question's score by category."""

    file: str
    pictures: tuple[float, ...]
    by_category: tuple[tuple[str, float], ...]

    @property
    def mean(self) -> float:
        """Mean over the item's pictures."""
        return sum(self.pictures) / len(self.pictures)


@dataclass(frozen=True)
class DpgScores:
    """Scores of all items; ``level_1`` and ``level_2`` are the categories' in percent.

    ``failed`` names the files that could not be scored and are left out of every mean.
    """

    items: tuple[ItemScore, ...]
    failed: tuple[str, ...]

    @property
    def score(self) -> float | None:
        """The benchmark's score in percent, None where nothing was scored."""
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
        UserError: there is no such file, or it lacks a column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} has no column {', '.join(missing)}: give dpg_bench.csv")
            return list(reader)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: give the published dpg_bench.csv") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table: {error}") from error


def questions_as_published(rows: Sequence[Mapping[str, Any]]) -> Questions:
    """Questions by item without the first row; of an item whose rows stand apart, the last rows count."""
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
            f"a row of {row['item_id']} must have numbers in proposition_id and dependency: {error}"
        ) from error
    category = str(row["tuple"]).split("(")[0].strip()
    return Question(
        number, tuple(parent for parent in parents if parent), category, row["question_natural_language"]
    )


def score_as_published(file: str, questions: Mapping[int, Question], answers: Sequence[Answers]) -> ItemScore:
    """Score one item by the published rules.

    Args:
        file: name of its file.
        questions: of the item, in the table's order.
        answers: per picture, the model's answer to each question.

    Raises:
        KeyError: a parent is no question of the item; the published program then leaves the item out.
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
    """Score one item as it was meant: a question counts only if all its ancestors are answered with yes.

    Categories are scored on all pictures and after that rule, so their mean agrees with the items' score.

    Raises:
        KeyError: a parent is no question of the item.
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
    """Cut up to four pictures from a grid: top left, top right, bottom left, bottom right.

    Raises:
        UserError: the grid has not the size that the resolution asks for, so that crops would mix pictures.
    """
    columns, rows = (1, 1) if pictures == 1 else (2, 2)
    fits = grid.size == (columns * resolution, rows * resolution)
    if not fits and not (pictures == 1 and grid.size == (2 * resolution, 2 * resolution)):
        raise UserError(
            f"a grid of {pictures} pictures of {resolution} pixels a side must be "
            f"{columns * resolution}×{rows * resolution}, got {grid.width}×{grid.height}"
        )
    corners = [(0, 0), (resolution, 0), (0, resolution), (resolution, resolution)][:pictures]
    return [grid.crop((x, y, x + resolution, y + resolution)) for x, y in corners]


def key_of(file: str) -> str:
    """The item that a file belongs to: its name up to the first dot."""
    return file.split(".")[0]


def ask_all(
    files: Iterable[Path], questions: Questions, ask: Ask, resolution: int, pictures: int = 4
) -> dict[str, list[dict[int, str]] | None]:
    """Ask a model every question of every picture.

    Args:
        files: grids, each named after its item.
        questions: of :func:`questions_corrected`; the published ones are among them.
        ask: a picture and a question → the answer; only ``yes`` counts.
        resolution: side of one picture of the grid.
        pictures: of a grid, 1 to 4.

    Returns:
        answers per picture by file name, None for a file without questions or that cannot be read.

    Raises:
        UserError: a grid's size does not fit.
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
    """Score all files whose answers are there; the others failed.

    Args:
        answers: of :func:`ask_all`.
        questions: of :func:`questions_as_published` or :func:`questions_corrected`.
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
    """Both scores beside each other, with bootstrap intervals over items.

    Raises:
        UserError: nothing could be scored.
    """
    figures = []
    for name, scores in (("DPG as published", published), ("DPG corrected", corrected)):
        if scores.score is None:
            raise UserError(f"none of the {len(scores.failed)} files could be scored: name them after items")
        interval = bootstrap_interval(100 * np.array([item.mean for item in scores.items]))
        rules = {"resolution": resolution, "pictures": pictures}
        figures.append(Figure(name, scores.score, len(scores.items), interval, model, rules))
    details = {
        name: {"level_1": scores.level_1, "level_2": scores.level_2, "failed": list(scores.failed)}
        for name, scores in (("as published", published), ("corrected", corrected))
    }
    return Result("dpg", tuple(figures), details=details)
