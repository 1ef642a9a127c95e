"""Runs with the settings that are off by default: they train, resume, and save what a plain run saves."""

import pytest
import torch
from safetensors.torch import load_file

from openhart.cli import main
from openhart.pipelines.hart import HartPipeline
from openhart.training.generator import data as generator_data
from openhart.training.generator import train as generator
from tests.training.corpus import generator_recipe, logged, write_recipe
from tests.training.test_runs import corpus, stop_at, trained_tokenizer

__all__ = ["corpus", "trained_tokenizer"]
MODEL = {"depth": 2, "width": 64, "num_heads": 2}
ALL = {
    "model": {
        **MODEL,
        "normalize_attention": True,
        "value_residual": True,
        "zero_outputs": True,
        "dropout": 0.1,
    },
    "noise": {"strength": 1.0, "anneal": 0.75, "neighbours": 8},
    "embedding_losses": {"hidden": 32},
    "code_loss": {"scale_balance": 0.9, "scale_weights": [1, 2, 1], "smoothing": 0.1},
    "residual": {"kind": "wide", "width": 32, "depth": 2, "repeats": 2, "scaling": "variance", "clip": 3.0},
}
AUGMENT = {"mirror": True, "shift": 0.1, "scale": [0.8, 1.1]}


def recipe_of(corpus, folder, tokenizer, steps, **values):
    folder.mkdir(exist_ok=True)
    values = generator_recipe(corpus, folder, tokenizer, steps, **{"sample_prompts": [], **values})
    return values, folder / "recipe.yaml"


@pytest.fixture(scope="module")
def trained(corpus, trained_tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("all")
    values, path = recipe_of(corpus, output, trained_tokenizer[0], 60, **ALL)
    return generator.train(write_recipe(path, values), quiet=True), output


@pytest.mark.slow
def test_everything_together_learns(trained):
    _, output = trained
    for name in ("cross_entropy", "embedding/target", "embedding/current", "diffusion/mse"):
        values = logged(output, name)
        assert sum(values[-5:]) < 0.85 * sum(values[:5]), name


@pytest.mark.slow
def test_what_is_saved_is_a_plain_pipeline(trained):
    folder, _ = trained
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        "image_tokenizer", "transformer", "residual_head"
    }  # fmt: skip
    pipeline = HartPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert not pipeline.transformer.training
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert weights.keys() == pipeline.transformer.state_dict().keys()
    config = pipeline.residual_head.config
    assert (config.limit, len(config.residual_scale)) == (3.0, config.code_dim)

    def picture(**call):
        seed = torch.Generator().manual_seed(0)
        return pipeline("a red circle", generator=seed, output_type="pt", **call).images

    plain = picture()
    assert torch.equal(picture(), plain)
    assert not torch.equal(picture(residual_strength=0.5), plain)
    torch.testing.assert_close(HartPipeline.optimize(pipeline) and picture(), plain, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_run_with_every_setting_resumes_to_the_bit(corpus, trained_tokenizer, tmp_path):
    losses = []
    for name, stops in (("whole", []), ("stopped", [2, 4])):
        data = {"train": str(corpus), "batch_size": 8, "workers": 0, "augment": AUGMENT, "copies": 3}
        values, path = recipe_of(corpus, tmp_path / name, trained_tokenizer[0], 6, **ALL, data=data)
        values["run"] |= {"save_every": 1}
        write_recipe(path, values)
        for step in stops:
            stop_at(generator, path, step)
        generator.train(path, quiet=True)
        losses.append((logged(tmp_path / name, "loss"), logged(tmp_path / name, "gradient_norm")))
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_settings_that_are_off_change_no_loss(corpus, trained_tokenizer, tmp_path):
    found = []
    for name, more in (("plain", {}), ("named", {"code_loss": {}, "noise": {"strength": 1e-9}})):
        values, path = recipe_of(corpus, tmp_path / name, trained_tokenizer[0], 2, **more)
        generator.train(write_recipe(path, values), quiet=True)
        found.append(logged(tmp_path / name, "cross_entropy")[0])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.slow
def test_noise_shows_in_the_loss_and_annealing_ends_it(corpus, trained_tokenizer, tmp_path):
    quiet = {
        "optimizer": {"learning_rate": 1e-9, "warmup_steps": 0},
        "conditioning": {"max_tokens": 8, "drop": 0},
    }
    found = {}
    for name, noise in (("none", None), ("annealed", {"strength": 1.0, "anneal": 0.5, "neighbours": None})):
        values, path = recipe_of(corpus, tmp_path / name, trained_tokenizer[0], 6, noise=noise, **quiet)
        generator.train(write_recipe(path, values), quiet=True)
        found[name] = logged(tmp_path / name, "cross_entropy/scale_3")
    assert found["none"][:3] != pytest.approx(found["annealed"][:3], rel=1e-4)
    assert found["none"][3:] == pytest.approx(found["annealed"][3:], rel=1e-4)


@pytest.mark.slow
def test_a_cache_holds_the_copies_and_is_not_another_recipes(corpus, trained_tokenizer, tmp_path, capsys):
    data = {"train": str(corpus), "batch_size": 8, "workers": 0}
    more = {"augment": AUGMENT, "copies": 3}
    cache = {"cache": str(tmp_path / "cache")}
    paths = {}
    for name, values in (("copies", data | more), ("plain", data)):
        recipe, path = recipe_of(corpus, tmp_path / name, trained_tokenizer[0], 2, **cache, data=values)
        paths[name] = write_recipe(path, recipe)
    assert generator_data.fill_cache(paths["copies"], quiet=True)[1] == 24
    generator.train(paths["copies"], quiet=True)
    encoded = generator.train(
        paths["copies"], ["cache=memory", f"run.output={tmp_path / 'again'}"], quiet=True
    )
    assert encoded.is_dir()
    assert logged(tmp_path / "again", "loss") == logged(tmp_path / "copies", "loss")
    assert main(["train", "generator", str(paths["plain"]), "--quiet"]) == 1
    assert "the recipe has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("noise.strength=0", "noise.strength"),
        ("noise.anneal=2", "noise.anneal"),
        ("code_loss.scale_weights=[1,1]", "each of the 3 scales, got 2"),
        ("code_loss.scale_weights=[0,0,0]", "must not all be zero"),
        ("code_loss.smoothing=2", "code_loss.smoothing"),
        ("embedding_losses={current: 0, target: 0}", "needs a positive weight"),
        ("residual.clip=-1", "residual.clip"),
        ("residual.scaling=log", "residual.scaling"),
        ("data.copies=4", "give both"),
        ("data.augment={mirror: true}", "give both"),
        ("data={train: x, copies: 2, augment: {scale: [2, 1]}}", "smallest and largest"),
        ("model.dropout=1", "dropout must be less"),
    ],
)
def test_a_bad_setting_is_told_in_a_sentence(corpus, trained_tokenizer, tmp_path, capsys, change, word):
    values, path = recipe_of(corpus, tmp_path / "run", trained_tokenizer[0], 2)
    values["run"]["output"] = str(tmp_path / "out")
    assert main(["train", "generator", str(write_recipe(path, values)), change, "--quiet"]) in (1, 2)
    said = capsys.readouterr().err
    assert word in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
