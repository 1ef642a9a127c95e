"""Saving and loading a trained checker: weights, names of things and measured accuracy."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from openhart.atomic import written_whole
from openhart.errors import UserError, reason
from openhart.evaluation.checker.classifier import ThingClassifier
from openhart.evaluation.checker.colours import BINS, HueColours
from openhart.evaluation.checker.detector import SceneDetector
from openhart.evaluation.geneval.rules import COLOURS

WEIGHTS, DESCRIPTION = "checker.safetensors", "checker.json"


@dataclass(frozen=True)
class Checker:
    """Detector and colour classifier, and their accuracy by kind of scenes and by task."""

    detector: SceneDetector
    colours: HueColours
    accuracy: dict[str, Any]


def make_checker(
    classifier: ThingClassifier, colours: torch.nn.Linear, name: str, accuracy: dict[str, Any] | None = None
) -> Checker:
    """Build a checker; ``name`` is written into every result."""
    return Checker(
        SceneDetector(classifier, name), HueColours(colours, f"{name}, hue statistics"), accuracy or {}
    )


def save_checker(checker: Checker, folder: Path) -> None:
    """Write a checker's weights and description into a folder."""
    classifier = checker.detector.classifier
    weights = {f"things.{key}": value.contiguous() for key, value in classifier.state_dict().items()}
    weights |= {f"colours.{key}": value for key, value in checker.colours.classifier.state_dict().items()}
    description = {
        "name": checker.detector.name,
        "things": classifier.things,
        "colours": COLOURS,
        "accuracy": checker.accuracy,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    with written_whole(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_checker(folder: Path) -> Checker:
    """Read what :func:`save_checker` wrote.

    Raises:
        UserError: the folder has no checker, or its files are damaged.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        classifier, colours = ThingClassifier(description["things"]), torch.nn.Linear(BINS, len(COLOURS))
        for part, module in (("things.", classifier), ("colours.", colours)):
            own = {key.removeprefix(part): value for key, value in weights.items() if key.startswith(part)}
            module.load_state_dict(own)
            module.eval().requires_grad_(False)
        return make_checker(classifier, colours, description["name"], description["accuracy"])
    except FileNotFoundError as error:
        raise UserError(
            f"there is no checker in {folder}: train one with openhart evaluate checker"
        ) from error
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the checker in {folder} cannot be loaded: {reason(error)}") from error
