"""The comparison of families, end to end on tiny models that its own recipes describe."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from openhart.training.generator import train as generator
from openhart.training.tokenizer import train as tokenizer
from tests.training.corpus import draw_corpus, write_recipe

FOLDER = Path(__file__).parents[2] / "recipes" / "comparison"
FAMILIES = ["hart_token", "hart_wide", "mar", "raster", "var"]
TINY = {
    "base_channels": 32, "channel_multipliers": [1, 1], "encoder_blocks": 1, "decoder_blocks": 1,
    "code_dim": 8,
    "feature_channels": 8, "latent_channels": 8, "codebook_size": 16, "attention_levels": [1],
    "image_size": [32, 32], "depth": 1, "encoder_depth": 1, "decoder_depth": 1, "width": 32, "num_heads": 2,
    "size": [4, 4],
}  # fmt: skip


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny(path, corpus, folder):
    """A recipe of the comparison with a tiny model of the same kind and one step per phase."""
    values = yaml.safe_load(path.read_text())
    model = values["model"]
    model |= {name: value for name, value in TINY.items() if name in model}
    if "scales" in model:
        model["scales"] = [1, 4] if len(model["scales"]) > 1 else [4]
    values["run"] |= {"output": str(folder / path.stem), "precision": "no", "log_every": 1}
    values["data"] = {"train": str(corpus), "batch_size": 4, "workers": 0}
    if "phases" in values:
        values["phases"] = [{**phase, "steps": 1} for phase in values["phases"]]
        values["losses"]["perceptual"] = None
    else:
        values["steps"] = 1
        values["tokenizer"] = str(folder / Path(values["tokenizer"]).parent.name / "image_tokenizer")
        for head in ("residual", "diffusion_head"):
            if values.get(head):
                values[head] |= {"width": 32, "depth": 1}
    return write_recipe(folder / path.name, values)


@pytest.mark.slow
def test_every_family_is_trained_from_its_recipe_and_compared(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    draw_corpus(corpus)
    for path in sorted(FOLDER.glob("tokenizer*.yaml")):
        tokenizer.train(tiny(path, corpus, tmp_path), quiet=True)
    recipes = [tiny(path, corpus, tmp_path) for path in sorted(FOLDER.glob("generator*.yaml"))]
    for recipe in recipes:
        generator.train(recipe, quiet=True)
    common = ["--reference", str(corpus), "--test", str(corpus), "--count", "6", "--quiet"]
    script("compare").main([*map(str, recipes), *common, "-o", str(tmp_path / "results")])
    rows = json.loads((tmp_path / "results" / "comparison.json").read_text())
    assert list(rows) == FAMILIES
    for figures in rows.values():
        assert figures["parameters"] > 0
        assert figures["training seconds"] > 0
        assert 0 <= figures["retrieved first"] <= figures["retrieved among five"] <= 1
        assert "reconstruction, PSNR" in figures
        assert "composition" not in figures
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "results" / "comparison.md").read_text()
    assert shown.count("\n") == 2 + len(FAMILIES)
    assert Image.open(tmp_path / "results" / "comparison.png").size == (6 * 32, (1 + len(FAMILIES)) * 32)
    script("fit_steps").main([str(recipes[0]), "--seconds", "1000"])
    command = capsys.readouterr().out.split()
    assert command[:4] == ["openhart", "train", "generator", str(recipes[0])]
    assert int(command[4].removeprefix("steps=")) > 100


def test_phases_keep_their_proportions_in_a_given_time():
    fitted = script("fit_steps").fitted_steps([300, 1000], [0.5, 1.0], 460.0)
    assert fitted == [120, 400]
    assert script("fit_steps").fitted_steps([1, 1000], [1.0, 1.0], 10.0) == [1, 10]
