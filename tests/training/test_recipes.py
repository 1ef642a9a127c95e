"""Every committed recipe is valid and its models can be built (on the meta device, without weights)."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from openhart.training.build import build_model
from openhart.training.generator.build import transformer_settings
from openhart.training.generator.data import open_conditions
from openhart.training.generator.families import open_family
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.recipes import load_recipe
from openhart.training.tokenizer.recipe import TokenizerRecipe

FOLDER = Path(__file__).parents[2] / "recipes"
TOKENIZERS = sorted([*FOLDER.rglob("tokenizer*.yaml"), *FOLDER.rglob("autoencoder.yaml")])
SIDES = (256, 512, 1024)
GENERATORS = sorted(FOLDER.rglob("generator*.yaml"))


def tokenizer_of(path):
    recipe = load_recipe(path, TokenizerRecipe)
    with torch.device("meta"):
        return recipe, build_model(recipe.tokenizer, recipe.settings)


@pytest.mark.parametrize("path", TOKENIZERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_tokenizer_recipes(path):
    recipe, tokenizer = tokenizer_of(path)
    assert tokenizer.image_size[0] >= 64
    if recipe.kind == "hybrid" and tokenizer.hybrid and path.stem != "autoencoder":
        assert recipe.phases[-1].train == "decoder"


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_generator_recipes_fit_their_tokenizers(path):
    recipe = load_recipe(path, GeneratorRecipe)
    beside = [tokenizer_of(place) for place in path.parent.glob("tokenizer*.yaml")]
    made = {f"{partner.run.output}/image_tokenizer": tokenizer for partner, tokenizer in beside}
    tokenizer = made[recipe.tokenizer]
    context = open_conditions(recipe.conditioning, recipe.width).planned_shape(recipe.model)
    with torch.device("meta"):
        tokenizer = type(tokenizer).from_config(dict(tokenizer.config) | recipe.tokenizer_settings)
        settings = transformer_settings(open_family(recipe, tokenizer), context)
        transformer = build_model(recipe.transformer, settings)
    height, width = tokenizer.feature_size(tokenizer.image_size)
    assert getattr(transformer, "scales", ((height, width),))[-1] == (height, width)
    assert isinstance(tokenizer, recipe.image_tokenizer)


def test_the_families_that_are_compared_are_of_one_size():
    recipes = [load_recipe(path, GeneratorRecipe) for path in GENERATORS if path.parent.name == "comparison"]
    assert {(recipe.data.train, recipe.data.batch_size) for recipe in recipes} == {("corpus/train", 24)}
    tokenizers = [tokenizer_of(path)[1] for path in TOKENIZERS if path.parent.name == "comparison"]
    sizes = [tokenizer.num_parameters() for tokenizer in tokenizers]
    assert len(sizes) == 4
    assert max(sizes) < 1.01 * min(sizes)
    assert {tokenizer.image_size for tokenizer in tokenizers} == {(64, 64)}


def test_the_text_to_image_recipes_follow_each_other():
    recipes = {
        side: load_recipe(FOLDER / "hart" / f"generator_{side}.yaml", GeneratorRecipe) for side in SIDES
    }
    assert [recipe.scales[-1] * 16 for recipe in recipes.values()] == list(SIDES)
    for before, after in pairwise(recipes.values()):
        assert after.initial == f"{before.run.output}/pipeline"
        assert (after.model, after.tokenizer) == (before.model, before.tokenizer)
