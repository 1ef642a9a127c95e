"""Generators of the sibling families: they learn, resume to the bit, and load as pipelines."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import openhart
from openhart.cli import main
from openhart.data import collate
from openhart.image_io import to_bytes
from openhart.training.dry_run import dry_run
from openhart.training.generator import data as generator_data
from openhart.training.generator import train as generator
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.recipes import load_recipe
from tests.tiny import tiny_kl, tiny_tokenizer, tiny_vqgan_tokenizer
from tests.training.corpus import draw_corpus, logged, pictures, run_section, write_recipe
from tests.training.test_runs import stop_at

TOKENIZERS = {
    "hart": tiny_tokenizer,
    "masked": lambda: tiny_kl(latent_scale=1.0, image_size=(32, 32)),
    "raster": lambda: tiny_vqgan_tokenizer(channel_multipliers=(1, 1, 2), scales=[8]),
}
MODELS = {
    "masked": {
        "kind": "masked", "encoder_depth": 2, "decoder_depth": 2, "width": 64, "num_heads": 2,
        "patch_size": 2, "buffer_tokens": 8, "dropout": 0.1,
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
    folder = generator.train(write(kind, steps=40, **condition), quiet=True)
    name, share = LEARNED[kind]
    values = logged(tmp_path / "run", name)
    assert np.mean(values[-5:]) < share * np.mean(values[:3])
    assert "samples" in pictures(tmp_path / "run")
    _, image = image_of(folder, **call)
    assert image.size == (32, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "condition", "cache"), [("masked", LABELS, "memory"), ("raster", TEXTS, "none")]
)
def test_a_resumed_run_has_the_same_losses_and_weights_to_the_bit(write, tmp_path, kind, condition, cache):
    found = []
    for name, stops in (("whole", []), ("stopped", [2])):
        recipe = write(kind, name, steps=4, **condition, cache=cache, run=FREQUENT)
        for step in stops:
            stop_at(generator, recipe, step)
        folder = generator.train(recipe, quiet=True)
        weights = [load_file(path) for path in sorted(folder.rglob("*.safetensors"))]
        found.append((logged(tmp_path / name, "loss"), logged(tmp_path / name, "gradient_norm"), weights))
    assert found[0][:2] == found[1][:2]
    for whole, stopped in zip(found[0][2], found[1][2], strict=True):
        assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.parametrize(("kind", "condition"), [("masked", TEXTS), ("raster", NOTHING)])
def test_a_cache_on_disk_trains_as_one_in_memory(write, tmp_path, kind, condition):
    condition = {**condition, "sample_prompts": [], "sample_labels": []}
    cached = write(kind, "cached", **condition, cache=str(tmp_path / "cache"))
    assert generator_data.fill_cache(cached, quiet=True)[1] == 8
    generator.train(cached, quiet=True)
    generator.train(write(kind, "encoded", **condition), quiet=True)
    assert logged(tmp_path / "cached", "loss") == logged(tmp_path / "encoded", "loss")


def test_a_run_starts_from_a_trained_pipeline(write, tmp_path):
    first = generator.train(write("raster", steps=20, **LABELS, sampling={"top_k": 1}), quiet=True)
    again = write("raster", "again", **LABELS, initial=str(first), model={"kind": "raster"})
    generator.train(again, quiet=True)
    start = logged(tmp_path / "run", "cross_entropy")[0]
    assert logged(tmp_path / "again", "cross_entropy")[0] < 0.95 * start


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_an_adapter_learns_and_its_model_takes_it(write, tmp_path, kind):
    pytest.importorskip("peft")
    base = generator.train(write(kind, steps=2, **LABELS), quiet=True)
    values = {**LABELS, "initial": str(base), "model": {"kind": kind}, "lora": {"rank": 2}}
    values |= {"optimizer": {"learning_rate": 3e-2, "warmup_steps": 1}}
    recipe = write(kind, "adapted", steps=12, **values)
    report = dry_run(recipe, "generator", [])
    assert report.trained == report.parts["adapters"]
    folder = generator.train(recipe, quiet=True)
    losses = logged(tmp_path / "adapted", LEARNED[kind][0])
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    pipeline, before = image_of(base, class_labels=3)
    pipeline.load_lora_weights(folder)
    call = {"class_labels": 3, "output_type": "pt"}
    adapted = pipeline(**call, generator=torch.Generator().manual_seed(0)).images
    assert not np.array_equal(to_bytes(adapted * 2 - 1)[0], before)
    pipeline.optimize("exact")
    fast = pipeline(**call, generator=torch.Generator().manual_seed(0)).images
    torch.testing.assert_close(fast, adapted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("other", TOKENIZERS)
def test_a_tokenizer_of_another_kind_is_one_sentence(write, tokenizers, tmp_path, capsys, kind, other):
    if kind == other:
        pytest.skip("that is the right one")
    recipe = write(kind, **LABELS, tokenizer=str(tokenizers / other))
    assert main(["train", "generator", str(recipe), "--quiet"]) == 1
    shown = capsys.readouterr().err
    assert f"but model.kind {kind} needs a" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("raster", {"model": {"kind": "gan"}}, "model.kind must be hart, masked or raster, got 'gan'"),
        ("raster", {"model": {"kind": 3}}, "model.kind must be"),
        ("raster", {"model": {"kind": "raster", "colour": 3}}, "unknown setting colour"),
        ("raster", {"residual": {}}, "no setting residual"),
        ("raster", {"model": {**MODELS["raster"], "codebook_size": 99}}, "the tokenizer has 32"),
        ("raster", {"data": {"train": "x", "buckets": [[32, 32], [16, 64]]}}, "learns positions of one size"),
        ("raster", {"lora": {}}, "lora adapts a trained model: name it as initial"),
        ("raster", {"sampling": {"num_inference_steps": 4}}, "no setting num_inference_steps"),
        ("masked", {"scales": [4]}, "no setting scales"),
        ("masked", {"masking": {"min": 1.5}}, "masking.min must be less than 1"),
        ("masked", {"masking": {"mean": 9, "std": 0.1}}, "more than 4 deviations"),
        ("masked", {"conditioning": {"kind": "none"}}, "conditioning.kind must be text or label, got none"),
        ("masked", {"model": {**MODELS["masked"], "size": [8, 7]}, **LABELS}, "multiples of patch_size"),
        ("masked", {"model": {**MODELS["masked"], "latent_channels": 5}}, "the tokenizer has 4"),
        ("masked", {"model": {**MODELS["masked"], "buffer_tokens": 9}, **TEXTS}, "encoder has 8"),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_one_sentence(write, tmp_path, capsys, kind, change, word):
    assert main(["train", "generator", str(write(kind, **change)), "--quiet"]) == 1
    shown = capsys.readouterr().err
    assert word in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("condition", [LABELS, TEXTS], ids=["label", "text"])
def test_a_dry_run_counts_what_a_step_takes(write, kind, condition):
    """All tokens masked, so that each step is an average one."""
    recipe = write(kind, **condition)
    overrides = ["masking={mean: 1.0, std: 0.01, min: 0.99}"] if kind == "masked" else []
    report = dry_run(recipe, "generator", overrides)
    stage = generator.prepare(load_recipe(recipe, GeneratorRecipe, overrides), quiet=True)
    values, samples = collate([stage.source.dataset[index] for index in range(8)])
    generators = [torch.Generator().manual_seed(index) for index in range(8)]
    batch = stage.make_batch(stage.source.encoded(values), samples, generators, generators[0], 0.0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        stage.losses(batch)["loss"].backward()
    assert report.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert report.trained == sum(weight.numel() for weight in stage.losses.parameters())
    less = dry_run(recipe, "generator", [*overrides, "run.gradient_checkpointing=true"])
    assert less.kept < report.kept
    assert report.flops < less.flops < 1.4 * report.flops
