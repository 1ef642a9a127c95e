"""What every image tokenizer offers, whatever its family."""

import json

import pytest
import torch
from PIL import Image

from openhart.cli import main
from openhart.errors import UserError
from openhart.model_files import load_image_tokenizer
from tests.tiny import tiny_kl, tiny_tokenizer, tiny_vqgan_tokenizer

FAMILIES = {
    "hybrid": (tiny_tokenizer, {}, ["codes only", "complete features"]),
    "var": (tiny_tokenizer, {"hybrid": False}, ["codes only"]),
    "vqgan": (tiny_vqgan_tokenizer, {}, ["codes only"]),
    "gumbel": (tiny_vqgan_tokenizer, {"quantizer_kind": "gumbel"}, ["codes only"]),
    "kl": (tiny_kl, {}, ["mean of the latents"]),
}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    make, settings, names = FAMILIES[request.param]
    tokenizer = make(**settings)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tokenizer, tmp_path / "tokenizer", names


@torch.no_grad()
def test_one_call_loads_and_decodes_each(family):
    tokenizer, folder, names = family
    loaded = load_image_tokenizer(folder)
    assert type(loaded) is type(tokenizer)
    assert loaded.image_size == tokenizer.image_size
    image = torch.rand(2, 3, *loaded.image_size) * 2 - 1
    versions = loaded.versions(image)
    assert list(versions) == names
    for features in versions.values():
        assert features.shape[-2:] == loaded.feature_size(loaded.image_size)
        assert loaded.decode(features).shape == image.shape
        assert loaded.decode(features).abs().max() <= 1
    torch.testing.assert_close(
        loaded.decode(versions[names[-1]]), tokenizer.decode(tokenizer.versions(image)[names[-1]])
    )


@torch.no_grad()
def test_images_of_another_size_are_accepted_and_odd_ones_refused(family):
    tokenizer, _, names = family
    sides = tuple(2 * side for side in tokenizer.image_size)
    versions = tokenizer.versions(torch.zeros(1, 3, *sides))
    assert tokenizer.decode(versions[names[0]]).shape[-2:] == sides
    with pytest.raises(UserError, match=f"multiples of {tokenizer.downsample_factor}"):
        tokenizer.versions(torch.zeros(1, 3, sides[0] + 1, sides[1]))


def test_it_is_described_and_tried_on_the_command_line(family, tmp_path, capsys):
    tokenizer, folder, names = family
    height, width = tokenizer.image_size
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    for part in (type(tokenizer).__name__, f"{height}×{width} pixels", f"{tokenizer.num_parameters():,}"):
        assert part in shown
    Image.new("RGB", (width, height), "teal").save(tmp_path / "photo.png")
    command = ["reconstruct", str(tmp_path / "photo.png"), "-o", str(tmp_path / "pair.png")]
    assert main([*command, "--model", str(folder)]) == 0
    assert Image.open(tmp_path / "pair.png").size == (2 * width, height)
    assert main([*command, "--model", str(folder), "--discrete"]) == int("codes only" not in names)


def test_another_class_is_refused(tmp_path):
    tiny_kl().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "Harmful"}))
    with pytest.raises(
        UserError, match="must be of the class HybridTokenizer, VqganTokenizer or KLAutoencoder"
    ):
        load_image_tokenizer(tmp_path)
