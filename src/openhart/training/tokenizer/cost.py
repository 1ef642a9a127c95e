"""What a training step of the tokenizer costs."""

import torch

from openhart.tokenizer.model import HybridTokenizer
from openhart.training.run.flops import Cost, Counter
from openhart.training.tokenizer.decoder_inputs import DecoderInputs
from openhart.training.tokenizer.discriminator import PatchDiscriminator
from openhart.training.tokenizer.recipe import Phase, TokenizerRecipe
from openhart.training.tokenizer.reconstruction import Reconstruction

DISCRIMINATOR_PASSES = 3  # on the real image, on the made one, and once more for the generator


def tokenizer_cost(counter: Counter, tokenizer: HybridTokenizer, batch: int, phase: Phase) -> Cost:
    """The tokenizer on images of its size; an encoder that is frozen has no backward pass."""
    image = counter.tensor(batch, tokenizer.config.in_channels, *tokenizer.image_size, needs_gradient=False)
    inputs = DecoderInputs(
        counter.tensor(batch, needs_gradient=False),
        None,
        counter.tensor(batch, needs_gradient=False, dtype=torch.long),
    )
    model = Reconstruction(tokenizer)
    frozen, learns_codes = phase.train == "decoder", phase.learns_codes
    return counter.count(model, lambda: model(image, inputs, frozen, learns_codes)[0])


def discriminator_cost(counter: Counter, width: int, batch: int, size: tuple[int, int]) -> Cost:
    """The discriminator's passes of one step."""
    with torch.device("meta"):
        discriminator = PatchDiscriminator(width)
    image = counter.tensor(batch, 3, *size)
    return counter.count(discriminator, lambda: discriminator(image)) * DISCRIMINATOR_PASSES


def tokenizer_phase_cost(
    counter: Counter, recipe: TokenizerRecipe, tokenizer: HybridTokenizer, phase: Phase
) -> Cost:
    """One pass of a tokenizer recipe in one of its phases."""
    batch = recipe.data.batch_size
    cost = tokenizer_cost(counter, tokenizer, batch, phase)
    if not phase.adversarial:
        return cost
    return cost + discriminator_cost(counter, recipe.losses.discriminator_width, batch, tokenizer.image_size)
