"""DPG-Bench (arXiv 2403.05135): questions about every image of a grid, and both scores of the answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from openhart.data.decoding import BrokenImageError, read_image
from openhart.errors import UserError
from openhart.evaluation.dpg.questions import Question, Questions, questions_as_published, questions_corrected
from openhart.evaluation.dpg.rules import (
    Answers,
    DpgScores,
    ItemScore,
    score_as_published,
    score_corrected,
)
from openhart.evaluation.image_folders import find_images
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.networks.answers import QuestionModel
from openhart.evaluation.result import Figure, Result

ITEMS = 1065
ItemAnswers = Sequence[Answers]
"""The answers about each image of a grid."""


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
    files: Iterable[Path],
    questions: Questions,
    model: QuestionModel,
    resolution: int,
    pictures: int = 4,
    quiet: bool = False,
) -> dict[str, list[dict[int, str]] | None]:
    """Answer every question about every image with a model.

    Args:
        files: grids, each named after its item.
        questions: the questions of :func:`questions_corrected`, which include the published ones.
        model: answers questions; only ``yes`` counts.
        resolution: side of one image of the grid in pixels.
        pictures: number of images per grid, 1 to 4.
        quiet: show no progress bar.

    Returns:
        answers per image by file name; None for a file that has no questions or cannot be read.

    Raises:
        UserError: the size of a grid does not match the resolution.
    """
    found: dict[str, list[dict[int, str]] | None] = {}
    for path in tqdm(list(files), desc="grids", disable=quiet):
        found[path.name] = None
        known = questions.get(key_of(path.name))
        if known is None:
            continue
        try:
            grid = read_image(path)
        except BrokenImageError:
            continue
        texts = [question.text for question in known.values()]
        found[path.name] = [
            dict(zip(known, model(picture, texts), strict=True))
            for picture in crops(grid, resolution, pictures)
        ]
    return found


def find_grids(folder: Path) -> list[Path]:
    """The image files directly in a folder, in alphabetical order.

    Raises:
        UserError: the folder does not exist or has no images, or two files belong to one item.
    """
    paths = [path for path in find_images(folder) if path.parent == folder]
    if not paths:
        raise UserError(f"{folder} has no images: give a folder of grids that are named after their items")
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(key_of(path.name), path)
        if other != path:
            raise UserError(f"{other} and {path} belong to one item: keep one of them")
    return paths


def resolution_of(paths: Sequence[Path], pictures: int = 4) -> int:
    """Side in pixels of one image in the first grid that can be read.

    Raises:
        UserError: no grid can be read.
    """
    for path in paths:
        try:
            return read_image(path).width // (1 if pictures == 1 else 2)
        except BrokenImageError:
            continue
    raise UserError(f"none of the {len(paths)} images in {paths[0].parent} can be read")


def evaluate_dpg(
    paths: Sequence[Path],
    rows: Sequence[Mapping[str, str]],
    model: QuestionModel,
    resolution: int,
    pictures: int = 4,
    quiet: bool = False,
) -> tuple[Result, list[dict[str, object]]]:
    """Score grids of images.

    Args:
        paths: the result of :func:`find_grids`.
        rows: the result of :func:`openhart.evaluation.dpg.questions.read_table`.
        model: answers questions.
        resolution: side of one image of a grid in pixels.
        pictures: number of images per grid, 1 to 4.
        quiet: show no progress bar.

    Returns:
        the result, and one row per image with its file, its place in the grid and its answers.

    Raises:
        UserError: the size of a grid does not match the resolution, or nothing could be scored.
    """
    corrected = questions_corrected(rows)
    answers = ask_all(paths, corrected, model, resolution, pictures, quiet)
    result = dpg_result(
        score_all(answers, questions_as_published(rows), score_as_published),
        score_all(answers, corrected, score_corrected),
        model.name, resolution, pictures,
    )  # fmt: skip
    lines: list[dict[str, object]] = [
        {"file": file, "picture": place, "answers": each}
        for file, given in answers.items()
        for place, each in enumerate(given or ())
    ]
    return result, lines


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
    complete = len(corrected.items) == ITEMS and not corrected.failed
    return Result("dpg", tuple(figures), details={"complete": complete, **details})
