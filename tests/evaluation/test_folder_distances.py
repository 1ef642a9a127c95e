"""Distances between folders of images, CMMD, and the extractors that need a model of transformers."""

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.distances import evaluate_distances
from openhart.evaluation.image_folders import find_images, read_batches
from openhart.evaluation.metrics.cmmd import cmmd
from openhart.evaluation.networks.extractors import GradientExtractor
from openhart.evaluation.networks.squares import ClipExtractor, DinoExtractor


def write(folder, count, shade, size=(40, 40)):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(shade)
    for index in range(count):
        pixels = random.integers(0, 80, (size[1], size[0], 3)) + shade
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def dino(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=224
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    return str(tmp_path / "dino")


@pytest.fixture
def clip(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14, projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


def test_cmmd_by_brute_force_and_in_closed_form():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(1100, 4)), random.normal(size=(30, 4)) + 1

    def mean(first, second):
        return np.exp(-np.square(first[:, None] - second).sum(axis=2) / 200).mean()

    wanted = 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))
    assert cmmd(one, other).value == pytest.approx(wanted)
    assert cmmd(one, one).value == pytest.approx(0, abs=1e-9)
    points = np.zeros((2, 3)), np.full((2, 3), 2.0)
    assert cmmd(*points).value == pytest.approx(1000 * (2 - 2 * np.exp(-12 / 200)))
    with pytest.raises(UserError, match="same length, got 4 and 3"):
        cmmd(one, other[:, :3])


def test_near_folders_are_nearer_than_far_ones(dino, clip, tmp_path):
    real, near, far = (write(tmp_path / str(shade), 12, shade) for shade in (40, 45, 160))
    gradients = GradientExtractor()
    extractors = {
        "KID": gradients, "FD-DINOv2": DinoExtractor(dino), "CMMD": ClipExtractor(clip),
    }  # fmt: skip
    results = [evaluate_distances(folder, real, extractors, quiet=True) for folder in (real, near, far)]
    for name in extractors:
        same, close, distant = (result.figure(name).value for result in results)
        assert same <= close + 1e-6 < distant, name
        low, high = results[2].figure(name).interval
        assert low < distant < high, name
    figure = results[1].figure("CMMD")
    assert (figure.label, figure.rules["reference_images"]) == ("CMMD@12", 12)
    assert "bicubic to 28" in figure.extractor


def test_embeddings_of_clip_have_unit_length_and_dino_sees_224_pixels(dino, clip):
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    assert np.linalg.norm(ClipExtractor(clip)(images)[0], axis=1) == pytest.approx(1, abs=1e-6)
    assert DinoExtractor(dino)(images)[0].shape == (3, 16)


def test_images_of_mixed_sizes_and_crops(tmp_path):
    write(tmp_path / "a", 3, 10)
    write(tmp_path / "a" / "b", 2, 20, (30, 50))
    paths = find_images(tmp_path / "a")
    assert [batch.shape[:3] for batch in read_batches(paths)] == [(3, 40, 40), (2, 50, 30)]
    result = evaluate_distances(
        tmp_path / "a", tmp_path / "a", {"KID": GradientExtractor()}, ("sana", 32), quiet=True
    )
    assert result.figure("KID").rules["crop"] == "sana to 32"


def test_broken_images_are_refused_or_skipped_and_named(tmp_path):
    folder = write(tmp_path / "a", 4, 10)
    (folder / "9.png").write_bytes(b"broken")
    extractors = {"KID": GradientExtractor()}
    with pytest.raises(UserError, match=r"cannot read .*9\.png"):
        evaluate_distances(folder, folder, extractors, quiet=True)
    result = evaluate_distances(folder, folder, extractors, skip_broken=True, quiet=True)
    assert result.figure("KID").count == 4
    assert len(result.details["skipped"]) == 2
    with pytest.raises(UserError, match="there is no folder"):
        find_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        find_images(tmp_path / "empty")
    with pytest.raises(UserError, match="cannot load a DINOv2 model"):
        DinoExtractor(str(tmp_path / "none"))
