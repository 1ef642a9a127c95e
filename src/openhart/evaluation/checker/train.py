"""Training data and training of the checker: labelled groups of pieces from degraded scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from openhart.errors import UserError
from openhart.evaluation.checker.classifier import ThingClassifier, shape_features
from openhart.evaluation.checker.colours import colour_histogram
from openhart.evaluation.checker.crops import cut_out
from openhart.evaluation.checker.scenes import NONE, UNCERTAIN, Scene, match
from openhart.evaluation.checker.segments import find_pieces, group_pieces
from openhart.evaluation.geneval.rules import COLOURS
from openhart.evaluation.networks.logistic import fit_linear

MOST_BLUR = 1.2
MOST_NOISE = 5.0
THINGS_DECAY = 3e-5
COLOURS_DECAY = 1e-4


Show = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Examples:
    """Crops (N, 32, 32, 3) with the name of each thing or None, and colour histograms with colours."""

    crops: NDArray[np.uint8]
    names: tuple[str | None, ...]
    histograms: NDArray[np.float32]
    colours: tuple[str, ...]


def soften(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Blur an image (H, W, 3) and add noise, to a random degree similar to that of a decoder."""
    blur, noise = random.uniform(0, MOST_BLUR), random.uniform(0, MOST_NOISE)
    blurred = gaussian_filter(picture.astype(np.float32), (blur, blur, 0))
    noisy: NDArray[np.uint8] = (
        (blurred + random.normal(0, noise, picture.shape)).round().clip(0, 255).astype(np.uint8)
    )
    return noisy


def make_examples(
    scenes: Sequence[Scene], seed: int = 0, quiet: bool = False, decoded: Show | None = None
) -> Examples:
    """Labelled groups of pieces of degraded scenes; groups without a certain label are skipped.

    Args:
        scenes: real scenes.
        seed: seed of the degradation.
        quiet: show no progress bar.
        decoded: reconstructs an image with an image tokenizer, instead of degrading it, in every third scene.

    Raises:
        UserError: the scenes have no things, or no thing with a colour.
    """
    random = np.random.default_rng(seed)
    crops, names, histograms, colours = [], [], [], []
    for number, scene in enumerate(tqdm(scenes, desc="examples", disable=quiet)):
        if decoded is not None and number % 3 == 0:
            picture = np.array(decoded(scene.picture()))
        else:
            picture = soften(np.array(scene.picture()), random)
        for group in group_pieces(*find_pieces(picture)):
            found = match(group, scene.things)
            if found == UNCERTAIN:
                continue
            crops.append(cut_out(picture, group))
            names.append(None if found == NONE else scene.things[found].name)
            if found != NONE and (colour := scene.things[found].colour) is not None:
                histograms.append(colour_histogram(picture, group.mask))
                colours.append(colour)
    if not crops or not colours:
        raise UserError(
            "the scenes have no things, or no thing with a colour: make scenes with openhart data scenes"
        )
    return Examples(np.stack(crops), tuple(names), np.stack(histograms), tuple(colours))


def train_classifier(examples: Examples, things: Sequence[str]) -> ThingClassifier:
    """Fit a classifier of things on all examples and their mirror images.

    Args:
        examples: the result of :func:`make_examples`; other things than ``things`` are ignored.
        things: names of the things to distinguish.
    """
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(things)}
    numbers[None] = len(things)
    used = [index for index, name in enumerate(examples.names) if name in numbers]
    crops = examples.crops[used]
    labels = torch.tensor([numbers[examples.names[index]] for index in used])
    features = torch.cat([shape_features(crops), shape_features(crops[:, :, ::-1].copy())])
    classifier = ThingClassifier(things)
    classifier.layer = fit_linear(features, labels.repeat(2), len(numbers), THINGS_DECAY)
    return classifier


def train_colours(examples: Examples) -> torch.nn.Linear:
    """Fit the colour classifier on the things that were recoloured."""
    known = [index for index, colour in enumerate(examples.colours) if colour in COLOURS]
    labels = torch.tensor([COLOURS.index(examples.colours[index]) for index in known])
    return fit_linear(torch.from_numpy(examples.histograms[known]), labels, len(COLOURS), COLOURS_DECAY)


def things_of(scenes: Sequence[Scene]) -> list[str]:
    """Names of the things in scenes with several things, in alphabetical order."""
    several = [scene for scene in scenes if len(scene.things) > 1]
    return sorted({thing.name for scene in several for thing in scene.things})
