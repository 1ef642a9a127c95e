"""The levels on families beside HART; those of HART are in test_levels.py."""

import copy

import pytest
import torch

from openhart.acceleration.packed import pack
from openhart.arithmetic import fastest_dtype
from openhart.errors import UserError
from openhart.onednn import packs
from tests.tiny import tiny_masked_transformer, tiny_raster

SIBLINGS = ["text_mar_pipeline", "text_vqgan_pipeline"]


@pytest.fixture(params=SIBLINGS)
def plain(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def spare(plain):
    """The same pipeline with weights of its own."""
    settings = {"sampling": plain.config.sampling, "text_encoder_name": plain.config.text_encoder_name}
    found = type(plain)(**copy.deepcopy(plain.components), **settings)
    found.set_progress_bar_config(disable=True)
    return found


def features(pipeline):
    generator = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return pipeline(["a cat", "a dog"], generator=generator, output_type="latent").images


def pictures(pipeline):
    generator = torch.Generator().manual_seed(3)
    return pipeline("a cat", generator=generator, output_type="pt").images


def test_exact_changes_nothing_but_the_time(plain, spare):
    spare.optimize("exact")
    torch.testing.assert_close(features(spare), features(plain), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pictures(spare), pictures(plain), atol=1e-4, rtol=1e-4)


def test_fast_makes_pictures_and_there_is_no_fastest(plain, spare):
    with pytest.raises(UserError, match="the level must be exact or fast, got 'fastest'"):
        spare.optimize("fastest")
    assert torch.equal(pictures(spare), pictures(plain))
    spare.optimize("fast")
    assert spare.transformer.dtype == fastest_dtype(torch.device("cpu"))
    assert pictures(spare).shape == pictures(plain).shape
    assert spare.sampling_settings() == plain.sampling_settings()


def test_an_optimized_model_is_saved_as_it_was(plain, spare, tmp_path):
    spare.optimize("exact").save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path)
    for name in plain.components:
        if isinstance(part := getattr(plain, name), torch.nn.Module):
            found, expected = getattr(loaded, name).state_dict(), part.state_dict()
            assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.skipif(not packs(torch.float32), reason="packing is oneDNN's")
@torch.no_grad()
def test_packed_blocks_have_the_exact_gelu():
    """Its tanh form differs by 5e-4."""
    for plain, given in (
        (tiny_masked_transformer(), (torch.randn(2, 24, 4), torch.tensor([[1, 5], [0, 23]]))),
        (tiny_raster(), (torch.randint(32, (2, 9)),)),
    ):
        packed = copy.deepcopy(plain)
        pack(packed)
        context = torch.randn(2, 1, 32)
        rest = (context, torch.ones(2, 1, dtype=torch.bool)) if len(given) == 2 else (context,)
        outputs = [model(*given, *rest).hidden_states for model in (packed, plain)]
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
