import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from openhart.acceleration.decoder import TransposedUpsample, speed_up_decoder
from openhart.tokenizer.autoencoder import Upsample
from tests.tiny import tiny_tokenizer


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
@torch.no_grad()
def test_the_transposed_form_doubles_and_convolves(channels, height, width):
    upsample, x = Upsample(channels), torch.randn(2, channels, height, width)
    torch.testing.assert_close(TransposedUpsample(upsample)(x), upsample(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_faster_decoder_paints_the_same_picture(dtype):
    plain = tiny_tokenizer().to(dtype)
    faster = copy.deepcopy(plain)
    speed_up_decoder(faster.decoder)
    assert any(isinstance(module, TransposedUpsample) for module in faster.modules())
    features = torch.randn(2, 8, 4, 5).to(dtype)
    images = plain.decode(features), faster.decode(features)
    assert F.mse_loss(images[1].float(), images[0].float()) < (1e-12 if dtype == torch.float32 else 1e-4)
    assert faster.state_dict().keys() == plain.state_dict().keys()
