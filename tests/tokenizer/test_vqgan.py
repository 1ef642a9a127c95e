import pytest
import torch

from openhart.errors import UserError
from openhart.tokenizer.gumbel import GumbelQuantizer
from openhart.tokenizer.vqgan import VqganTokenizer
from tests.tiny import tiny_vqgan_tokenizer

KINDS = ["nearest", "gumbel"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_image_to_codes_and_back_in_any_size(kind, size):
    tokenizer = tiny_vqgan_tokenizer(quantizer_kind=kind)
    image = torch.rand(2, 3, *size) * 2 - 1
    codes = tokenizer.quantize(tokenizer.encode(image)).codes
    assert codes[0].shape == (2, size[0] * size[1] // 4)
    made = tokenizer.decode_codes(codes, size)
    assert made.shape == image.shape
    torch.testing.assert_close(made, tokenizer(image, discrete=True).sample)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same(tmp_path, kind):
    tokenizer = tiny_vqgan_tokenizer(quantizer_kind=kind)
    tokenizer.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    loaded = VqganTokenizer.from_pretrained(tmp_path)
    assert torch.equal(loaded(image, discrete=True).sample, tokenizer(image, discrete=True).sample)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_codes_are_the_same_while_weights_come_in_groups(tmp_path, kind):
    tokenizer = tiny_vqgan_tokenizer(quantizer_kind=kind)
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    expected = tokenizer(image, discrete=True).sample
    tokenizer.enable_group_offload(
        torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path),
    )
    torch.testing.assert_close(tokenizer(image, discrete=True).sample, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": [1, 4]}, "must have one entry"),
        ({"attention_levels": [2]}, "must be among the 2 levels 0 … 1"),
        ({"quantizer_kind": "cosine"}, "quantizer_kind must be 'nearest' or 'gumbel'"),
        ({"base_channels": 48}, "multiple of 32"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        tiny_vqgan_tokenizer(**settings)


@pytest.fixture
def gumbel():
    torch.manual_seed(0)
    return GumbelQuantizer([64], codebook_size=8, code_dim=3)


def same_features(quantizer):
    return torch.randn(1, 3, 1, 1).expand(-1, -1, *quantizer.size).clone().requires_grad_()


def test_gumbel_draws_codes_by_their_probabilities(gumbel):
    features = same_features(gumbel)
    sampled = gumbel.sample(features, torch.rand(1, 4096, 8))
    shares = gumbel.projection(features[0, :, 0, 0]).softmax(dim=-1)
    frequencies = torch.bincount(sampled.codes[0], minlength=8) / 4096
    assert (frequencies - shares).abs().max() < 4 * (0.25 / 4096) ** 0.5
    torch.testing.assert_close(sampled.features, gumbel.decode([sampled.codes]))
    assert torch.equal(gumbel.quantize(features).codes[0].unique(), shares.argmax()[None])


def test_the_divergence_of_gumbel_is_that_to_the_uniform_distribution(gumbel):
    features = same_features(gumbel)
    sampled = gumbel.sample(features, torch.rand(1, 4096, 8))
    shares = gumbel.projection(features[0, :, 0, 0]).softmax(dim=-1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(shares), torch.distributions.Categorical(torch.ones(8))
    )
    torch.testing.assert_close(sampled.divergence, expected)


def test_gumbel_passes_gradients_to_features_and_projection(gumbel):
    features = same_features(gumbel)
    gumbel.sample(features, torch.rand(1, 4096, 8), temperature=0.5).features.square().sum().backward()
    for tensor in (features, gumbel.projection.weight, gumbel.codebook.weight):
        assert tensor.grad.abs().sum() > 0
