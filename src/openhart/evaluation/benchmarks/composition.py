"""GenEval's six tasks on things that the default model was trained on, scored without any download.

File layout and scoring rules are those of GenEval; detector and colour classifier are the project's own
checker, whose accuracy is reported beside every score.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from openhart.atomic import written_whole
from openhart.errors import UserError
from openhart.evaluation.benchmarks.geneval import find_samples, geneval_result, score_samples
from openhart.evaluation.checker.accuracy import CHECKER_THRESHOLDS
from openhart.evaluation.checker.files import Checker
from openhart.evaluation.images import BATCH, Images
from openhart.evaluation.result import Result

SETTINGS = "settings.json"
TRUSTED = 0.95
Generate = Callable[[Sequence[str], Sequence[int]], Images]


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read prompts in GenEval's layout: one JSON object per line with ``tag``, ``include`` and ``prompt``.

    Raises:
        UserError: the file does not exist, or a line is not a prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        prompts = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError as error:
        raise UserError(
            f"there is no file {path}: give a file such as prompts/plain.jsonl of openhart data scenes"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must contain one JSON object per line: {error}") from error
    needed = {"tag", "include", "prompt"}
    if not prompts or not all(isinstance(prompt, dict) and needed <= set(prompt) for prompt in prompts):
        raise UserError(f"every line of {path} must be a prompt with tag, include and prompt")
    return prompts


def make_samples(
    folder: Path,
    prompts: Sequence[dict[str, Any]],
    generate: Generate,
    settings: dict[str, Any],
    images_per_prompt: int = 4,
    quiet: bool = False,
) -> None:
    """Generate what is still missing of a folder in GenEval's layout.

    Image j of every prompt has seed ``settings["seed"] + j``, as in the published generator.

    Args:
        folder: to be filled, or filled in part by the same settings.
        prompts: of :func:`read_prompts`.
        generate: prompts and seeds → pictures.
        settings: everything that changes the pictures; stored in the folder.
        images_per_prompt: 4 in the published benchmark.
        quiet: show no progress bar.

    Raises:
        UserError: the folder was made with other settings.
    """
    text = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    settings = {**settings, "prompts": hashlib.sha256(text.encode()).hexdigest(), "images": images_per_prompt}
    _check_settings(folder, settings)
    jobs = []
    for number, prompt in enumerate(prompts):
        place = folder / f"{number:05}"
        with written_whole(place / "metadata.jsonl") as temporary:
            temporary.write_text(json.dumps(prompt) + "\n", encoding="utf-8")
        for index in range(images_per_prompt):
            path = place / "samples" / f"{index:05}.png"
            if not path.exists():
                jobs.append((path, prompt["prompt"], settings["seed"] + index))
    for start in tqdm(range(0, len(jobs), BATCH), desc="pictures", disable=quiet):
        part = jobs[start : start + BATCH]
        pictures = generate([prompt for _, prompt, _ in part], [seed for _, _, seed in part])
        for (path, _, _), picture in zip(part, pictures, strict=True):
            with written_whole(path) as temporary:
                Image.fromarray(picture).save(temporary, "PNG")


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / SETTINGS
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} holds something else: give a new folder for the pictures")
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise UserError(f"the pictures in {folder} were made with other settings: give a new folder")


def score_composition(
    folder: Path, checker: Checker, quiet: bool = False
) -> tuple[Result, list[dict[str, Any]]]:
    """Score a folder in GenEval's layout with the checker.

    Returns:
        the result, whose details contain the accuracy of the checker and the tasks in which it is below 95 %,
        and one row per image.

    Raises:
        UserError: a prompt names a thing that the checker was not trained on.
    """
    samples = find_samples(folder)
    known = set(checker.detector.classifier.things)
    asked = {clause["class"] for sample in samples for clause in sample.metadata["include"]}
    if unknown := sorted(asked - known):
        raise UserError(
            f"the checker was not trained on {', '.join(unknown[:5])}: train one on scenes with it"
        )
    rows = list(score_samples(samples, checker.detector, checker.colours, CHECKER_THRESHOLDS, quiet))
    result = geneval_result(rows, checker.detector, checker.colours, CHECKER_THRESHOLDS, name="composition")
    doubtful = [
        f"{tag} on {kind} scenes"
        for kind, tasks in checker.accuracy.items()
        for tag, shares in tasks.items()
        if shares["accuracy"] < TRUSTED
    ]
    details = {**result.details, "checker_accuracy": checker.accuracy, "checker_below_95_percent": doubtful}
    return Result(result.benchmark, result.figures, result.made_by, details), rows
