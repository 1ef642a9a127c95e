import pytest
import torch

from openhart.tokenizer.exchange import exchange_codes
from openhart.training.tokenizer.nearest.decoder_inputs import decoder_features, draw_decoder_inputs
from openhart.training.tokenizer.nearest.recipe import CodePhase
from tests.tiny import tiny_tokenizer

BATCH = 8


@pytest.fixture
def encoded():
    quantizer = tiny_tokenizer().quantizer
    features = torch.randn(BATCH, 8, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    return quantizer, features, quantizer.quantize(features)


def drawn(quantizer, **settings):
    phase = CodePhase(name="a", steps=1, **settings)
    return draw_decoder_inputs(phase, quantizer, BATCH, torch.Generator().manual_seed(3))


def test_a_share_of_the_samples_is_decoded_from_codes_and_the_rest_from_complete_features(encoded):
    quantizer, features, quantized = encoded
    inputs = drawn(quantizer, discrete_share=0.25)
    given = decoder_features(features, quantized, quantizer, inputs)
    from_codes = [torch.allclose(a, b) for a, b in zip(given, quantized.f_hats[-1], strict=True)]
    complete = [torch.equal(a, b) for a, b in zip(given, features, strict=True)]
    assert sum(from_codes) == 2
    assert [not one for one in from_codes] == complete


def test_gradients_pass_to_the_features_unchanged(encoded):
    quantizer, features, quantized = encoded
    inputs = drawn(
        quantizer, discrete_share=0.5, random_residual=True, scale_dropout=0.5, exchange={"pictures": 1.0}
    )
    weight = torch.randn_like(features)
    (decoder_features(features, quantized, quantizer, inputs) * weight).sum().backward()
    assert torch.allclose(features.grad, weight)


def test_a_random_residual_lies_between_codes_and_complete_features(encoded):
    quantizer, features, quantized = encoded
    inputs = drawn(quantizer, discrete_share=0.0, random_residual=True)
    given = decoder_features(features, quantized, quantizer, inputs)
    whole = features - quantized.f_hats[-1]
    shares = ((given - quantized.f_hats[-1]) * whole).sum((1, 2, 3)) / whole.square().sum((1, 2, 3))
    assert torch.allclose(shares, inputs.residual_share, atol=1e-5)
    assert shares.min() > 0
    assert shares.max() < 1
    assert shares.std() > 0.1


def test_dropped_scales_leave_the_coarse_ones(encoded):
    quantizer, features, quantized = encoded
    inputs = drawn(quantizer, discrete_share=1.0, scale_dropout=1.0)
    assert len(set(inputs.scales.tolist())) > 1
    given = decoder_features(features, quantized, quantizer, inputs)
    for row, scales in enumerate(inputs.scales.tolist()):
        assert torch.allclose(given[row], quantized.f_hats[scales - 1][row], atol=1e-6)


def test_exchanged_codes_are_the_neighbours_of_their_rank():
    quantizer = tiny_tokenizer().quantizer
    codes = torch.tensor([[0, 5, 9], [31, 5, 2]])
    ranks = torch.tensor([[0, 1, 31], [4, 0, 2]])
    found = exchange_codes(quantizer, codes, ranks)
    table = quantizer.codebook.weight
    for code, rank, new in zip(codes.flatten(), ranks.flatten(), found.flatten(), strict=True):
        nearer = (table - table[code]).norm(dim=1) < (table[new] - table[code]).norm()
        assert nearer.sum() == rank


def test_only_the_share_of_pictures_that_is_asked_for_gets_other_codes(encoded):
    quantizer, *_ = encoded
    inputs = drawn(quantizer, discrete_share=1.0, exchange={"pictures": 0.5, "codes": 1.0, "nearest": 3})
    changed = (inputs.ranks > 0).any(dim=1)
    assert 0 < changed.sum() < BATCH
    assert inputs.ranks.max() <= 3
