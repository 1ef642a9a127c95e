"""Exchanged codes, and what follows from them: the codes after them and the residual's target."""

import pytest
import torch

from openhart.data import collate
from openhart.scales import split_by_scale
from openhart.training.encoding.images import encode_images
from openhart.training.generator import data as generator_data
from openhart.training.generator.hart.noisy_context import Exchange, clean_context, features_of, noisy_context
from openhart.training.generator.hart.settings import NoisyContext
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.recipes import load_recipe
from tests.tiny import tiny_tokenizer
from tests.training.corpus import draw_corpus, generator_recipe, write_recipe

BATCH = 3


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer().requires_grad_(False)


@pytest.fixture(scope="module")
def latents(tokenizer):
    size = (BATCH, 3, *tokenizer.image_size)
    image = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes, continuous_target = encode_images(tokenizer, image).values()
    return split_by_scale(codes, tokenizer.quantizer.scales), continuous_target, tokenizer.encode(image)


def generators(rows=range(BATCH)):
    return [torch.Generator().manual_seed(row) for row in rows]


def corrupted(quantizer, latents, strength=1.0, rows=slice(None), **settings):
    codes, continuous_target, _ = latents
    exchange = Exchange(quantizer.codebook.weight, NoisyContext(**settings))
    sources = generators(range(BATCH)[rows])
    seen = [found[rows] for found in codes]
    return noisy_context(quantizer, seen, continuous_target[rows], exchange, strength, sources)


def test_codes_and_last_target_give_the_features_again(tokenizer, latents):
    codes, continuous_target, features = latents
    torch.testing.assert_close(features_of(tokenizer.quantizer, codes, continuous_target), features)


@pytest.mark.parametrize("settings", [{}, {"neighbours": None}, {"scales": 2}], ids=str)
def test_what_is_learned_is_what_the_exchanged_codes_leave(tokenizer, latents, settings):
    quantizer, (codes, _, features) = tokenizer.quantizer, latents
    seen = corrupted(quantizer, latents, **settings)
    by_scale = seen.inputs.split([found.shape[1] for found in codes[1:]], dim=1)
    f_hat = by_scale[-1].transpose(1, 2).unflatten(2, quantizer.size)
    left = (features - f_hat).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen.continuous_target, left, atol=1e-5, rtol=1e-4)
    assert torch.equal(seen.codes[-1], quantizer.nearest(seen.continuous_target))
    assert torch.equal(seen.codes[0], codes[0])  # nothing was exchanged before it
    assert any(not torch.equal(a, b) for a, b in zip(seen.codes[1:], codes[1:], strict=True))
    assert not torch.allclose(seen.inputs, clean_context(quantizer, codes, left).inputs, atol=1e-2)


def test_scales_that_are_not_exchanged_show_what_was_to_be_predicted(tokenizer, latents):
    quantizer, (codes, _, _) = tokenizer.quantizer, latents
    seen = corrupted(quantizer, latents, scales=1)
    later = quantizer.empty(BATCH, torch.device("cpu"))
    for index in (1, 2):
        later = quantizer.add_scale(later, quantizer.lookup(seen.codes[index]), index)
    first = seen.inputs[:, -16:].transpose(1, 2).unflatten(2, (4, 4)) - later
    table = quantizer.codebook.weight[:, None]
    each = torch.cat(
        [quantizer.add_scale(quantizer.empty(1, torch.device("cpu")), row[None], 0) for row in table]
    )
    distance = (each[None] - first[:, None]).flatten(2).norm(dim=-1)
    assert distance.amin(dim=1).max() < 1e-4  # it is some code, and not always the given one
    assert not torch.equal(distance.argmin(dim=1), codes[0][:, 0])


def test_without_exchange_nothing_changes_to_the_bit(tokenizer, latents):
    codes, continuous_target, _ = latents
    seen = corrupted(tokenizer.quantizer, latents, strength=1e-9)
    clean = clean_context(tokenizer.quantizer, codes, continuous_target)
    assert torch.equal(seen.continuous_target, clean.continuous_target)
    assert all(torch.equal(a, b) for a, b in zip(seen.codes, codes, strict=True))
    torch.testing.assert_close(seen.inputs, clean.inputs, atol=0, rtol=0)


def test_a_sample_does_not_depend_on_its_batch(tokenizer, latents):
    together, alone = (
        corrupted(tokenizer.quantizer, latents, rows=rows) for rows in (slice(None), slice(1, 2))
    )
    assert all(torch.equal(a[1:2], b) for a, b in zip(together.codes, alone.codes, strict=True))
    torch.testing.assert_close(together.inputs[1:2], alone.inputs)


def test_near_codes_are_near_and_others_are_others():
    codebook = torch.arange(32.0)[:, None].expand(-1, 8)
    codes, certain = torch.randint(32, (50, 40)), torch.ones(50)
    near, changed = Exchange(codebook, NoisyContext(neighbours=4))(codes, certain, generators(range(50)))
    assert changed.all()
    distance = (near - codes).abs()
    assert distance.min() >= 1
    assert distance[(codes > 1) & (codes < 30)].max() == 2
    others, _ = Exchange(codebook, NoisyContext(neighbours=None))(codes, certain, generators(range(50)))
    assert not (others == codes).any()
    assert (others - codes).abs().max() > 20
    half, _ = Exchange(codebook, NoisyContext())(codes, certain / 2, generators(range(50)))
    assert 0.4 < (half != codes).float().mean() < 0.6


def test_the_strength_falls_to_nothing():
    settings = NoisyContext(strength=0.8, anneal=0.75)
    assert [settings.strength_at(share) for share in (0, 0.375, 0.75, 1)] == pytest.approx([0.8, 0.4, 0, 0])
    assert NoisyContext(strength=0.8).strength_at(1.0) == 0.8


def test_every_source_gives_the_features_again(tokenizer, tmp_path):
    """Stored targets are in bfloat16, and so good to 2⁻⁸ of their size."""
    corpus = draw_corpus(tmp_path)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    values = generator_recipe(corpus, tmp_path / "out", tmp_path / "tokenizer", cache=str(tmp_path / "cache"))
    path = write_recipe(tmp_path / "recipe.yaml", values)
    generator_data.fill_cache(path, quiet=True)
    recipe = load_recipe(path, GeneratorRecipe)
    images = generator_data.open_images(recipe, tokenizer)
    expected = tokenizer.encode(torch.stack([image for image, _ in images]))
    for cache in (recipe.cache, "memory", "none"):
        source = generator_data.open_source(recipe.model_copy(update={"cache": cache}), tokenizer, quiet=True)
        source.start(torch.device("cpu"))
        values, _ = collate([source.dataset[index] for index in range(len(images))])
        codes, targets = source.encoded(values).values()
        by_scale = split_by_scale(codes, tokenizer.quantizer.scales)
        found = features_of(tokenizer.quantizer, by_scale, targets)
        torch.testing.assert_close(found, expected, atol=2**-8 * float(targets.abs().max()), rtol=0)
