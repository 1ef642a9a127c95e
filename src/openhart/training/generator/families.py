"""The families of generators by their name in a recipe's ``model.kind``."""

from typing import Any

from openhart.training.generator.family import Family
from openhart.training.generator.hart.family import HartFamily
from openhart.training.generator.masked.family import MaskedFamily
from openhart.training.generator.raster.family import RasterFamily
from openhart.training.generator.recipe import GeneratorRecipe

FAMILIES: dict[str, type[Family[Any]]] = {
    "hart": HartFamily,
    "masked": MaskedFamily,
    "raster": RasterFamily,
}


def open_family(recipe: GeneratorRecipe, tokenizer: Any) -> Family[Any]:
    """The family of a recipe, with the recipe's tokenizer."""
    return FAMILIES[recipe.kind](recipe, tokenizer)
