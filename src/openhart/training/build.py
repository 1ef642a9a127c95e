"""Builds a model of a recipe and checks that it fits the device."""

from typing import Any, TypeVar

import torch
from torch import nn

from openhart.checks import check_settings
from openhart.memory import check_step, check_training
from openhart.model_files import loading
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.run.flops import Counter
from openhart.training.tokenizer.cost import tokenizer_phase_cost
from openhart.training.tokenizer.recipe import TokenizerRecipe

Model = TypeVar("Model", bound=nn.Module)


def build_model(kind: type[Model], settings: dict[str, Any]) -> Model:
    """Make a model from a recipe's settings.

    Raises:
        UserError: if the model has no such setting, or if a value is not valid.
    """
    check_settings(kind, settings, "model")
    return kind(**settings)


def build_tokenizer(recipe: TokenizerRecipe) -> HybridTokenizer:
    """A new tokenizer, or that of ``initial`` with the recipe's settings in place of its own.

    Raises:
        UserError: if the settings are not valid, do not fit the weights of ``initial`` or need too much
            memory.
    """
    if recipe.initial:
        with loading(recipe.initial):
            tokenizer: HybridTokenizer = HybridTokenizer.from_pretrained(recipe.initial, **recipe.model)
        _check_tokenizer_fits(recipe, tokenizer)
        return tokenizer
    with torch.device("meta"):
        planned = build_model(HybridTokenizer, recipe.model)
    _check_tokenizer_fits(recipe, planned)
    built: HybridTokenizer = build_model(HybridTokenizer, recipe.model)
    return built


def _check_tokenizer_fits(recipe: TokenizerRecipe, tokenizer: HybridTokenizer) -> None:
    check_weights_fit(tokenizer)
    counter, clone = Counter(recipe.run.precision), without_weights(tokenizer)
    costs = [tokenizer_phase_cost(counter, recipe, clone, phase) for phase in recipe.phases]
    check_step(max(cost.kept for cost in costs), run_device())


def check_weights_fit(model: nn.Module) -> None:
    """Check that a model that was built on the meta device can be trained on the device of a run.

    Raises:
        UserError: if its weights need too much memory.
    """
    if next(model.parameters()).is_meta:
        check_training(sum(weight.numel() for weight in model.parameters()), run_device())


def without_weights(part: Any) -> Any:
    """A model of the same settings on the meta device; None for None."""
    with torch.device("meta"):
        return None if part is None else type(part).from_config(part.config)


def run_device() -> torch.device:
    """The device on which a run trains."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")
