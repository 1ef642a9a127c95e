"""The phases of a tokenizer run: which one a step belongs to, and what happens when one starts."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from openhart.randomness import step_generator
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.run.batches import open_batches
from openhart.training.tokenizer.codebook import start_with_kmeans
from openhart.training.tokenizer.recipe import Phase, TokenizerRecipe

KMEANS_BATCHES = 16


def phase_at(phases: Sequence[Phase], number: int) -> tuple[int, int]:
    """Index of the phase of a step, and the step's number within it; both count from 0."""
    ends = list(itertools.accumulate(phase.steps for phase in phases))
    index = next(place for place, end in enumerate(ends) if number < end)
    return index, number - (ends[index] - phases[index].steps)


def kmeans_start(
    recipe: TokenizerRecipe, accelerator: Accelerator, tokenizer: HybridTokenizer, dataset: Any, number: int
) -> None:
    """Set the codebook to the k-means centres of some batches' features. Collective.

    Args:
        recipe: of the run.
        accelerator: of the run.
        tokenizer: its codebook is changed in place.
        dataset: images and records.
        number: of the step that follows; decides which batches are read.
    """
    opened = open_batches(dataset, recipe.data, recipe.run.seed, accelerator)
    features: list[Tensor] = []
    with torch.no_grad():
        for images, _ in itertools.islice(opened.after(number), KMEANS_BATCHES):
            features.append(accelerator.gather(tokenizer.encode(images.to(accelerator.device))))
    generator = step_generator(recipe.run.seed, number)
    start_with_kmeans(tokenizer.quantizer, torch.cat(features), generator)
