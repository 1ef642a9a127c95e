import json

import pytest
import torch

from openhart.errors import UserError
from openhart.tokenizer.model import HybridTokenizer
from tests.tiny import tiny_tokenizer


@pytest.mark.parametrize("patch_size", [1, 4])
@pytest.mark.parametrize("scales", [[4], [1, 2, 4], [1, [2, 3], [4, 6]]])
def test_image_to_features_and_back(patch_size, scales):
    tokenizer = tiny_tokenizer(patch_size=patch_size, scales=scales, attention=patch_size == 1)
    image = torch.rand(2, 3, *tokenizer.image_size) * 2 - 1
    features = tokenizer.encode(image)
    assert features.shape == (2, 8, *tokenizer.quantizer.size)
    for made in (tokenizer(image).sample, tokenizer(image, discrete=True).sample):
        assert made.shape == image.shape
        assert made.abs().max() <= 1


def test_saved_and_loaded_is_the_same(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = HybridTokenizer.from_pretrained(tmp_path)
    image = torch.rand(1, 3, *tokenizer.image_size) * 2 - 1
    assert torch.equal(loaded(image).sample, tokenizer(image).sample)
    assert loaded.config.scales == tokenizer.config.scales


def test_sides_that_do_not_divide_are_reported():
    with pytest.raises(UserError, match="multiples of 8"):
        tiny_tokenizer().encode(torch.zeros(1, 3, 30, 32))


def test_widths_that_do_not_fit_are_reported():
    with pytest.raises(UserError, match="multiple of 32"):
        tiny_tokenizer(base_channels=48)


def test_a_model_saved_before_the_rule_for_phi_keeps_its_behaviour(tmp_path):
    tiny_tokenizer(phi_at_last_scale="never").save_pretrained(tmp_path)
    assert HybridTokenizer.from_pretrained(tmp_path).quantizer.phi_at_last_scale == "never"
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["phi_at_last_scale"]
    path.write_text(json.dumps(config))
    loaded = HybridTokenizer.from_pretrained(tmp_path)
    assert loaded.quantizer.phi_at_last_scale == loaded.config.phi_at_last_scale == "without_head"


def test_an_unknown_rule_for_phi_is_refused():
    with pytest.raises(UserError, match="phi_at_last_scale must be 'without_residual', 'never' or"):
        tiny_tokenizer(phi_at_last_scale="always")
