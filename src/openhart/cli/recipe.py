"""Recipes as the command line names them."""

from argparse import Namespace
from typing import Any

from openhart.cli.options import UsageError
from openhart.errors import UserError, require


def load_checked_recipe(options: Namespace, stage: str) -> Any:
    """The recipe of a command, checked before any work.

    Raises:
        UsageError: only the overrides are wrong.
        UserError: the recipe is wrong.
    """
    require("accelerate", "pydantic", "yaml", extra="train")
    from openhart.training.config import GeneratorRecipe, TokenizerRecipe, load_recipe

    kind: Any = TokenizerRecipe if stage == "tokenizer" else GeneratorRecipe
    try:
        return load_recipe(options.recipe, kind, options.overrides)
    except UserError as error:
        load_recipe(options.recipe, kind)
        raise UsageError(str(error)) from error
