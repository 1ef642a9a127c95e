"""The continuous tokenizer; its numbers are compared with the published program in tests/parity."""

import pytest
import torch

from openhart.errors import UserError
from openhart.tokenizer.kl import KLAutoencoder
from tests.tiny import tiny_kl

IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def model():
    return tiny_kl()


@torch.no_grad()
def test_shapes_and_ranges(model):
    found = model.encode(IMAGE).latent_dist
    assert found.mean.shape == found.logvar.shape == (2, 4, 4, 6)
    assert model.decode(100 * model.scaled(found.mean)).abs().max() <= 1
    assert model(IMAGE).sample.shape == IMAGE.shape
    assert torch.equal(model.encode(IMAGE, return_dict=False)[0].mean, found.mean)


@torch.no_grad()
def test_a_sample_follows_its_generator_and_scale(model):
    found = model.encode(IMAGE).latent_dist
    samples = [found.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    other = tiny_kl(latent_scale=0.25)
    assert torch.equal(model.scaled(samples[0]), 2 * other.scaled(samples[0]))
    images = [each.decode(each.scaled(samples[0])) for each in (model, other)]
    torch.testing.assert_close(*images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", [False, True])
def test_only_the_encoder_attends_at_its_coarsest_level_unless_the_decoder_is_to(attention):
    names = tiny_kl(decoder_attention=attention).state_dict()
    attending = {name.rsplit(".qkv.", 1)[0] for name in names if name.endswith(".qkv.weight")}
    expected = {"encoder.levels.4.1", "encoder.middle.1", "decoder.middle.1"}
    assert attending == expected | ({"decoder.levels.0.1"} if attention else set())


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    again = KLAutoencoder.from_pretrained(tmp_path / "model")
    assert again.config.latent_scale == 0.5
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGE).sample, model(IMAGE).sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(18, 24), (16, 2), (0, 24)])
def test_sides_that_do_not_fit(model, size):
    with pytest.raises(UserError, match="multiples of 4"):
        model.encode(torch.zeros(1, 3, *size))
