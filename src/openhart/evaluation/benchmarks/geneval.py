"""GenEval (arXiv 2310.11513): reads the published folder layout, writes the published results and summary."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from openhart.atomic import written_whole
from openhart.errors import UserError, reason
from openhart.evaluation.geneval.detections import ColourNamer, Detector
from openhart.evaluation.geneval.rules import Thresholds, judge, keep
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.result import Figure, Result

PROMPTS, IMAGES_PER_PROMPT = 553, 4
SAMPLE = re.compile(r"\d+\.png")  # matched from the start, not to the end


@dataclass(frozen=True)
class Sample:
    """An image of the benchmark's folder and the metadata of its prompt."""

    path: Path
    metadata: Mapping[str, Any]


def find_samples(folder: Path) -> list[Sample]:
    """All images in the published layout, ``00000/metadata.jsonl`` and ``00000/samples/00000.png``.

    Folders whose names are not numbers are skipped, and so are files that do not start like ``00000.png``.

    Raises:
        UserError: the folder does not exist or has no images, or the metadata of a prompt cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give a folder in GenEval's layout")
    samples: list[Sample] = []
    for prompt in sorted(folder.iterdir()):
        if not prompt.is_dir() or not prompt.name.isdigit():
            continue
        metadata = _read_metadata(prompt / "metadata.jsonl")
        if not (prompt / "samples").is_dir():
            raise UserError(f"{prompt} has no folder samples: the images of a prompt belong there")
        paths = sorted((prompt / "samples").iterdir())
        samples += [Sample(path, metadata) for path in paths if path.is_file() and SAMPLE.match(path.name)]
    if not samples:
        raise UserError(f"{folder} has no images: they belong in {folder}/00000/samples/00000.png")
    return samples


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"tag", "prompt"} <= set(metadata):
            raise UserError(f"{path} must contain one JSON object with tag, include and prompt")
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} has no metadata.jsonl: it must contain the prompt") from error
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{path} must contain one JSON object: {reason(error)}") from error
    return metadata


def score_samples(
    samples: Iterable[Sample],
    detector: Detector,
    name_colours: ColourNamer,
    options: Thresholds | None = None,
    quiet: bool = False,
) -> Iterator[dict[str, Any]]:
    """Score images one by one.

    Args:
        samples: the result of :func:`find_samples`.
        detector: detects objects.
        name_colours: classifies their colours.
        options: thresholds; None means the published defaults.
        quiet: show no progress bar.

    Yields:
        one row per image, with the keys of the published program.

    Raises:
        UserError: an image cannot be read.
    """
    options = options or Thresholds()
    for sample in tqdm(samples, desc="images", disable=quiet):
        image = _read_picture(sample.path)
        objects = keep(detector(image), sample.metadata["tag"], options)
        verdict = judge(sample.metadata, objects, partial(name_colours, image), options)
        yield {
            "filename": str(sample.path),
            "tag": sample.metadata["tag"],
            "prompt": sample.metadata["prompt"],
            "correct": verdict.correct,
            "reason": verdict.reason,
            "metadata": json.dumps(sample.metadata),
            "details": json.dumps({name: kept.boxes.tolist() for name, kept in objects.items()}),
        }


def _read_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(f"cannot read {path} as an image: its format is unknown") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read {path} as an image: {reason(error)}") from error


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one JSON line per image, which the published summary program can read."""
    with written_whole(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read result lines of this program or of the published one.

    Raises:
        UserError: the file does not exist, or it has other content.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: give the result lines of GenEval") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must contain one JSON object per line: {reason(error)}") from error
    if not rows or not all(
        isinstance(row, dict) and {"tag", "correct", "metadata"} <= set(row) for row in rows
    ):
        raise UserError(f"{path} must contain result lines with tag, correct and metadata")
    return rows


@dataclass(frozen=True)
class Summary:
    """Scores of a run, as fractions in [0, 1].

    Attributes:
        images: number of images.
        prompts: number of prompts.
        correct_images: fraction of correct images.
        correct_prompts: fraction of prompts with at least one correct image.
        tasks: number of correct images and of all images per task.
        overall: unweighted mean of the task scores, which differs from the mean over the images.
    """

    images: int
    prompts: int
    correct_images: float
    correct_prompts: float
    tasks: dict[str, tuple[int, int]]
    overall: float

    @property
    def complete(self) -> bool:
        """Whether the run covers the whole benchmark: 553 prompts with four images each."""
        return (self.prompts, self.images) == (PROMPTS, PROMPTS * IMAGES_PER_PROMPT)


def summarize(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Summarize result lines; prompts are distinguished by their metadata, tasks keep the order of the lines.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError("a summary needs the result of at least one image")
    tasks: dict[str, list[bool]] = {}
    prompts: dict[str, bool] = {}
    for row in rows:
        correct = bool(row["correct"])
        tasks.setdefault(row["tag"], []).append(correct)
        prompts[row["metadata"]] = prompts.get(row["metadata"], False) or correct
    return Summary(
        images=len(rows),
        prompts=len(prompts),
        correct_images=float(np.mean([bool(row["correct"]) for row in rows])),
        correct_prompts=float(np.mean(list(prompts.values()))),
        tasks={tag: (sum(results), len(results)) for tag, results in tasks.items()},
        overall=float(np.mean([np.mean(results) for results in tasks.values()])),
    )


def summary_text(summary: Summary) -> str:
    """The summary in the format of the published program."""
    lines = [
        "Summary",
        "=======",
        f"Total images: {summary.images}",
        f"Total prompts: {summary.prompts}",
        f"% correct images: {summary.correct_images:.2%}",
        f"% correct prompts: {summary.correct_prompts:.2%}",
        "",
        "Task breakdown",
        "==============",
        *(
            f"{tag:<16} = {hits / count:.2%} ({hits} / {count})"
            for tag, (hits, count) in summary.tasks.items()
        ),
        "",
        f"Overall score (avg. over tasks): {summary.overall:.5f}",
    ]
    return "\n".join(lines) + "\n"


def geneval_result(
    rows: Sequence[Mapping[str, Any]],
    detector: Detector,
    name_colours: ColourNamer,
    options: Thresholds | None = None,
    rewritten_prompts: bool = False,
    name: str = "geneval",
) -> Result:
    """The figures of result lines, with bootstrap intervals over prompts.

    Args:
        rows: the rows of :func:`score_samples`.
        detector: the detector that found the objects.
        name_colours: the classifier of colours.
        options: thresholds; None means the published defaults.
        rewritten_prompts: whether a language model rewrote the prompts; such figures are another benchmark.
        name: name of the benchmark.
    """
    summary = summarize(rows)
    rules = {
        "rewritten_prompts": rewritten_prompts,
        "colours": name_colours.name,
        **asdict(options or Thresholds()),
    }
    values = {tag: hits / count for tag, (hits, count) in summary.tasks.items()} | {
        "overall": summary.overall
    }
    figures = []
    for key, value in values.items():
        used = [row for row in rows if key in ("overall", row["tag"])]
        figures.append(Figure(key, value, len(used), _interval(used), detector.name, rules))
    details = {
        "complete": summary.complete,
        "prompts": summary.prompts,
        "correct_prompts": summary.correct_prompts,
    }
    return Result(name, tuple(figures), details=details)


def _interval(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Interval of the mean task score; the images of one prompt are resampled together."""
    tags = list(dict.fromkeys(row["tag"] for row in rows))
    prompts: dict[str, list[float]] = {}
    for row in rows:
        hits, count, _ = prompts.get(row["metadata"], [0.0, 0.0, 0.0])
        prompts[row["metadata"]] = [hits + row["correct"], count + 1, tags.index(row["tag"])]
    table = np.array(list(prompts.values()))

    def mean_of_tasks(drawn: Any) -> float:
        shares = [
            part[:, 0].sum() / part[:, 1].sum()
            for tag in set(drawn[:, 2])
            if len(part := drawn[drawn[:, 2] == tag])
        ]
        return float(np.mean(shares))

    return bootstrap_interval(table, mean_of_tasks)
