"""HPSv2: prompts by style, means per style and the deviation over groups, with a tiny CLIP."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.evaluation.benchmarks.hps import evaluate_hps, find_styles, on_square
from openhart.evaluation.networks.clip import TransformersClip
from openhart.evaluation.samples.layouts import HPS_STYLES, plan_hps, read_hps
from tests.evaluation.command_line import fails, run
from tests.evaluation.tiny_networks import save_clip


@pytest.fixture
def prompts(tmp_path):
    folder = tmp_path / "benchmark"
    folder.mkdir()
    for style in HPS_STYLES:
        texts = [f"{style} of thing {number}" for number in range(20 if style == "photo" else 2)]
        (folder / f"{style}.json").write_text(json.dumps(texts))
    return folder


@pytest.fixture
def images(prompts, tmp_path):
    """The images of the sampler's layout."""
    random = np.random.default_rng(0)
    for job in plan_hps(prompts).jobs:
        path = tmp_path / "images" / f"{job.path}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 36, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def weights(tmp_path):
    return save_clip(tmp_path / "weights")


def test_styles_are_averaged_and_groups_give_the_deviation(prompts, images, weights):
    styles, model = read_hps(prompts), TransformersClip(str(weights))
    paths = find_styles(images, styles)
    result = evaluate_hps(paths, styles, model, quiet=True)
    values = {
        style: [
            100
            * torch.cosine_similarity(
                model.image_features([on_square(Image.open(path))]), model.text_features([text])
            ).item()
            for path, text in zip(paths[style], texts, strict=True)
        ]
        for style, texts in styles.items()
    }
    for style, scores in values.items():
        figure = result.figure(f"HPSv2.1 {style}")
        assert (figure.value, figure.count) == (pytest.approx(np.mean(scores), abs=1e-3), len(scores))
    overall = result.figure("HPSv2.1")
    assert overall.value == pytest.approx(np.mean([np.mean(scores) for scores in values.values()]), abs=1e-3)
    assert overall.interval[0] < overall.value < overall.interval[1]
    assert (overall.label, overall.extractor) == ("HPSv2.1@26", str(weights))
    groups = np.array(values["photo"]).reshape(10, 2).mean(axis=1)
    assert result.details["deviation_over_groups"]["photo"] == pytest.approx(groups.std(), abs=1e-3)
    assert result.details["complete"] is False


def test_an_image_that_is_no_square_is_padded_with_black():
    square = np.array(on_square(Image.new("RGB", (4, 8), "white")))
    assert square.shape == (8, 8, 3)
    assert square[:, 2:6].min() == 255
    assert square[:, [0, 1, 6, 7]].max() == 0


def test_the_command(capsys, prompts, images, weights, tmp_path):
    command = ("evaluate", "hps", images, "--prompts", prompts, "--weights", weights)
    report = tmp_path / "r.json"
    code, stdout, stderr = run(
        capsys, *command, "--style", "photo", "--hps-version", "2.0", "--quiet", "-o", report
    )
    assert (code, stdout) == (0, ""), stderr
    labels = [figure["label"] for figure in json.loads(report.read_text())["figures"]]
    assert labels == ["HPSv2.0 photo@20", "HPSv2.0@20"]
    fails(capsys, 1, "choose among anime, concept-art, paintings, photo", *command, "--style", "oil")
    (images / "photo" / "00003.jpg").unlink()
    fails(capsys, 1, "has no image for 1 of 26 prompts, such as photo/00003.jpg", *command)
    (images / "anime" / "00000.jpg").write_bytes(b"broken")
    fails(capsys, 1, "00000.jpg as an image", *command, "--style", "anime")
    fails(capsys, 1, "cannot load a CLIP model", *command[:6], tmp_path / "none", "--style", "paintings")
    (prompts / "photo.json").write_text("{}")
    fails(capsys, 1, "must be a list of prompts", *command)
    (prompts / "photo.json").unlink()
    fails(capsys, 1, "give HPSv2's folder benchmark", *command)
