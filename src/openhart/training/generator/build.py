"""Builds a generator and checks that its settings agree with the tokenizer and the condition encoder."""

from typing import Any

import torch

from openhart.errors import UserError
from openhart.memory import check_step
from openhart.scales import parse_scales
from openhart.training.build import check_weights_fit, run_device, without_weights
from openhart.training.generator.family import Family
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.run.flops import Counter


def transformer_settings(family: Family[Any], context: dict[str, int]) -> dict[str, Any]:
    """Settings of the transformer: the recipe's, completed from the tokenizer and the condition encoder.

    Args:
        family: of the run; settings that its recipe gives although other parts determine them must agree.
        context: ``context_dim`` and ``context_tokens``.

    Raises:
        UserError: if they disagree.
    """
    given: dict[str, Any] = family.recipe.model
    determined = {
        "context_dim": ("condition encoder", context["context_dim"]),
        "context_tokens": ("condition encoder", context["context_tokens"]),
        **family.determined(context),
    }
    if "scales" in given and parse_scales(given["scales"]) != parse_scales(determined["scales"][1]):
        raise UserError(
            f"model.scales {_listed(given['scales'])} do not fit the tokenizer's, "
            f"{_listed(determined['scales'][1])}"
        )
    for name, (owner, value) in determined.items():
        if name != "scales" and given.get(name, value) != value:
            raise UserError(f"model.{name} is {given[name]}, but the {owner} has {value}")
    return given | {name: value for name, (_, value) in determined.items()}


def check_generator_fits(family: Family[Any], transformer: Any) -> None:
    """Refuse to train a generator whose weights or activations would not fit the device.

    Args:
        family: of the run.
        transformer: the trained one, or one with the same settings on the meta device.

    Raises:
        UserError: if the model or its batches are too large.
    """
    check_weights_fit(transformer)
    run = family.recipe.run
    clone = without_weights(transformer)
    with torch.device("meta"):
        head = family.build_head(clone)
    cost = family.cost(Counter(run.precision), clone, head, run.gradient_checkpointing)
    check_step(cost.kept, run_device())


def check_same_shape(recipe: GeneratorRecipe, transformer: Any) -> None:
    """Check that a recipe's ``model`` agrees with the transformer of ``initial``.

    Raises:
        UserError: if a setting differs.
    """
    for name, value in recipe.model.items():
        if name != "scales" and name in transformer.config and value != transformer.config[name]:
            raise UserError(
                f"initial: {recipe.initial} is of another shape: its {name} is {transformer.config[name]}, "
                f"the recipe's model.{name} {value}"
            )


def new_like(part: Any) -> Any:
    """A new model of the same settings; None for None, and what has no weights is returned itself."""
    if part is None or next(part.parameters(), None) is None:
        return part
    return type(part).from_config(part.config)


def _listed(scales: Any) -> str:
    return "[" + ", ".join(str(side) for side in scales) + "]"
