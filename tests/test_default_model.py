"""The shipped weights, really run: what the prompt says can be seen in the picture."""

import numpy as np
import pytest
import torch

from openhart import HartPipeline


@pytest.fixture(scope="module")
def pipeline():
    pipeline = HartPipeline.from_pretrained()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline, prompt, **call):
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    call = {"num_images_per_prompt": 4, "output_type": "np", "generator": generators} | call
    return pipeline(prompt, **call).images


def middle(images):
    return images[:, 48:80, 48:80].mean(axis=(0, 1, 2))


def edge(images):
    return np.concatenate([images[:, :4, :4], images[:, -4:, -4:]], axis=1).mean(axis=(0, 1, 2))


def test_a_red_apple_is_red_on_white(pipeline):
    images = pictures(pipeline, "a red apple")
    assert images.shape == (4, 128, 128, 3)
    red, green, blue = middle(images)
    assert red > green + 0.2
    assert red > blue + 0.2
    assert edge(images).min() > 0.85


def test_a_background_is_the_colour_it_was_asked_for(pipeline):
    black = pictures(pipeline, "a grinning face on a black background")
    assert edge(black).max() < 0.5
    assert middle(black).argmax() == 0
    red, _, blue = edge(pictures(pipeline, "a red apple on a yellow background"))
    assert red > blue + 0.25


def test_a_green_heart_is_green_and_a_blue_one_blue(pipeline):
    green, blue = (middle(pictures(pipeline, f"a {colour} heart")) for colour in ("green", "blue"))
    assert green.argmax() == 1
    assert blue.argmax() == 2


@pytest.mark.slow
def test_bfloat16_shows_the_same_thing(pipeline):
    try:
        pipeline.to(dtype=torch.bfloat16)
        red, green, blue = middle(pictures(pipeline, "a red apple"))
    finally:
        pipeline.to(dtype=torch.float32)
    assert red > max(green, blue) + 0.2
