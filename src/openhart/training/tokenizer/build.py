"""Builds the tokenizer of a recipe and checks that it fits the device."""

from pathlib import Path

import torch

from openhart.errors import UserError
from openhart.memory import check_step
from openhart.model_files import IMAGE_TOKENIZERS, load_image_tokenizer, tokenizer_class
from openhart.tokenizer.base import ImageTokenizer
from openhart.training.build import build_model, check_weights_fit, run_device, without_weights
from openhart.training.run.flops import Counter
from openhart.training.tokenizer.cost import tokenizer_phase_cost
from openhart.training.tokenizer.recipe import TokenizerRecipe


def build_tokenizer(recipe: TokenizerRecipe) -> ImageTokenizer:
    """A new tokenizer, or that of ``initial`` with the recipe's settings in place of its own.

    Raises:
        UserError: if the settings are not valid, do not fit the weights of ``initial`` or need too much
            memory.
    """
    if recipe.initial:
        found = IMAGE_TOKENIZERS[tokenizer_class(Path(recipe.initial))]
        if found is not recipe.tokenizer:
            raise UserError(
                f"initial: {recipe.initial} is a {found.__name__}, but a recipe with model.kind "
                f"{recipe.kind} trains a {recipe.tokenizer.__name__}"
            )
        tokenizer = load_image_tokenizer(recipe.initial, **recipe.settings)
    else:
        with torch.device("meta"):
            tokenizer = build_model(recipe.tokenizer, recipe.settings)
    check_weights_fit(tokenizer)
    counter, clone = Counter(recipe.run.precision), without_weights(tokenizer)
    costs = [tokenizer_phase_cost(counter, recipe, clone, phase) for phase in recipe.phases]
    check_step(max(cost.kept for cost in costs), run_device())
    return tokenizer if recipe.initial else build_model(recipe.tokenizer, recipe.settings)
