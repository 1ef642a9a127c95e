"""The models of a recipe, and whether its settings agree with what they are built on."""

from collections.abc import Sequence
from typing import Any

from openhart.errors import UserError
from openhart.model_files import loading
from openhart.residual.heads import TokenResidualHead, WideResidualHead
from openhart.scales import parse_scales
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.config import GeneratorRecipe, ResidualHead, TokenizerRecipe, build_model
from openhart.transformer.model import HartTransformer

HEADS = {"token": TokenResidualHead, "wide": WideResidualHead}


def build_tokenizer(recipe: TokenizerRecipe) -> HybridTokenizer:
    """A new tokenizer, or the one the recipe starts from with the recipe's settings in place of its own.

    Raises:
        UserError: settings that cannot be, or that do not fit the weights of ``initial``.
    """
    if not recipe.initial:
        return build_model(HybridTokenizer, recipe.model)
    with loading(recipe.initial):
        return HybridTokenizer.from_pretrained(recipe.initial, **recipe.model)


def transformer_settings(
    recipe: GeneratorRecipe, tokenizer: HybridTokenizer, context: dict[str, int]
) -> dict[str, Any]:
    """HartTransformer's settings: the recipe's, filled up from the tokenizer and the condition encoder.

    Args:
        recipe: what it says of a name filled in must agree.
        tokenizer: gives scales and codes.
        context: ``context_dim`` and ``context_tokens``.

    Raises:
        UserError: they disagree.
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
    """Hold a recipe's ``model`` against the transformer that ``initial`` gave.

    Raises:
        UserError: a setting differs.
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
    """The residual head that a recipe asks for, fitting its transformer."""
    if settings is None:
        return None
    return HEADS[settings.kind](
        code_dim=transformer.config.code_dim,
        condition_dim=transformer.config.width,
        width=settings.width,
        depth=settings.depth,
        residual_scale=residual_scale,
        limit=settings.limit,
    )


def _listed(scales: Any) -> str:
    return "[" + ", ".join(str(side) for side in scales) + "]"
