"""Training a checker on a folder of scenes and measuring it on held-out scenes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from openhart.data.images import to_tensor
from openhart.errors import UserError
from openhart.evaluation.checker.accuracy import measure_checker
from openhart.evaluation.checker.files import Checker, make_checker
from openhart.evaluation.checker.scenes import read_scenes
from openhart.evaluation.checker.train import make_examples, things_of, train_classifier, train_colours
from openhart.evaluation.images import reconstruct


def train_checker(
    folder: Path, tokenizer: Any, held_out: int = 400, seed: int = 0, quiet: bool = False
) -> Checker:
    """Train a checker on most scenes of a folder and measure it on the others.

    Args:
        folder: a folder that ``openhart data scenes`` made.
        tokenizer: an image tokenizer. One third of the training scenes are reconstructed by it, and the
            held-out scenes are measured both as they are and reconstructed.
        held_out: number of scenes to measure on.
        seed: seed of the division and of the image degradation.
        quiet: show no progress bar.

    Returns:
        the checker; its ``accuracy`` has the keys ``real`` and ``reconstructed``.

    Raises:
        UserError: there are too few scenes.
    """
    scenes = read_scenes(folder)
    things = things_of(scenes)
    order = np.random.default_rng(seed).permutation(len(scenes))
    known = [
        scenes[index] for index in order if {thing.name for thing in scenes[index].things} <= set(things)
    ]
    if len(known) < 2 * held_out:
        raise UserError(
            f"{folder} has {len(known)} scenes of known things, but at least {2 * held_out} are needed"
        )
    measured, learned = known[:held_out], known[held_out:]
    decoded = _through(tokenizer)
    examples = make_examples(learned, seed, quiet, decoded)
    classifier = train_classifier(examples, things)
    name = f"checker of {len(things)} things, {len(learned)} scenes, seed {seed}"
    checker = make_checker(classifier, train_colours(examples), name)
    accuracy = {
        "real": measure_checker(checker, measured, seed=seed, quiet=quiet),
        "reconstructed": measure_checker(checker, measured, decoded, seed, quiet),
    }
    return make_checker(classifier, checker.colours.classifier, name, accuracy)


def _through(tokenizer: Any) -> Any:
    def show(picture: Image.Image) -> Image.Image:
        tensor: torch.Tensor = to_tensor(picture, tokenizer.image_size)[None]
        return Image.fromarray(reconstruct(tokenizer, tensor)[0])

    return show
