"""Builds the models of a recipe and checks that its settings agree with the tokenizer and the encoder."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from openhart.checks import check_settings
from openhart.errors import UserError
from openhart.memory import check_step, check_training
from openhart.model_files import loading
from openhart.residual.heads import TokenResidualHead, WideResidualHead
from openhart.scales import parse_scales
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.generator.hart.cost import generator_cost, kept_shares
from openhart.training.generator.hart.settings import ResidualHead
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.run.flops import Counter
from openhart.training.tokenizer.cost import tokenizer_phase_cost
from openhart.training.tokenizer.recipe import TokenizerRecipe
from openhart.transformer.model import HartTransformer

HEADS = {"token": TokenResidualHead, "wide": WideResidualHead}

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
    _check_weights_fit(tokenizer)
    counter, clone = Counter(recipe.run.precision), without_weights(tokenizer)
    costs = [tokenizer_phase_cost(counter, recipe, clone, phase) for phase in recipe.phases]
    check_step(max(cost.kept for cost in costs), _device())


def check_generator_fits(recipe: GeneratorRecipe, transformer: HartTransformer) -> None:
    """Refuse to train a generator whose weights or activations would not fit the device.

    Args:
        recipe: of the run.
        transformer: the trained one, or one with the same settings on the meta device.

    Raises:
        UserError: if the model or its batches are too large.
    """
    _check_weights_fit(transformer)
    clone = without_weights(transformer)
    with torch.device("meta"):
        head = build_head(recipe.residual, clone)
    height, width = clone.scales[-1]
    most = round(height * width * kept_shares(recipe.token_dropping)[1])
    check_step(generator_cost(Counter(recipe.run.precision), recipe, clone, head, most).kept, _device())


def _check_weights_fit(model: nn.Module) -> None:
    if next(model.parameters()).is_meta:
        check_training(sum(weight.numel() for weight in model.parameters()), _device())


def without_weights(part: Any) -> Any:
    """A model of the same settings on the meta device; None for None."""
    with torch.device("meta"):
        return None if part is None else type(part).from_config(part.config)


def _device() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def width_of(recipe: GeneratorRecipe) -> int:
    """The transformer's width C, which is that of a label's context token."""
    return int(check_settings(HartTransformer, recipe.model, "model")["width"])


def transformer_settings(
    recipe: GeneratorRecipe, tokenizer: HybridTokenizer, context: dict[str, int]
) -> dict[str, Any]:
    """Settings of HartTransformer: the recipe's, completed from the tokenizer and the condition encoder.

    Args:
        recipe: settings that it gives although they are completed must agree.
        tokenizer: determines scales, codebook size and code dimension.
        context: ``context_dim`` and ``context_tokens``.

    Raises:
        UserError: if they disagree.
    """
    codebook, scales = tokenizer.quantizer.codebook, tokenizer.config.scales
    if "scales" in recipe.model and parse_scales(recipe.model["scales"]) != parse_scales(scales):
        raise UserError(
            f"model.scales {_listed(recipe.model['scales'])} do not fit the tokenizer's, {_listed(scales)}"
        )
    table = {"codebook_size": codebook.num_embeddings, "code_dim": codebook.embedding_dim}
    for source, values in (("tokenizer", table), ("condition encoder", context)):
        for name, value in values.items():
            if recipe.model.get(name, value) != value:
                raise UserError(f"model.{name} is {recipe.model[name]}, but the {source} has {value}")
    return recipe.model | context | table | {"scales": scales}


def check_same_shape(recipe: GeneratorRecipe, transformer: HartTransformer) -> None:
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


def build_head(
    settings: ResidualHead | None,
    transformer: HartTransformer,
    residual_scale: float | Sequence[float] = 1.0,
) -> TokenResidualHead | None:
    """The residual head of a recipe for its transformer; None for None."""
    if settings is None:
        return None
    head: TokenResidualHead = HEADS[settings.kind](
        code_dim=transformer.config.code_dim,
        condition_dim=transformer.config.width,
        width=settings.width,
        depth=settings.depth,
        residual_scale=residual_scale,
        limit=settings.limit,
    )
    return head


def _listed(scales: Any) -> str:
    return "[" + ", ".join(str(side) for side in scales) + "]"
