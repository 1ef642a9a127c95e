"""Generators of the sibling families: they learn, resume to the bit, and load as pipelines."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import openhart
from openhart.training.generator import train as generator
from tests.tiny import tiny_kl, tiny_tokenizer, tiny_vqgan_tokenizer
from tests.training.corpus import draw_corpus, logged, pictures, run_section, write_recipe
from tests.training.test_runs import stop_at

TOKENIZERS = {
    "hart": tiny_tokenizer,
    "masked": lambda: tiny_kl(latent_channels=4, latent_scale=1.0),
    "raster": lambda: tiny_vqgan_tokenizer(channel_multipliers=(1, 1, 2), scales=[8]),
}
MODELS = {
    "masked": {
        "kind": "masked", "encoder_depth": 2, "decoder_depth": 2, "width": 64, "num_heads": 2,
        "size": [8, 8], "patch_size": 2, "buffer_tokens": 8, "dropout": 0.1,
    },
    "raster": {"kind": "raster", "depth": 2, "width": 64, "num_heads": 2},
}  # fmt: skip
SECTIONS = {
    "masked": {
        "diffusion_head": {"width": 48, "depth": 2, "repeats": 2},
        "sampling": {"num_inference_steps": 4, "diffusion_steps": 5},
    },
    "raster": {"random_codes": 0.1},
}
LABELS = {"conditioning": {"kind": "label", "num_classes": 8}, "sample_labels": [0, 3]}
TEXTS = {"conditioning": {"max_tokens": 8}, "sample_prompts": ["a red circle"]}
NOTHING = {"conditioning": {"kind": "none"}, "sample_labels": [0, 0]}
CASES = [
    ("masked", LABELS, {"class_labels": 3}),
    ("masked", TEXTS, {"prompt": "a red circle"}),
    ("raster", LABELS, {"class_labels": 3}),
    ("raster", TEXTS, {"prompt": "a red circle"}),
    ("raster", NOTHING, {}),
]
FREQUENT = {"save_every": 1, "sample_every": 2, "accumulation": 2}
LEARNED = {"masked": ("diffusion", 0.85), "raster": ("cross_entropy", 0.7)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    for kind, make in TOKENIZERS.items():
        make().save_pretrained(root / kind)
    return root


@pytest.fixture
def write(corpus, tokenizers, tmp_path):
    def make(kind, name="run", steps=2, run=(), **values):
        recipe = {
            "run": run_section(tmp_path / name, ema_decay=0.9, **{"sample_every": steps, **dict(run)}),
            "data": {"train": str(corpus), "batch_size": 8, "workers": 0},
            "tokenizer": str(tokenizers / kind),
            "steps": steps,
            "model": MODELS[kind],
            "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5, "weight_decay": 0.01},
            **SECTIONS[kind],
            **values,
        }
        return write_recipe(tmp_path / f"{name}.yaml", recipe)

    return make


def image_of(folder, **condition):
    pipeline = openhart.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(**condition, generator=torch.Generator().manual_seed(0)).images[0]
    return pipeline, image


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "condition", "call"), CASES)
def test_a_run_learns_and_its_pipeline_makes_images(write, tmp_path, kind, condition, call):
    folder = generator.train(write(kind, steps=60, **condition), quiet=True)
    name, share = LEARNED[kind]
    values = logged(tmp_path / "run", name)
    assert np.mean(values[-5:]) < share * np.mean(values[:3])
    assert "samples" in pictures(tmp_path / "run")
    _, image = image_of(folder, **call)
    assert image.size == (32, 32)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "condition"), [("masked", LABELS), ("raster", TEXTS)])
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_a_resumed_run_has_the_same_losses_and_weights_to_the_bit(write, tmp_path, kind, condition, cache):
    found = []
    for name, stops in (("whole", []), ("stopped", [2, 4])):
        recipe = write(kind, name, steps=6, **condition, cache=cache, run=FREQUENT)
        for step in stops:
            stop_at(generator, recipe, step)
        folder = generator.train(recipe, quiet=True)
        weights = [load_file(path) for path in sorted(folder.rglob("*.safetensors"))]
        found.append((logged(tmp_path / name, "loss"), logged(tmp_path / name, "gradient_norm"), weights))
    assert found[0][:2] == found[1][:2]
    for whole, stopped in zip(found[0][2], found[1][2], strict=True):
        assert all(torch.equal(whole[name], stopped[name]) for name in whole)
