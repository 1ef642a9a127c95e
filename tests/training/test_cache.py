"""A cache on disk gives the very run that encoding gives, without an encoder."""

import json
import warnings

import pytest
import torch

from openhart.cli import main
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.training.encoding import captions, source
from openhart.training.encoding import disk as cache
from openhart.training.encoding import memory as latents
from openhart.training.generator import data as generator_data
from openhart.training.generator import train as generator
from openhart.training.generator.settings import Conditioning
from openhart.training.tokenizer import train as tokenizer
from tests.training.corpus import draw_corpus, generator_recipe, logged, tokenizer_recipe, write_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def image_tokenizer(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer")
    values = tokenizer_recipe(corpus, output, steps=(2, 3, 1))
    return tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)


@pytest.fixture
def write(corpus, image_tokenizer, tmp_path):
    """Recipes that name one cache."""

    def write(name, **values):
        (tmp_path / name).mkdir()
        values = {"cache": str(tmp_path / "cache"), "sample_prompts": [], **values}
        recipe = generator_recipe(corpus, tmp_path / name, image_tokenizer, steps=4, **values)
        return write_recipe(tmp_path / name / "recipe.yaml", recipe)

    return write


def fail(*_, **__):
    raise AssertionError("an encoder ran")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, {"conditioning": {"kind": "label", "num_classes": 8}}])
def test_training_from_a_cache_runs_no_encoder_and_is_the_same(write, tmp_path, monkeypatch, kind):
    folder, count = generator_data.fill_cache(write("cached", **kind), quiet=True)
    assert count == 8
    generator.train(write("encoded", cache="memory", **kind), quiet=True)
    for module, name in ((captions, "load_text_encoder"), (latents, "encode_images")):
        monkeypatch.setattr(module, name, fail)
    for module in (source, cache):
        monkeypatch.setattr(module, "encode_images", fail)
    trained = generator.train(tmp_path / "cached" / "recipe.yaml", quiet=True)
    for name in ("loss", "gradient_norm", "diffusion"):
        assert logged(tmp_path / "cached", name) == logged(tmp_path / "encoded", name)
    monkeypatch.undo()
    pipeline = HartPipeline.from_pretrained(trained)
    assert folder == tmp_path / "cache"
    assert pipeline.label_encoder is not None or pipeline.text_encoder is not None


def test_samples_are_drawn_from_a_cached_run_too(write):
    recipe = write("cached", sample_prompts=["a red circle"])
    generator_data.fill_cache(recipe, quiet=True)
    generator.train(recipe, ["run.sample_every=2"], quiet=True)


def test_a_cache_that_was_begun_is_finished(write, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SAMPLES_A_PART", 3)
    recipe, encode = write("cached"), cache.encode_images
    calls = []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(cache, "encode_images", dying)
    assert main(["data", "cache", str(recipe), "--quiet"]) == 130
    with pytest.raises(UserError, match="not whole"):
        generator.train(recipe, quiet=True)
    first = (tmp_path / "cache" / "part-00000.safetensors").stat()
    assert main(["data", "cache", str(recipe), "--quiet"]) == 0
    assert (tmp_path / "cache" / "part-00000.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    assert len(calls) == 4
    known = generator_data.load_tokenizer(generator.load_recipe(recipe, generator.GeneratorRecipe))
    filled = cache.LatentCache(
        tmp_path / "cache",
        cache.describe(generator.load_recipe(recipe, generator.GeneratorRecipe), known),
    )
    names = [filled[index][1].name for index in range(len(filled))]
    assert len(set(names)) == 8
    assert main(["data", "cache", str(recipe), "--quiet"]) == 0  # nothing left to do
    assert len(calls) == 4


def test_text_states_of_every_caption(write, tmp_path):
    recipe = write("cached")
    generator_data.fill_cache(recipe, quiet=True)
    settings = generator.load_recipe(recipe, generator.GeneratorRecipe)
    filled = cache.LatentCache(
        tmp_path / "cache", cache.describe(settings, generator_data.load_tokenizer(settings))
    )
    samples = [filled[index][1] for index in range(len(filled))]
    context, mask = captions.CachedConditions(settings.conditioning, filled).of(samples, [0] * len(samples))
    expected, expected_mask = captions.TextConditions(settings.conditioning).of(samples, [0] * len(samples))
    assert torch.equal(mask, expected_mask)
    assert torch.equal(context, expected)


def test_captions_are_encoded_once_each(monkeypatch):
    conditions = captions.TextConditions(Conditioning(max_tokens=8))
    things = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("ball", "cube")]
    together, masks = conditions(things)
    monkeypatch.setattr(conditions, "_encode", None)
    for index in reversed(range(len(things))):
        context, mask = conditions([things[index]])
        assert torch.equal(context[0], together[index])
        assert torch.equal(mask[0], masks[index])


def test_a_full_table_of_captions_is_emptied(monkeypatch):
    monkeypatch.setattr(captions, "KEPT_BYTES", 3 * 2 * 8 * captions.MINILM_WIDTH)
    conditions = captions.TextConditions(Conditioning(max_tokens=8))
    first, _ = conditions(["a red ball", "a blue ball"])
    conditions(["a green ball", "a cube"])
    again, _ = conditions(["a red ball", "a blue ball"])
    torch.testing.assert_close(again, first)
    assert len(conditions.table) <= 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"conditioning": {"max_tokens": 9}}, "conditioning"),
        ({"scales": [1, 2, 3, 4]}, "scales"),
        ({"cache": "nowhere"}, "no cache in nowhere: make it with `openhart data cache"),
    ],
)
def test_a_cache_of_something_else_is_refused(write, change, word, capsys):
    generator_data.fill_cache(write("cached"), quiet=True)
    other = write("other", **change)
    assert main(["train", "generator", str(other), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert word in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_another_tokenizer_is_noticed(write, corpus, tmp_path):
    generator_data.fill_cache(write("cached"), quiet=True)
    other = tmp_path / "other-tokenizer"
    other.mkdir()
    values = tokenizer_recipe(corpus, other, steps=(1, 1, 1))
    folder = tokenizer.train(write_recipe(other / "recipe.yaml", values), quiet=True)
    with pytest.raises(UserError, match="another tokenizer"):
        generator.train(write("changed"), [f"tokenizer={folder}"], quiet=True)
    with pytest.raises(UserError, match="another tokenizer"):
        generator_data.fill_cache(tmp_path / "changed" / "recipe.yaml", [f"tokenizer={folder}"], quiet=True)


@pytest.mark.parametrize("old", [True, False, "memory", "none"])
def test_a_recipe_without_a_folder_is_told(write, capsys, old):
    assert main(["data", "cache", str(write("cached", cache=old))]) == 1
    assert "names no cache" in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), [("true", "memory"), ("false", "none"), ("runs/a", "runs/a")])
def test_recipes_of_before_mean_what_they_meant(write, old, new):
    dropping = "thinning={mean: 0.7, deviation: 0.2, least: 0.4}"
    recipe = generator.load_recipe(write("old"), generator.GeneratorRecipe, [f"cache={old}", dropping])
    assert recipe.cache == new
    assert recipe.token_dropping.model_dump() == {"mean": 0.7, "std": 0.2, "min": 0.4}


@pytest.mark.parametrize("value", ["3", "[a]", "''", "null"])
def test_a_cache_that_is_no_word_is_told(write, value):
    with pytest.raises(UserError, match="cache must be none, memory or the name of a folder"):
        generator.load_recipe(write("bad"), generator.GeneratorRecipe, [f"cache={value}"])


def test_a_record_without_a_caption_leaves_no_cache(write, corpus, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    pictures = draw_corpus(tmp_path / "more")
    lines = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    del lines[5]["text"]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = write("cached", data={"train": str(pictures), "workers": 0})
    with warnings.catch_warnings():
        assert main(["data", "cache", str(recipe), "--quiet"]) == 1
    assert "has no caption" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
