"""MJHQ-30K: which images belong together, FID by category and CLIP score, with tiny networks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.mjhq import FRECHET_OF_RESIZE, evaluate_mjhq, find_pairs
from openhart.evaluation.metrics.frechet import frechet_clean_fid, statistics_of
from openhart.evaluation.metrics.resizing import FEATURE_RESIZES, crop_sana
from openhart.evaluation.networks.clip import TransformersClip
from openhart.evaluation.networks.inception import inception_input
from openhart.evaluation.result import check_comparable
from openhart.evaluation.samples.layouts import read_mjhq
from tests.evaluation.command_line import fails, run
from tests.evaluation.tiny_networks import save_clip

CATEGORIES = ("art", "food", "logo")
ENTRIES = {
    f"{category}{number}": {"category": category, "prompt": f"a picture of {category} {number}"}
    for category in CATEGORIES
    for number in range(1 if category == "logo" else 6)
}


class Means:
    """Mean colour and its spread: features of any size of image."""

    name, softmax_weight = "means", None

    def __call__(self, images):
        values = images.astype(float) / 255
        return np.concatenate([values.mean(axis=(1, 2)), values.std(axis=(1, 2))[:, :2]], axis=1), None


@pytest.fixture
def folders(tmp_path):
    """Generated images without sub-folders, references by category, and the published metadata."""
    random = np.random.default_rng(0)
    for item, entry in ENTRIES.items():
        shade = CATEGORIES.index(entry["category"]) * 60
        for path in (
            tmp_path / "made" / f"{item}.jpg",
            tmp_path / "real" / entry["category"] / f"{item}.jpg",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 80, (24, 30, 3)) + shade + (path.parent.name == "made") * 20
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    (tmp_path / "real" / "meta_data.json").write_text(json.dumps(ENTRIES))
    return tmp_path / "made", tmp_path / "real"


def pairs_of(folders):
    return find_pairs(*folders, read_mjhq(folders[1] / "meta_data.json"))


def test_distances_overall_and_by_category(folders):
    pairs = pairs_of(folders)
    assert [pair.real.parent.name for pair in pairs] == [entry["category"] for entry in ENTRIES.values()]
    result = evaluate_mjhq(
        pairs, Means(), crop=("sana to 20", lambda image: crop_sana(image, 20)), quiet=True
    )
    assert [figure.label for figure in result.figures] == ["FD@13", "FD art@6", "FD food@6"]

    def features(paths):
        return Means()(np.stack([np.array(crop_sana(Image.open(path), 20)) for path in paths]))[0]

    food = [pair for pair in pairs if pair.category == "food"]
    wanted = frechet_clean_fid(
        statistics_of(features([pair.made for pair in food])),
        statistics_of(features([pair.real for pair in food])),
    )
    figure = result.figure("FD food")
    assert figure.value == pytest.approx(wanted, abs=1e-9)
    assert figure.interval[0] < figure.value < figure.interval[1]
    assert figure.rules == {"frechet": "clean-fid", "crop": "sana to 20", "reference_images": 6}
    other = evaluate_mjhq(pairs, Means(), frechet="guided-diffusion", quiet=True)
    with pytest.raises(UserError, match="crop is sana to 20 in one, none in another"):
        check_comparable([result.figure("FD"), other.figure("FD")])


def test_the_clip_score_is_the_mean_of_100_cosines(folders, tmp_path):
    clip = TransformersClip(str(save_clip(tmp_path / "clip")))
    pairs = pairs_of(folders)
    score = evaluate_mjhq(pairs, Means(), clip=clip, quiet=True).figure("CLIP score")
    cosines = [
        torch.cosine_similarity(
            clip.image_features([Image.open(pair.made)]), clip.text_features([pair.prompt])
        ).item()
        for pair in pairs
    ]
    assert score.value == pytest.approx(100 * np.mean(cosines), abs=1e-3)
    assert score.extractor == str(tmp_path / "clip")
    assert score.interval[0] < score.value < score.interval[1]


def test_broken_and_missing_images_are_named_and_counted(folders):
    made, real = folders
    (real / "food" / "food2.jpg").write_bytes(b"broken")
    pairs = pairs_of(folders)
    with pytest.raises(UserError, match=r"cannot read .*food2\.jpg"):
        evaluate_mjhq(pairs, Means(), quiet=True)
    result = evaluate_mjhq(pairs, Means(), skip_broken=True, quiet=True)
    assert [figure.label for figure in result.figures] == ["FD@12", "FD art@6", "FD food@5"]
    assert len(result.details["skipped"]) == 1
    Image.new("RGB", (8, 9)).save(made / "art5.jpg")
    with pytest.raises(UserError, match=r"art5\.jpg is 8×9: crop them"):
        evaluate_mjhq(pairs, Means(), skip_broken=True, quiet=True)
    (made / "art3.jpg").unlink()
    (made / "art4.jpg").unlink()
    with pytest.raises(UserError, match=r"has no image for 2 of 13 prompts, such as art3\.jpg"):
        pairs_of(folders)


@pytest.mark.parametrize("rule", FEATURE_RESIZES)
def test_inception_sees_images_by_the_rule_and_in_its_range(rule):
    ends = np.stack([np.zeros((20, 40, 3), np.uint8), np.full((20, 40, 3), 255, np.uint8)])
    seen = inception_input(ends, rule)
    top = 1.0 if rule == "legacy-pytorch" else 127 / 128
    assert seen.shape == (2, 3, 299, 299)
    assert seen.flatten(1).amax(dim=1).tolist() == pytest.approx([-1, top])
    assert rule in FRECHET_OF_RESIZE


@pytest.mark.slow
def test_the_command(capsys, folders, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    made, real = folders
    clip = save_clip(tmp_path / "clip")
    command = ("evaluate", "mjhq", made, "--reference", real, "--extractor", "efficientnet")
    report = tmp_path / "r.json"
    small = ("--category", "art", "--category", "food", "--count", "8")
    code, stdout, stderr = run(capsys, *command, *small, "--clip", clip, "--quiet", "-o", report)
    assert (code, stdout) == (0, ""), stderr
    stored = json.loads(report.read_text())
    labels = [figure["label"] for figure in stored["figures"]]
    assert labels == ["FD@8", "FD art@6", "FD food@2", "CLIP score@8"]
    assert stored["details"]["complete"] is False
    fails(capsys, 2, "--resize and --weights belong to Inception", *command, "--resize", "clean")
    fails(capsys, 2, "are given together", *command, "--crop", "sana")
    fails(capsys, 1, "choose among art, food, logo", *command, "--category", "cars")
    fails(capsys, 1, "there is no folder", "evaluate", "mjhq", tmp_path / "none", *command[3:])
    none = ("--metadata", tmp_path / "none.json")
    fails(capsys, 1, "there is no file", *command, *none)
    fails(capsys, 1, "cannot load a CLIP model", *command, "--clip", tmp_path / "none")
