"""Recipes as the command line names them."""

from argparse import ArgumentParser, Namespace
from typing import Any

from openhart.cli.options import UsageError, place
from openhart.errors import UserError, require


def add_recipe(parser: ArgumentParser, sentence: str) -> None:
    """Add the recipe and the settings that replace its own."""
    parser.add_argument("recipe", type=place, help=sentence)
    parser.add_argument(
        "overrides", nargs="*", metavar="section.name=value",
        help="Setting that replaces that of the recipe, such as run.seed=1.",
    )  # fmt: skip


def load_checked_recipe(options: Namespace, stage: str) -> Any:
    """The recipe of a command, checked before any work.

    Raises:
        UsageError: only the overrides are wrong.
        UserError: the recipe is wrong.
    """
    require("accelerate", "pydantic", "yaml", extra="train")
    from openhart.training.generator.recipe import GeneratorRecipe
    from openhart.training.recipes import load_recipe
    from openhart.training.tokenizer.recipe import TokenizerRecipe

    kind: Any = TokenizerRecipe if stage == "tokenizer" else GeneratorRecipe
    try:
        return load_recipe(options.recipe, kind, options.overrides)
    except UserError as error:
        load_recipe(options.recipe, kind)
        raise UsageError(str(error)) from error
