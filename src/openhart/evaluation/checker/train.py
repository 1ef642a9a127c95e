"""Training the checker on scenes: groups of pieces, labelled, softened about as much as a decoder does."""

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
from openhart.evaluation.geneval_rules import COLOURS
from openhart.evaluation.linear import fit_linear

MOST_BLUR = 1.2
MOST_NOISE = 5.0
THINGS_DECAY = 3e-5
COLOURS_DECAY = 1e-4


Show = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Examples:
    """Crops (N, 32, 32, 3) with the name of what each shows or None, and colour histograms with colours."""

    crops: NDArray[np.uint8]
    names: tuple[str | None, ...]
    histograms: NDArray[np.float32]
    colours: tuple[str, ...]


def soften(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """A picture (H, W, 3), blurred and noisy to a random degree, about as much as a decoder makes it."""
    blur, noise = random.uniform(0, MOST_BLUR), random.uniform(0, MOST_NOISE)
    blurred = gaussian_filter(picture.astype(np.float32), (blur, blur, 0))
    return (blurred + random.normal(0, noise, picture.shape)).round().clip(0, 255).astype(np.uint8)


def make_examples(
    scenes: Sequence[Scene], seed: int = 0, quiet: bool = False, decoded: Show | None = None
) -> Examples:
    """Groups of pieces of softened scenes; groups of which it is uncertain what they are are left out.

    Args:
        scenes: real ones.
        seed: of the softening.
        quiet: show no progress bar.
        decoded: a picture as an image tokenizer decodes it; every third scene is seen so, and not softened.

    Raises:
        UserError: the scenes have no things, or none with a colour.
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
            "the scenes have no things, or none with a colour: make them with openhart data scenes"
        )
    return Examples(np.stack(crops), tuple(names), np.stack(histograms), tuple(colours))


def train_classifier(examples: Examples, things: Sequence[str]) -> ThingClassifier:
    """Fit a classifier of things on all examples and their mirror images.

    Args:
        examples: of :func:`make_examples`; other things than ``things`` are left out.
        things: what it shall know.
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
    """Fit the colour classifier on the things that were given a colour."""
    known = [index for index, colour in enumerate(examples.colours) if colour in COLOURS]
    labels = torch.tensor([COLOURS.index(examples.colours[index]) for index in known])
    return fit_linear(torch.from_numpy(examples.histograms[known]), labels, len(COLOURS), COLOURS_DECAY)


def things_of(scenes: Sequence[Scene]) -> list[str]:
    """Names of the things that scenes of several things are made of, in alphabetical order."""
    several = [scene for scene in scenes if len(scene.things) > 1]
    return sorted({thing.name for scene in several for thing in scene.things})
