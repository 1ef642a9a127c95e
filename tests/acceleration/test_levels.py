import copy

import pytest
import torch

from openhart.acceleration.levels import LEVELS
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline


def picture(pipeline, **call):
    return pipeline(
        "a red apple", generator=torch.Generator().manual_seed(0), output_type="pt", **call
    ).images


@pytest.fixture
def plain(text_pipeline):
    return text_pipeline


@pytest.fixture
def spare(text_model):
    pipeline = HartPipeline.from_pretrained(text_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_exact_changes_nothing_but_the_time(plain, spare):
    torch.testing.assert_close(picture(spare.optimize("exact")), picture(plain), atol=1e-4, rtol=0)


def test_optimizing_twice_is_optimizing_once(plain, spare):
    found = picture(spare.optimize().optimize())
    torch.testing.assert_close(found, picture(plain), atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_makes_pictures_and_gives_way_to_what_is_asked(spare, level):
    spare.optimize(level)
    assert picture(spare).isfinite().all()
    for name, value in LEVELS[level].sampling.items():
        assert getattr(spare.sampling_settings(), name) == value
    assert spare.sampling_settings(unguided_scales=0).unguided_scales == 0


def test_an_optimized_model_is_saved_as_it_was(plain, spare, tmp_path):
    spare.optimize("exact").save_pretrained(tmp_path / "model")
    loaded = HartPipeline.from_pretrained(tmp_path / "model")
    expected, found = plain.transformer.state_dict(), loaded.transformer.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    decoders = [each.image_tokenizer.state_dict() for each in (plain, loaded)]
    assert all(torch.equal(decoders[1][name], value) for name, value in decoders[0].items())


def test_an_unknown_level_is_reported_and_changes_nothing(plain):
    before = copy.deepcopy(plain.sampling_settings())
    with pytest.raises(UserError, match="exact, fast or fastest"):
        plain.optimize("ludicrous")
    assert plain.sampling_settings() == before
