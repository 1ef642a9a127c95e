"""Training the checker on scenes: groups of pieces, labelled, softened about as much as a decoder does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from openhart.errors import UserError
from openhart.evaluation.checker.classifier import ThingClassifier, augment, to_input
from openhart.evaluation.checker.colours import colour_histogram, fit_colours
from openhart.evaluation.checker.crops import cut_out
from openhart.evaluation.checker.scenes import NONE, UNCERTAIN, Scene, match
from openhart.evaluation.checker.segments import find_pieces, group_pieces
from openhart.evaluation.geneval_rules import COLOURS

MOST_BLUR = 1.2
MOST_NOISE = 5.0
FEWEST_EXAMPLES = 4
Soften = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


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


def make_examples(scenes: Sequence[Scene], seed: int = 0, quiet: bool = False) -> Examples:
    """Groups of pieces of softened scenes; groups of which it is uncertain what they are are left out."""
    random = np.random.default_rng(seed)
    crops, names, histograms, colours = [], [], [], []
    for scene in tqdm(scenes, desc="examples", disable=quiet):
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


def train_classifier(
    examples: Examples, things: Sequence[str], epochs: int = 10, seed: int = 0, quiet: bool = False
) -> ThingClassifier:
    """Train a classifier of things with AdamW, a linear decay and heavy augmentation.

    Args:
        examples: of :func:`make_examples`; other things than ``things`` are left out.
        things: what it shall know.
        epochs: passes over the examples.
        seed: of initial weights, order and augmentation.
        quiet: show no progress bar.
    """
    numbers = {name: number for number, name in enumerate(things)} | {None: len(things)}
    used = [index for index, name in enumerate(examples.names) if name in numbers]
    crops = torch.from_numpy(examples.crops[used])
    labels = torch.tensor([numbers[examples.names[index]] for index in used])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = ThingClassifier(things)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.05)
        batches = epochs * (len(crops) // 64 + 1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, batches, pct_start=0.2)
        for _ in tqdm(range(epochs), desc="epochs", disable=quiet):
            classifier.train()
            for part in torch.randperm(len(crops), generator=generator).tensor_split(len(crops) // 64 + 1):
                logits = classifier(augment(to_input(crops[part]), generator))
                loss = F.cross_entropy(logits, labels[part], label_smoothing=0.02)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return classifier.eval().requires_grad_(False)


def train_colours(examples: Examples) -> torch.nn.Linear:
    """Fit the colour classifier on the things that were given a colour."""
    known = [index for index, colour in enumerate(examples.colours) if colour in COLOURS]
    labels = np.array([COLOURS.index(examples.colours[index]) for index in known])
    return fit_colours(examples.histograms[known], labels)


def things_of(scenes: Sequence[Scene]) -> list[str]:
    """Names of the things that scenes of several things are made of, in alphabetical order."""
    several = [scene for scene in scenes if len(scene.things) > 1]
    return sorted({thing.name for scene in several for thing in scene.things})
