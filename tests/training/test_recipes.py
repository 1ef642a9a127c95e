"""Every committed recipe is valid and its models can be built (on the meta device, without weights)."""

from pathlib import Path

import pytest
import torch

from openhart.tokenizer.model import HybridTokenizer
from openhart.training.config import GeneratorRecipe, TokenizerRecipe, build_model, load_recipe
from openhart.transformer.model import HartTransformer

FOLDER = Path(__file__).parents[2] / "recipes"
TOKENIZERS = sorted(FOLDER.rglob("tokenizer*.yaml"))
GENERATORS = sorted(FOLDER.rglob("generator*.yaml"))


def tokenizer_of(path):
    recipe = load_recipe(path, TokenizerRecipe)
    with torch.device("meta"):
        return recipe, build_model(HybridTokenizer, recipe.model)


@pytest.mark.parametrize("path", TOKENIZERS, ids=lambda path: path.stem)
def test_tokenizer_recipes(path):
    recipe, tokenizer = tokenizer_of(path)
    assert tokenizer.image_size[0] >= 128
    assert recipe.phases[-1].train == "decoder"


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.stem)
def test_generator_recipes_fit_their_tokenizers(path):
    recipe = load_recipe(path, GeneratorRecipe)
    partner, tokenizer = tokenizer_of(path.with_name(path.name.replace("generator", "tokenizer")))
    assert recipe.tokenizer == f"{partner.run.output}/image_tokenizer"
    with torch.device("meta"):
        transformer = build_model(HartTransformer, recipe.model | {"scales": tokenizer.config.scales})
    assert transformer.scales == tokenizer.quantizer.scales
