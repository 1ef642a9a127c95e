"""GenEval (arXiv 2310.11513): its folder of pictures in, its result lines and its summary out."""

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
from openhart.errors import UserError
from openhart.evaluation.detections import ColourNamer, Detector
from openhart.evaluation.geneval_rules import Thresholds, judge, keep
from openhart.evaluation.metrics.intervals import bootstrap_interval
from openhart.evaluation.result import Figure, Result

PROMPTS, IMAGES_PER_PROMPT = 553, 4
SAMPLE = re.compile(r"\d+\.png")  # matched from the start, not to the end


@dataclass(frozen=True)
class Sample:
    """A picture of the benchmark's folder and its prompt's line."""

    path: Path
    metadata: Mapping[str, Any]


def find_samples(folder: Path) -> list[Sample]:
    """All pictures in the published layout, ``00000/metadata.jsonl`` and ``00000/samples/00000.png``.

    Folders whose name is not all digits are skipped, as are files that do not begin like ``00000.png``.

    Raises:
        UserError: there is no such folder, it holds no pictures, or a prompt's line cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    samples: list[Sample] = []
    for prompt in sorted(folder.iterdir()):
        if not prompt.is_dir() or not prompt.name.isdigit():
            continue
        metadata = _read_metadata(prompt / "metadata.jsonl")
        if not (prompt / "samples").is_dir():
            raise UserError(f"{prompt} has no folder samples with its pictures")
        paths = sorted((prompt / "samples").iterdir())
        samples += [Sample(path, metadata) for path in paths if path.is_file() and SAMPLE.match(path.name)]
    if not samples:
        raise UserError(f"{folder} has no pictures: they belong in {folder}/00000/samples/00000.png")
    return samples


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if not {"tag", "prompt"} <= set(metadata):
            raise UserError(f"{path} must hold one object with tag, include and prompt")
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} has no metadata.jsonl") from error
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{path} must hold one JSON object: {error}") from error
    return metadata


def score_samples(
    samples: Iterable[Sample],
    detector: Detector,
    name_colours: ColourNamer,
    options: Thresholds | None = None,
    quiet: bool = False,
) -> Iterator[dict[str, Any]]:
    """Judge pictures one after the other.

    Args:
        samples: see :func:`find_samples`.
        detector: finds objects.
        name_colours: names their colours.
        options: the published defaults if None.
        quiet: show no progress bar.

    Yields:
        the published program's row of each picture.

    Raises:
        UserError: a picture cannot be read.
    """
    options = options or Thresholds()
    for sample in tqdm(samples, desc="pictures", disable=quiet):
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
        raise UserError(f"cannot read {path} as an image: its format is not known") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read {path} as an image: {error}") from error


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one JSON line per picture, as the published summary reads them."""
    with written_whole(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read result lines, ours or the published program's.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must hold one JSON object per line: {error}") from error
    if not rows or not all(
        isinstance(row, dict) and {"tag", "correct", "metadata"} <= set(row) for row in rows
    ):
        raise UserError(f"{path} must hold result lines with tag, correct and metadata")
    return rows


@dataclass(frozen=True)
class Summary:
    """Shares in [0, 1]: of correct pictures, of prompts with a correct picture, and of each task.

    ``overall`` is the unweighted mean of the tasks, which is not the mean of the pictures.
    """

    images: int
    prompts: int
    correct_images: float
    correct_prompts: float
    tasks: dict[str, tuple[int, int]]
    overall: float

    @property
    def complete(self) -> bool:
        """Whether these are the whole benchmark's 553 prompts with four pictures each."""
        return (self.prompts, self.images) == (PROMPTS, PROMPTS * IMAGES_PER_PROMPT)


def summarize(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Scores of result lines; prompts are told apart by their metadata, tasks come in order of appearance.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError("a summary needs the result of at least one picture")
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
    """A summary as the published program prints it."""
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
        rows: of :func:`score_samples`.
        detector: that found the objects.
        name_colours: that named the colours.
        options: the published defaults if None.
        rewritten_prompts: whether a language model rewrote the prompts, which makes another benchmark of it.
        name: of the benchmark.
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
    """Of the mean over tasks of the share of correct pictures; a prompt's pictures are drawn together."""
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
