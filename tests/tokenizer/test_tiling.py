import pytest
import torch

from openhart.errors import UserError
from openhart.tokenizer.tiling import decode_in_tiles
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@torch.no_grad()
def test_one_tile_is_the_whole(tokenizer):
    features = torch.randn(2, 8, 5, 6)
    assert torch.equal(decode_in_tiles(tokenizer, features, tile=6, overlap=2), tokenizer.decode(features))


@pytest.mark.parametrize(("height", "width"), [(7, 7), (13, 5), (6, 16)])
@torch.no_grad()
def test_every_place_is_painted_once_in_all(tokenizer, height, width):
    """With a decoder that paints each place alone, tiles and blending must not show."""

    class Alone:
        coarse = staticmethod(lambda features: features[:, :3])
        fine = staticmethod(lambda h: h.repeat_interleave(8, 2).repeat_interleave(8, 3))

    features = torch.randn(1, 8, height, width).clamp(-1, 1)
    painted = Alone.fine(Alone.coarse(tokenizer.post_quant_conv(features))).clamp(-1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tokenizer._modules, "decoder", Alone)
        found = decode_in_tiles(tokenizer, features, tile=5, overlap=2)
    torch.testing.assert_close(found, painted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_tiles_come_close_to_the_whole(tokenizer):
    features = torch.randn(1, 8, 24, 24)
    whole, tiled = tokenizer.decode(features), decode_in_tiles(tokenizer, features, tile=16, overlap=4)
    assert (whole - tiled).square().mean() < 0.02 * whole.square().mean()


def test_tiles_smaller_than_their_overlap_are_reported(tokenizer):
    with pytest.raises(UserError, match="larger than its overlap"):
        decode_in_tiles(tokenizer, torch.randn(1, 8, 9, 9), tile=4, overlap=4)


def test_a_pipeline_decodes_in_tiles_when_asked(text_pipeline):
    def image():
        call = {"generator": torch.Generator().manual_seed(0), "output_type": "pt"}
        return text_pipeline("a cat", **call).images

    whole = image()
    text_pipeline.enable_tiling(tile=24, overlap=8)
    try:
        tiled = image()
    finally:
        text_pipeline.disable_tiling()
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert torch.equal(image(), whole)
    with pytest.raises(UserError, match="at least 8 pixels"):
        text_pipeline.enable_tiling(tile=4)
