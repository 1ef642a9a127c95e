import math

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.metrics.pixels import SSIM_RULES, mean_psnr, psnr_each
from openhart.evaluation.metrics.resizing import CROPS, FEATURE_RESIZES, crop_adm
from openhart.image_io import to_bytes
from tests.evaluation.recorded import arrays, told

CASES, ARRAYS = told("picture_cases")["cases"], arrays("picture_cases")


def cases(kind):
    return [pytest.param(case, id=str(case["id"])) for case in CASES if case["kind"] == kind]


@pytest.mark.parametrize("case", cases("crop"))
def test_adm_crop_as_recorded(case):
    name = f"crop.{case['id']}"
    cut = crop_adm(Image.fromarray(ARRAYS[f"{name}.image"]), case["size"])
    assert np.array_equal(np.array(cut), ARRAYS[f"{name}.adm"])


@pytest.mark.parametrize("case", cases("resize"))
@pytest.mark.parametrize("rule", FEATURE_RESIZES)
def test_resizing_for_features_as_recorded(case, rule):
    name, key = f"resize.{case['id']}", rule.replace("-", "_")
    image = torch.from_numpy(ARRAYS[f"{name}.image"]).permute(2, 0, 1)[None]
    resized = FEATURE_RESIZES[rule](image, 299)[0].permute(1, 2, 0).numpy()
    rows, columns = ARRAYS["resize.points"].T
    assert np.abs(resized[rows, columns] - ARRAYS[f"{name}.{key}"]).max() <= 0.255
    assert resized.astype(float).mean() == pytest.approx(case["mean_of_whole"][key], abs=0.01)


@pytest.mark.parametrize("case", cases("reconstruction"))
def test_distances_of_reconstructions_as_recorded(case):
    name = f"reconstruction.{case['id']}"
    pair = ARRAYS[f"{name}.reconstruction"], ARRAYS[f"{name}.original"]
    assert psnr_each(*pair) == pytest.approx(case["psnr_each"], abs=1e-4)
    assert mean_psnr(*pair) == pytest.approx(case["psnr_mean_of_images"], abs=1e-4)
    got = {rule: compute(*pair).mean() for rule, compute in SSIM_RULES.items()}
    assert got == {
        "torchmetrics": pytest.approx(case["ssim_torchmetrics_255"], abs=1e-4),
        "skimage": pytest.approx(case["skimage_ssim_data_range_1"], abs=1e-4),
        "llamagen": pytest.approx(case["llamagen_ssim_data_range_2"], abs=1e-4),
    }


def test_bytes_are_rounded_or_truncated():
    levels = torch.tensor([-1.2, -1, -0.999, 0, 0.9999, 1, 3]).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert to_bytes(levels)[0, 0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]
    assert to_bytes(levels, "truncate")[0, 0, :, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]
    with pytest.raises(UserError, match="round, truncate"):
        to_bytes(levels, "up")


def test_a_byte_survives_the_way_to_floats_and_back():
    stored = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1).repeat(3, axis=3)
    images = torch.from_numpy(stored).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert np.array_equal(to_bytes(images), stored)


def test_identical_pictures_have_no_finite_ratio():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    other = pictures.copy()
    other[1, 0, 0] ^= 1
    assert psnr_each(other, pictures)[0] == math.inf
    assert mean_psnr(other, pictures) == pytest.approx(10 * math.log10(255**2 * 81))
    assert mean_psnr(pictures, pictures) == math.inf
    for rule, compute in SSIM_RULES.items():
        assert compute(pictures, pictures) == pytest.approx([1, 1]), rule


def test_what_cannot_be_compared_is_refused():
    pictures = np.zeros((1, 9, 9, 3), np.uint8)
    with pytest.raises(UserError, match="the same shape"):
        mean_psnr(pictures, pictures[:, :8])
    with pytest.raises(UserError, match="must be uint8"):
        mean_psnr(pictures.astype(float), pictures.astype(float))
    with pytest.raises(UserError, match="at least 7 pixels"):
        SSIM_RULES["skimage"](pictures[:, :6], pictures[:, :6])


@pytest.mark.parametrize("rule", CROPS)
@pytest.mark.parametrize("size", [(50, 31), (31, 50), (7, 9), (16, 16)])
def test_every_crop_gives_a_square(rule, size):
    image = Image.radial_gradient("L").convert("RGB").resize(size)
    assert CROPS[rule](image, 16).size == (16, 16)


def test_crops_show_fields_of_different_width():
    image = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    first = {rule: np.array(crop(image, 32))[0, 0, 0] for rule, crop in CROPS.items()}
    assert first["var"] > first["adm"] + 5  # VAR cuts off a margin
    assert first["sana"] == pytest.approx(first["switti"], abs=2)
