"""Both stages end to end on a handful of real pictures: they learn, resume to the bit, and load."""

import tarfile

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from openhart.errors import UserError
from openhart.model_files import load_image_tokenizer
from openhart.pipelines.hart import HartPipeline
from openhart.training.generator import train as generator
from openhart.training.run import history
from openhart.training.run.batches import EndlessBatches
from openhart.training.tokenizer import train as tokenizer
from tests.training.corpus import (
    draw_corpus,
    generator_recipe,
    logged,
    pictures,
    tokenizer_recipe,
    write_recipe,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained_tokenizer(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer")
    recipe = write_recipe(output / "recipe.yaml", tokenizer_recipe(corpus, output))
    return tokenizer.train(recipe, quiet=True), output


def test_the_tokenizer_learns_and_its_codes_live(trained_tokenizer):
    _, output = trained_tokenizer
    likeness = logged(output, "likeness")
    assert np.mean(likeness[-4:]) < 0.5 * np.mean(likeness[:3])
    assert logged(output, "codes_alive")[-1] > 0.3


def test_the_last_phase_leaves_encoder_and_codes_alone(corpus, tmp_path):
    from safetensors.torch import load_file

    values = tokenizer_recipe(corpus, tmp_path, steps=(2, 2, 3), save_every=1, keep_checkpoints=9)
    tokenizer.train(write_recipe(tmp_path / "recipe.yaml", values), quiet=True)
    saved = [
        load_file(tmp_path / "checkpoints" / f"step-0000000{step}" / "model.safetensors") for step in (5, 7)
    ]
    moved = {name for name in saved[0] if not torch.equal(saved[0][name], saved[1][name])}
    assert moved
    assert all(".decoder." in name or ".post_quant_conv." in name for name in moved)


@pytest.mark.parametrize("stop", [3, 7])
def test_a_resumed_tokenizer_run_has_the_same_losses_to_the_bit(corpus, tmp_path, stop):
    losses, weights = [], []
    for name, stops in (("whole", []), ("stopped", [stop])):
        output = tmp_path / name
        output.mkdir()
        values = tokenizer_recipe(corpus, output, steps=(2, 5, 3), save_every=1)
        recipe = write_recipe(output / "recipe.yaml", values)
        for step in stops:
            stop_at(tokenizer, recipe, step)
        weights.append(tokenizer.train(recipe, quiet=True))
        losses.append(logged(output, "likeness"))
    assert losses[0] == losses[1]
    first, second = (load_image_tokenizer(folder) for folder in weights)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def stop_at(stage, recipe, step):
    """Run until a step begins, then fall over as a killed process would: nothing is cleaned up."""
    kind = tokenizer.TokenizerStage if stage is tokenizer else generator.GeneratorStage

    class KilledError(Exception):
        pass

    def dying(self, number, batches, original=kind.step):
        if number == step:
            raise KilledError
        return original(self, number, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "step", dying)
        with pytest.raises(KilledError):
            stage.train(recipe, quiet=True)


@pytest.fixture(scope="module")
def trained_generator(corpus, trained_tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("generator")
    values = generator_recipe(corpus, output, trained_tokenizer[0])
    return generator.train(write_recipe(output / "recipe.yaml", values), quiet=True), output


def test_the_generator_learns_and_its_pipeline_loads(trained_generator):
    folder, output = trained_generator
    codes = logged(output, "cross_entropy")
    assert np.mean(codes[-5:]) < 0.6 * np.mean(codes[:3])
    diffusion = logged(output, "diffusion/mse")
    assert np.mean(diffusion[-5:]) < np.mean(diffusion[:3])
    pipeline = HartPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red circle", generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (32, 32)


@pytest.mark.parametrize(
    "values",
    [
        {"residual": {"kind": "wide", "width": 32, "depth": 2, "repeats": 2}},
        {"residual": None, "token_dropping": {}},
        {"token_dropping": {}, "cache": "none"},
        {"conditioning": {"kind": "label", "num_classes": 8}, "sample_labels": [0, 3]},
        {"conditioning": {"max_tokens": 8, "word_drop": 0.5}},
    ],
    ids=["wide", "no-residual", "thinned", "label", "words-dropped"],
)
def test_every_kind_of_generator_runs(corpus, trained_tokenizer, tmp_path, values):
    values = {"sample_prompts": [] if "sample_labels" in values else ["a red circle"], **values}
    recipe = generator_recipe(corpus, tmp_path, trained_tokenizer[0], steps=3, **values)
    recipe["run"]["sample_every"] = 3
    folder = generator.train(write_recipe(tmp_path / "recipe.yaml", recipe), quiet=True)
    pipeline = HartPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"class_labels": 3} if pipeline.label_encoder else {"prompt": "a red circle"}
    assert pipeline(**asked, output_type="pt").images.isfinite().all()
    assert "samples" in pictures(tmp_path)


@pytest.fixture(scope="module")
def shards(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for number, images in enumerate(np.array_split(sorted(corpus.glob("*.png")), 3)):
        with tarfile.open(folder / f"train-{number}.tar", "w") as archive:
            for image in images:
                archive.add(image, image.name)
                caption = folder / f"{image.stem}.txt"
                caption.write_text(f"a {image.stem}")
                archive.add(caption, caption.name)
    return folder / "train-{0..2}.tar"


@pytest.fixture(scope="module")
def tokenizer_of_shards(shards, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer-of-shards")
    values = tokenizer_recipe(shards, output, steps=(1, 2, 1))
    return tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_shards_resumes_to_the_bit(shards, tokenizer_of_shards, tmp_path, workers):
    losses = []
    for name, stops in (("whole", []), ("stopped", [2, 3])):
        output = tmp_path / name
        output.mkdir()
        values = generator_recipe(shards, output, tokenizer_of_shards, steps=5, sample_prompts=[])
        values["run"] |= {"save_every": 1, "accumulation": 2}
        values["data"] |= {"batch_size": 3, "workers": workers}
        recipe = write_recipe(output / "recipe.yaml", values)
        for step in stops:
            stop_at(generator, recipe, step)
        folder = generator.train(recipe, quiet=True)
        losses.append((logged(output, "loss"), logged(output, "gradient_norm")))
    assert losses[0] == losses[1]
    assert (folder / "model_index.json").is_file()


def test_a_run_can_start_from_a_trained_pipeline(corpus, trained_tokenizer, trained_generator, tmp_path):
    values = generator_recipe(corpus, tmp_path, trained_tokenizer[0], steps=2)
    values |= {"initial": str(trained_generator[0]), "model": {}, "sample_prompts": []}
    generator.train(write_recipe(tmp_path / "recipe.yaml", values), quiet=True)
    start = logged(tmp_path, "cross_entropy")[0]
    assert start < 0.8 * logged(trained_generator[1], "cross_entropy")[0]


def test_a_resumed_generator_run_has_the_same_losses_to_the_bit(corpus, trained_tokenizer, tmp_path):
    losses = []
    for name, stops in (("whole", []), ("stopped", [2, 4])):
        output = tmp_path / name
        output.mkdir()
        values = generator_recipe(corpus, output, trained_tokenizer[0], steps=6, token_dropping={})
        values["run"] |= {"save_every": 1, "sample_every": 2}
        recipe = write_recipe(output / "recipe.yaml", values)
        for step in stops:
            stop_at(generator, recipe, step)
        generator.train(recipe, quiet=True)
        losses.append((logged(output, "loss"), logged(output, "gradient_norm")))
    assert losses[0] == losses[1]


def test_curves_of_a_run_are_drawn(trained_generator, tmp_path):
    _, output = trained_generator
    told = history.read(output)
    assert [line["cross_entropy"] for line in told] == pytest.approx(logged(output, "cross_entropy"))
    history.plot(output, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 500
    with pytest.raises(UserError, match="no run has logged"):
        history.plot(tmp_path, tmp_path / "none.png")


def test_a_resumed_run_measures_no_step_twice(tmp_path):
    for step in range(5):
        history.append(tmp_path, step, {"loss": float(step)})
    with (tmp_path / history.FILE).open("a") as file:
        file.write('{"step": 5, "lo')
    history.forget_from(tmp_path, 3)
    history.append(tmp_path, 3, {"loss": 7.0})
    assert [line["loss"] for line in history.read(tmp_path)] == [0, 1, 2, 7]


def test_batches_depend_on_seed_and_step_only():
    def taken(**settings):
        batches = iter(EndlessBatches([None] * 10, 4, **settings))
        return [next(batches) for _ in range(6)]

    assert taken(seed=1)[3:] == taken(seed=1, first=3)[:3]
    assert taken(seed=1) != taken(seed=2)
    assert sorted([place for batch in taken(seed=1) for place in batch][:10]) == list(range(10))
    halves = [
        [next(b) for _ in range(3)]
        for b in (iter(EndlessBatches([None] * 10, 2, 1, rank=rank, world=2)) for rank in (0, 1))
    ]
    assert [a + b for a, b in zip(*halves, strict=True)] == taken(seed=1)[:3]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"run.speed": 3}, "run.speed"),
        ({"run.seed": "many"}, "run.seed"),
        ({"data.train": "/no/such/folder"}, "no image folder"),
        ({"model.base_channels": 33}, "multiple of 32"),
        ({"model.scales": [1, 8, 4]}, "largest"),
        ({"losses.perceptual": "vgg"}, "perceptual"),
        ({"phases": []}, "phases"),
        ({"model.colour": 3}, "unknown setting colour"),
    ],
)
def test_a_bad_recipe_is_told_before_anything_starts(corpus, tmp_path, change, word):
    output = tmp_path / "out"
    recipe = write_recipe(tmp_path / "recipe.yaml", tokenizer_recipe(corpus, output))
    overrides = [f"{name}={yaml.safe_dump(value).strip()}" for name, value in change.items()]
    overrides = [text.removesuffix("\n...") for text in overrides]
    with pytest.raises(UserError, match=word):
        tokenizer.train(recipe, overrides, quiet=True)
    assert not output.exists()
