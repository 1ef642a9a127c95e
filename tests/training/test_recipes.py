"""Every committed recipe is valid and its models can be built (on the meta device, without weights)."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from openhart.training.build import build_model
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.recipes import load_recipe
from openhart.training.tokenizer.recipe import TokenizerRecipe
from openhart.transformer.model import HartTransformer

FOLDER = Path(__file__).parents[2] / "recipes"
TOKENIZERS = sorted(FOLDER.rglob("tokenizer*.yaml"))
SIDES = (256, 512, 1024)
GENERATORS = sorted(FOLDER.rglob("generator*.yaml"))


def tokenizer_of(path):
    recipe = load_recipe(path, TokenizerRecipe)
    with torch.device("meta"):
        return recipe, build_model(recipe.tokenizer, recipe.settings)


@pytest.mark.parametrize("path", TOKENIZERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_tokenizer_recipes(path):
    recipe, tokenizer = tokenizer_of(path)
    assert tokenizer.image_size[0] >= 128
    assert recipe.phases[-1].train == "decoder"


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_generator_recipes_fit_their_tokenizers(path):
    recipe = load_recipe(path, GeneratorRecipe)
    beside = [tokenizer_of(place) for place in path.parent.glob("tokenizer*.yaml")]
    made = {f"{partner.run.output}/image_tokenizer": tokenizer for partner, tokenizer in beside}
    tokenizer = made[recipe.tokenizer]
    scales = recipe.scales or tokenizer.config.scales
    told = {"context_dim": recipe.model["width"]} if recipe.conditioning.kind == "label" else {}
    with torch.device("meta"):
        transformer = build_model(HartTransformer, recipe.model | told | {"scales": scales})
    if recipe.scales is None:
        assert transformer.scales == tokenizer.quantizer.scales


def test_the_text_to_image_recipes_follow_each_other():
    recipes = {
        side: load_recipe(FOLDER / "hart" / f"generator_{side}.yaml", GeneratorRecipe) for side in SIDES
    }
    assert [recipe.scales[-1] * 16 for recipe in recipes.values()] == list(SIDES)
    for before, after in pairwise(recipes.values()):
        assert after.initial == f"{before.run.output}/pipeline"
        assert (after.model, after.tokenizer) == (before.model, before.tokenizer)
