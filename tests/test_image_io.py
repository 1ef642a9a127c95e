"""Tensors ↔ images: levels survive the way there and back, grids and files hold what they were given."""

import numpy as np
import torch
from PIL import Image

from openhart.image_io import from_bytes, grid, save_image, to_bytes, to_pil


def test_every_level_survives_the_way_to_a_tensor_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = from_bytes(levels)
    assert images.shape == (1, 3, 16, 16)
    assert (images.min(), images.max()) == (-1, 1)
    assert np.array_equal(to_bytes(images), levels)
    assert torch.equal(from_bytes(levels[0]), images[0])
    assert np.array_equal(np.array(to_pil(images)[0]), levels[0])


def test_a_grid_is_filled_row_by_row_and_saved_by_its_suffix(tmp_path):
    colours = ["red", "lime", "blue", "white"]
    sheet = grid([Image.new("RGB", (8, 8), colour) for colour in colours], columns=2)
    assert sheet.size == (16, 16)
    corners = [sheet.getpixel(place) for place in ((0, 0), (15, 0), (0, 15), (15, 15))]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for suffix, kind in ((".png", "PNG"), (".JPG", "JPEG"), (".webp", "WEBP")):
        save_image(sheet, tmp_path / f"sheet{suffix}")
        assert Image.open(tmp_path / f"sheet{suffix}").format == kind
