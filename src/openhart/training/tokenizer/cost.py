"""What a training step of the tokenizer costs."""

import torch

from openhart.tokenizer.base import ImageTokenizer
from openhart.training.run.flops import Cost, Counter
from openhart.training.tokenizer.discriminator import PatchDiscriminator
from openhart.training.tokenizer.kinds import open_bottleneck
from openhart.training.tokenizer.recipe import Phase, TokenizerLosses, TokenizerRecipe
from openhart.training.tokenizer.reconstruction import Reconstruction

DISCRIMINATOR_PASSES = 3  # on the real image, on the made one, and once more for the generator


def tokenizer_cost(
    counter: Counter, recipe: TokenizerRecipe, tokenizer: ImageTokenizer, phase: Phase
) -> Cost:
    """The tokenizer on images of its size; an encoder that is frozen has no backward pass."""
    batch = recipe.data.batch_size
    image = counter.tensor(batch, tokenizer.config.in_channels, *tokenizer.image_size, needs_gradient=False)
    bottleneck = open_bottleneck(recipe, tokenizer)
    model, choices = Reconstruction(tokenizer, bottleneck), bottleneck.stand_in(counter, batch)
    return counter.count(model, lambda: model(image, choices, phase)[0])


def discriminator_cost(counter: Counter, losses: TokenizerLosses, batch: int, size: tuple[int, int]) -> Cost:
    """The discriminator's passes of one step."""
    with torch.device("meta"):
        discriminator = PatchDiscriminator(losses.discriminator_width, losses.discriminator_layers)
    image = counter.tensor(batch, 3, *size)
    return counter.count(discriminator, lambda: discriminator(image)) * DISCRIMINATOR_PASSES


def tokenizer_phase_cost(
    counter: Counter, recipe: TokenizerRecipe, tokenizer: ImageTokenizer, phase: Phase
) -> Cost:
    """One pass of a tokenizer recipe in one of its phases."""
    cost = tokenizer_cost(counter, recipe, tokenizer, phase)
    if not phase.adversarial:
        return cost
    return cost + discriminator_cost(counter, recipe.losses, recipe.data.batch_size, tokenizer.image_size)
