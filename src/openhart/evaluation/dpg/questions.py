"""The questions of DPG-Bench (arXiv 2403.05135), as the published program reads them and all of them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openhart.errors import UserError, reason

COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")


@dataclass(frozen=True)
class Question:
    """One question about an item: number, parents, category such as ``entity - whole``, and text."""

    number: int
    parents: tuple[int, ...]
    category: str
    text: str


Questions = Mapping[str, Mapping[int, Question]]
"""Questions by number, by item."""


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
