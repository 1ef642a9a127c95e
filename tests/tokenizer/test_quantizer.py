import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openhart.errors import UserError
from openhart.tokenizer.quantizer import MultiScaleQuantizer

side = st.integers(1, 6)


@st.composite
def any_scales(draw):
    last = draw(st.tuples(side, side))
    coarser = draw(st.lists(st.tuples(st.integers(1, last[0]), st.integers(1, last[1])), max_size=3))
    return [list(size) for size in [*sorted(coarser), last]]


def quantizer_for(scales, **settings):
    torch.manual_seed(0)
    return MultiScaleQuantizer(scales, codebook_size=16, code_dim=4, **settings)


@settings(max_examples=40, deadline=None)
@given(any_scales(), st.sampled_from([0, 1, 3, 4]), st.booleans())
def test_codes_and_residual_restore_the_features(scales, phi_count, cosine):
    quantizer = quantizer_for(scales, phi_count=phi_count, normalize_codes=cosine)
    features = torch.randn(2, 4, *quantizer.size)
    found = quantizer.quantize(features)
    last = len(scales) - 1
    embedding = quantizer.lookup(found.codes[-1])
    residual = found.continuous_target.flatten(2).transpose(1, 2) - embedding
    before = found.f_hats[last - 1] if last else quantizer.empty(2, torch.device("cpu"))
    restored = quantizer.add_scale(before, embedding + residual, last, apply_phi=False)
    torch.testing.assert_close(restored, features, atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(any_scales(), st.sampled_from([0, 1, 4]))
def test_decoding_the_codes_gives_what_encoding_kept(scales, phi_count):
    quantizer = quantizer_for(scales, phi_count=phi_count)
    found = quantizer.quantize(torch.randn(2, 4, *quantizer.size))
    torch.testing.assert_close(quantizer.decode(found.codes), found.f_hats[-1], atol=1e-5, rtol=0)


def test_transformer_inputs_are_the_features_so_far():
    quantizer = quantizer_for([1, 2, [2, 3], 4])
    found = quantizer.quantize(torch.randn(2, 4, 4, 4))
    steps = [quantizer.next_input(f_hat, k + 1) for k, f_hat in enumerate(found.f_hats[:-1])]
    expected = torch.cat(steps, dim=1)
    torch.testing.assert_close(quantizer.code_inputs(found.codes), expected, atol=1e-5, rtol=0)


def test_each_vector_takes_its_nearest_code():
    quantizer = quantizer_for([3])
    tokens = torch.randn(2, 9, 4)
    distances = torch.cdist(tokens, quantizer.codebook.weight[None])
    assert torch.equal(quantizer.nearest(tokens), distances.argmin(dim=-1))


def test_cosine_codes_ignore_length():
    quantizer = quantizer_for([3], normalize_codes=True)
    tokens = torch.randn(2, 9, 4)
    assert torch.equal(quantizer.nearest(tokens), quantizer.nearest(tokens * 7))


@pytest.mark.parametrize(
    ("scales", "word"),
    [
        ([], "list"),
        ([1, 0, 4], "1 to 1024"),
        ([1, 8, 4], "largest"),
        ("124", "list"),
        ([1.5], "side"),
    ],
)
def test_impossible_scales_are_reported(scales, word):
    with pytest.raises(UserError, match=word):
        quantizer_for(scales)


@settings(max_examples=20, deadline=None)
@given(any_scales(), st.tuples(side, side))
def test_features_of_another_size_get_scales_in_proportion(scales, size):
    quantizer = quantizer_for([1, *scales])
    features = torch.randn(1, 4, *size)
    found = quantizer.quantize(features)
    assert quantizer.scales_for(size)[-1] == size
    assert [codes.shape[1] for codes in found.codes] == [h * w for h, w in quantizer.scales_for(size)]
    torch.testing.assert_close(quantizer.decode(found.codes, size), found.f_hats[-1], atol=1e-5, rtol=0)
    assert quantizer.size == tuple(scales[-1])  # the configured scales are as they were
