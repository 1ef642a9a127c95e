"""Samples from pipelines of SDXL, Playground v2.5, Stable Diffusion 3, PixArt-Σ and Sana, random weights."""

import json

import pytest
from PIL import Image

from openhart.cli import main
from tests.evaluation.tiny_pipelines import FAMILIES, save_tiny


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_published_class_are_generated_by_the_command(family, tmp_path):
    model = save_tiny(family, tmp_path / family)
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text(
        "\n".join(json.dumps({"tag": "x", "include": [], "prompt": text}) for text in ("a bench", "a cat"))
    )
    command = [
        "evaluate",
        "samples",
        "geneval",
        str(prompts),
        "--model",
        str(model),
        "-o",
        str(tmp_path / "out"),
    ]
    settings = ["height=32", "width=32", "num_inference_steps=2"]
    if family in ("pixart", "sana"):
        settings.append("use_resolution_binning=false")
    command += ["--images-per-prompt", "1", "--quiet", *(f"--set={setting}" for setting in settings)]
    assert main(command) == 0
    images = sorted((tmp_path / "out").glob("*/samples/*.png"))
    assert [image.parts[-3] for image in images] == ["00000", "00001"]
    assert {Image.open(image).size for image in images} == {(32, 32)}
