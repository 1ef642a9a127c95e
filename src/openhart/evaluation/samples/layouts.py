"""The published folder layouts of benchmarks: which image files to make, from which prompts and seeds."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from openhart.errors import UserError
from openhart.reading import parse_any_json, read_json, read_json_lines, read_text

SEED_PER_IMAGE = "image i of the benchmark has seed + i"
SEED_PER_PROMPT = "image j of every prompt has seed + j"
Condition = str | int


@dataclass(frozen=True)
class Job:
    """One image file.

    Attributes:
        path: path inside the folder, without the file type.
        condition: a prompt, or a class index.
        seeds: one seed per image; several images are arranged in a grid of two columns.
    """

    path: str
    condition: Condition
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that a benchmark requires of its sample folder.

    Attributes:
        benchmark: name of the benchmark.
        jobs: all image files, in the order of the benchmark.
        seed: the first seed.
        seeds: how the seeds of the images follow from it.
        file_types: accepted file types; the first one is the published one.
        prompts: name and SHA-256 of the prompt file; empty for classes.
        texts: further files of the layout, by path.
    """

    benchmark: str
    jobs: tuple[Job, ...]
    seed: int
    seeds: str
    file_types: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of images; a grid counts as several."""
        return sum(len(job.seeds) for job in self.jobs)


def plan_geneval(prompts: Path, seed: int = 42, images_per_prompt: int = 4, name: str = "geneval") -> Plan:
    """GenEval: ``00000/metadata.jsonl`` and ``00000/samples/00000.png`` (its evaluator reads PNG files only).

    Args:
        prompts: ``evaluation_metadata.jsonl``, or a prompt file of ``openhart data scenes``: one JSON object
            with ``tag``, ``include`` and ``prompt`` per line.
        seed: the first seed; the published generator uses 42.
        images_per_prompt: number of images per prompt; the published number is 4.
        name: name of the benchmark.

    Raises:
        UserError: the file does not exist, or a line is not a prompt.
    """
    _check_file(prompts)
    lines = read_json_lines(prompts)
    if not lines or any(not {"tag", "include", "prompt"} <= set(line) for line in lines):
        raise UserError(f"every line of {prompts} must be a prompt with tag, include and prompt")
    seeds = range(seed, seed + images_per_prompt)
    jobs = [
        Job(f"{number:05}/samples/{index:05}", str(line["prompt"]), (image_seed,))
        for number, line in enumerate(lines)
        for index, image_seed in enumerate(seeds)
    ]
    texts = {f"{number:05}/metadata.jsonl": json.dumps(line) + "\n" for number, line in enumerate(lines)}
    return Plan(name, tuple(jobs), seed, SEED_PER_PROMPT, ("png",), _identity(prompts), texts)


def plan_dpg(prompts: Path, seed: int = 0, images_per_prompt: int = 4) -> Plan:
    """DPG-Bench: ``ITEM.png``, a grid of four images (or a single image).

    Args:
        prompts: the published folder ``prompts`` with one file ``ITEM.txt`` per prompt.
        seed: the first seed.
        images_per_prompt: 4 as published, or 1.

    Raises:
        UserError: the folder does not exist or has no prompts, or the number of images fills no grid.
    """
    if images_per_prompt not in (1, 4):
        raise UserError(f"DPG-Bench needs 4 images per prompt, or 1, got {images_per_prompt}")
    if not prompts.is_dir():
        raise UserError(f"there is no folder {prompts}: give the published folder of prompts, ITEM.txt")
    files = sorted(prompts.glob("*.txt"))
    if not files:
        raise UserError(f"{prompts} has no prompts: give the published folder of prompts, ITEM.txt")
    seeds = tuple(range(seed, seed + images_per_prompt))
    texts = {path.stem: read_text(path).strip() for path in files}
    _check_names(texts, prompts)
    jobs = tuple(Job(item, text, seeds) for item, text in texts.items())
    content = json.dumps(texts, sort_keys=True).encode()
    identity = {"file": prompts.name, "sha256": hashlib.sha256(content).hexdigest()}
    return Plan("dpg", jobs, seed, SEED_PER_PROMPT, ("png", "jpg"), identity)


def plan_mjhq(prompts: Path, seed: int = 0, images_per_prompt: int = 1) -> Plan:
    """MJHQ-30K: ``ID.jpg`` without sub-folders, as in the evaluation of Sana.

    Args:
        prompts: the published ``meta_data.json``.
        seed: the first seed.
        images_per_prompt: 1.

    Raises:
        UserError: the file does not exist or has another format, or several images per prompt are requested.
    """
    if images_per_prompt != 1:
        raise UserError(f"MJHQ-30K has 1 image per prompt, got {images_per_prompt}")
    entries = read_mjhq(prompts)
    jobs = tuple(
        Job(item, str(entry["prompt"]), (seed + number,))
        for number, (item, entry) in enumerate(entries.items())
    )
    return Plan("mjhq", jobs, seed, SEED_PER_IMAGE, ("jpg", "png"), _identity(prompts))


def read_mjhq(path: Path) -> dict[str, dict[str, str]]:
    """Read the published ``meta_data.json`` of MJHQ-30K: id → ``category`` and ``prompt``, in its order.

    Raises:
        UserError: the file does not exist or has another format.
    """
    _check_file(path)
    entries = read_json(path)
    if not entries or any(
        not isinstance(one, dict) or not {"category", "prompt"} <= set(one) for one in entries.values()
    ):
        raise UserError(f"{path} must map ids to objects with category and prompt: give meta_data.json")
    _check_names(entries, path)
    return entries


def plan_hps(prompts: Path, seed: int = 0, images_per_prompt: int = 1) -> Plan:
    """HPSv2: ``STYLE/00000.jpg`` for each prompt of each style.

    Args:
        prompts: the published folder ``benchmark``, see :func:`read_hps`.
        seed: the first seed.
        images_per_prompt: 1.

    Raises:
        UserError: a file does not exist or has another format, or several images per prompt are requested.
    """
    if images_per_prompt != 1:
        raise UserError(f"HPSv2 has 1 image per prompt, got {images_per_prompt}")
    styles = read_hps(prompts)
    named = [
        (f"{style}/{number:05}", text) for style, texts in styles.items() for number, text in enumerate(texts)
    ]
    jobs = tuple(Job(path, text, (seed + number,)) for number, (path, text) in enumerate(named))
    content = json.dumps(styles, sort_keys=True).encode()
    identity = {"file": prompts.name, "sha256": hashlib.sha256(content).hexdigest()}
    return Plan("hps", jobs, seed, SEED_PER_IMAGE, ("jpg", "png"), identity)


HPS_STYLES = ("anime", "concept-art", "paintings", "photo")


def read_hps(folder: Path) -> dict[str, list[str]]:
    """Read the prompts of HPSv2 by style, from ``anime.json``, ``concept-art.json`` and so on.

    Raises:
        UserError: a file does not exist or is not a list of prompts.
    """
    styles = {}
    for style in HPS_STYLES:
        path = folder / f"{style}.json"
        if not path.is_file():
            raise UserError(
                f"there is no file {path}: give HPSv2's folder benchmark with {', '.join(HPS_STYLES)}.json"
            )
        texts = parse_any_json(read_text(path), path)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path} must be a list of prompts")
        styles[style] = texts
    return styles


def plan_prompts(prompts: Path, seed: int = 0, images_per_prompt: int = 1) -> Plan:
    """Own prompts: ``00000.png`` for the first line of a text file, ``00000-1.png`` for its second image.

    Args:
        prompts: a text file with one prompt per line; empty lines are omitted.
        seed: the first seed.
        images_per_prompt: number of images per prompt.

    Raises:
        UserError: the file does not exist or has no prompts.
    """
    _check_file(prompts)
    texts = [line.strip() for line in read_text(prompts).splitlines() if line.strip()]
    if not texts:
        raise UserError(f"{prompts} has no prompts: write one per line")
    named = [
        (f"{number:05}" + (f"-{index}" if index else ""), text)
        for number, text in enumerate(texts)
        for index in range(images_per_prompt)
    ]
    jobs = tuple(Job(path, text, (seed + number,)) for number, (path, text) in enumerate(named))
    return Plan("prompts", jobs, seed, SEED_PER_IMAGE, ("png", "jpg"), _identity(prompts))


def plan_imagenet(classes: int, seed: int = 0, images_per_class: int = 50) -> Plan:
    """ImageNet classes: ``000000.png`` in the order of the classes; ``openhart evaluate pack`` shuffles them.

    Args:
        classes: number of classes of the model.
        seed: the first seed.
        images_per_class: number of images per class; the published number is 50.
    """
    jobs = tuple(
        Job(f"{number:06}", number // images_per_class, (seed + number,))
        for number in range(classes * images_per_class)
    )
    return Plan("imagenet", jobs, seed, SEED_PER_IMAGE, ("png", "jpg"))


PROMPT_PLANS: dict[str, Callable[..., Plan]] = {
    "geneval": plan_geneval,
    "dpg": plan_dpg,
    "mjhq": plan_mjhq,
    "hps": plan_hps,
    "prompts": plan_prompts,
    "composition": partial(plan_geneval, name="composition"),
}
"""Plans from a prompt file, a seed and a number of images per prompt."""
IMAGES_PER_PROMPT = {
    "geneval": 4, "dpg": 4, "mjhq": 1, "hps": 1, "prompts": 1, "composition": 4, "imagenet": 50,
}  # fmt: skip
FIRST_SEEDS = {"geneval": 42, "composition": 42}
"""First seeds of the published generators; the others begin with 0."""


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no file {path}: give the prompt file of the benchmark")


def _check_names(items: Mapping[str, Any], source: Path) -> None:
    for item in items:
        if Path(item).name != item or item.startswith("."):
            raise UserError(f"{source} has the id {item!r}, which cannot be a file name")


def _identity(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
