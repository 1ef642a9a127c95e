"""Accuracy of the checker on real scenes, with correct prompts and with wrong ones."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from openhart.evaluation.checker.files import Checker
from openhart.evaluation.checker.scenes import Scene
from openhart.evaluation.geneval.rules import COLOURS, RELATIONS, Thresholds, judge, keep
from openhart.evaluation.metrics.intervals import share_interval

CHECKER_THRESHOLDS = Thresholds(threshold=0.3, counting_threshold=0.3)
"""The published threshold of 0.9 for counting belongs to the published detector; here it is 0.3 too."""
Clause = dict[str, Any]


def measure_checker(
    checker: Checker,
    scenes: Sequence[Scene],
    show: Callable[[Image.Image], Image.Image] = lambda picture: picture,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score every scene with its own prompt and with a slightly wrong prompt.

    Args:
        checker: the checker to measure.
        scenes: real scenes that were not used for training; scenes with unknown things are skipped.
        show: applied to every image first, such as a reconstruction.
        seed: seed of the wrong prompts.
        quiet: show no progress bar.

    Returns:
        for each task ``accepts_right`` and ``rejects_wrong``: ``share``, ``count`` and 95 % ``interval``;
        ``accuracy`` is the mean of the two shares.
    """
    random = np.random.default_rng(seed)
    known = set(checker.detector.classifier.things)
    results: dict[str, dict[str, list[bool]]] = {}
    for scene in tqdm(scenes, desc="scenes", disable=quiet):
        if not {thing.name for thing in scene.things} <= known:
            continue
        tag, image = scene.metadata["tag"], show(scene.picture())
        objects = keep(checker.detector(image), tag, CHECKER_THRESHOLDS)
        wrong = wrong_prompt(scene.metadata, sorted(known), random)
        for kind, metadata in (("accepts_right", scene.metadata), ("rejects_wrong", wrong)):
            verdict = judge(metadata, objects, partial(checker.colours, image), CHECKER_THRESHOLDS)
            right = verdict.correct == (kind == "accepts_right")
            results.setdefault(tag, {}).setdefault(kind, []).append(right)
    return {tag: _shares(kinds) for tag, kinds in sorted(results.items())}


def _shares(kinds: Mapping[str, list[bool]]) -> dict[str, Any]:
    shares: dict[str, Any] = {
        kind: {
            "share": sum(right) / len(right),
            "count": len(right),
            "interval": list(share_interval(sum(right), len(right))),
        }
        for kind, right in kinds.items()
    }
    return {"accuracy": float(np.mean([kind["share"] for kind in shares.values()])), **shares}


def wrong_prompt(
    metadata: Mapping[str, Any], things: Sequence[str], random: np.random.Generator
) -> dict[str, Any]:
    """A prompt of the same task that the scene of ``metadata`` does not satisfy.

    A count becomes one more or one less, a position another relation, a colour another colour; two colours
    are swapped; otherwise a thing is replaced by one that is not in the scene.
    """
    include: list[Clause] = [dict(clause) for clause in metadata["include"]]
    wrong: dict[str, Any] = {**metadata, "include": include}
    clause = include[int(random.integers(len(include)))]
    tag = metadata["tag"]
    if tag == "counting":
        clause["count"] += 1 if clause["count"] == 1 or random.random() < 0.5 else -1
        wrong["exclude"] = [{"class": one["class"], "count": one["count"] + 1} for one in include]
    elif tag == "position":
        relation = include[1]["position"][0]
        others = [other for other in RELATIONS if other != relation]
        include[1]["position"] = [others[int(random.integers(len(others)))], 0]
    elif tag == "color_attr" and all("color" in one for one in include):
        include[0]["color"], include[1]["color"] = include[1]["color"], include[0]["color"]
    elif tag == "colors" and "color" in clause:
        others = [other for other in COLOURS if other != clause["color"]]
        clause["color"] = others[int(random.integers(len(others)))]
    else:
        shown = {one["class"] for one in include}
        others = [thing for thing in things if thing not in shown]
        clause["class"] = others[int(random.integers(len(others)))]
    return wrong
