"""Post-training of the decoder on images that a generator has completed."""

import pytest
import torch

from openhart.data import open_dataset
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.randomness import seeded_generators
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.generator import train as generator
from openhart.training.tokenizer import train as tokenizer
from openhart.training.tokenizer.nearest.own_samples import OwnSampler
from openhart.training.tokenizer.nearest.recipe import OwnSamples
from tests.training.corpus import draw_corpus, generator_recipe, tokenizer_recipe, write_recipe

DECODER = ("decoder", "post_quant_conv")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A tokenizer, and a generator on it."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("tokenizer", "generator"))
    values = tokenizer_recipe(corpus, first, steps=(1, 3, 1))
    folder = tokenizer.train(write_recipe(first / "recipe.yaml", values), quiet=True)
    values = generator_recipe(corpus, second, folder, steps=2, residual=None, sample_prompts=[])
    return folder, generator.train(write_recipe(second / "recipe.yaml", values), quiet=True)


def post_training(corpus, output, trained, **own):
    folder, model = trained
    values = tokenizer_recipe(corpus, output, save_every=1)
    own_samples = {"generator": str(model), "images": 0.5, **own}
    phase = {"name": "own", "steps": 3, "train": "decoder", "own_samples": own_samples}
    return values | {"model": {}, "initial": str(folder), "phases": [phase]}


def test_the_decoder_learns_from_own_samples_and_the_codes_stay(corpus, trained, tmp_path):
    values = post_training(corpus, tmp_path, trained)
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    before = HybridTokenizer.from_pretrained(trained[0])
    after = HybridTokenizer.from_pretrained(tokenizer.train(recipe, quiet=True))
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name]) == (not name.startswith(DECODER)), name


def test_a_run_depends_on_the_own_samples(corpus, trained, tmp_path):
    weights = []
    for images in (0.5, 0.5, 0.0):
        output = tmp_path / str(len(weights))
        output.mkdir()
        values = post_training(corpus, output, trained, images=images)
        folder = tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)
        weights.append(HybridTokenizer.from_pretrained(folder).decoder.last_layer)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@torch.no_grad()
def test_the_given_scales_are_those_of_the_image(corpus, trained):
    pipe = HartPipeline.from_pretrained(trained[1])
    pipe.set_progress_bar_config(disable=True)
    model = pipe.image_tokenizer
    dataset = open_dataset(str(corpus), model.image_size)
    images, samples = zip(*(dataset[index] for index in range(4)), strict=True)
    codes = model.quantize(model.encode(torch.stack(images))).codes
    sampler = OwnSampler(pipe)

    def complete(**settings):
        return sampler.complete(
            codes, samples, OwnSamples(generator="model", **settings), seeded_generators(range(4))
        )

    all_given = complete(known_scales=len(codes))
    torch.testing.assert_close(all_given, model.quantizer.decode(codes))
    assert not torch.allclose(complete(), all_given)


def test_a_generator_of_another_tokenizer_is_refused(corpus, trained, tmp_path):
    values = post_training(corpus, tmp_path / "run", trained)
    other = HybridTokenizer.from_pretrained(trained[0])
    other.quantizer.codebook.weight.data.add_(1)
    other.save_pretrained(tmp_path / "other")
    values["initial"] = str(tmp_path / "other")
    with pytest.raises(UserError, match="draws the codes of another tokenizer"):
        tokenizer.train(write_recipe(tmp_path / "recipe.yaml", values), quiet=True)
    assert not (tmp_path / "run").exists()


def test_own_samples_need_a_finished_tokenizer(corpus, trained, tmp_path):
    values = post_training(corpus, tmp_path / "run", trained)
    values["phases"][0]["train"] = "all"
    with pytest.raises(UserError, match="train: decoder"):
        tokenizer.train(write_recipe(tmp_path / "recipe.yaml", values), quiet=True)
