"""The kinds of image tokenizers, by the class of their recipe."""

from typing import Any

from openhart.training.tokenizer.bottleneck import Bottleneck
from openhart.training.tokenizer.gumbel.bottleneck import DrawnCodes
from openhart.training.tokenizer.gumbel.recipe import GumbelRecipe
from openhart.training.tokenizer.kl.bottleneck import NormalLatents
from openhart.training.tokenizer.kl.recipe import KlRecipe
from openhart.training.tokenizer.nearest.bottleneck import HybridCodes, NearestCodes
from openhart.training.tokenizer.nearest.recipe import HybridRecipe, VqganRecipe
from openhart.training.tokenizer.recipe import TokenizerRecipe

BOTTLENECKS: dict[str, type[Bottleneck[Any]]] = {
    HybridRecipe.kind: HybridCodes,
    VqganRecipe.kind: NearestCodes,
    GumbelRecipe.kind: DrawnCodes,
    KlRecipe.kind: NormalLatents,
}
"""What is between encoder and decoder, by ``model.kind``."""


def open_bottleneck(recipe: TokenizerRecipe, tokenizer: Any) -> Bottleneck[Any]:
    """The bottleneck of a recipe and its tokenizer."""
    return BOTTLENECKS[recipe.kind](recipe, tokenizer)
