"""A bad recipe is one sentence on the command line, before anything is made."""

import json
import shutil

import pytest
import torch

from openhart.cli import main
from tests.tiny import tiny_tokenizer
from tests.training.test_runs import corpus, generator_recipe, tokenizer_recipe, write_recipe

__all__ = ["corpus"]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "image_tokenizer"
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def places(corpus, text_model, label_model, tmp_path_factory):
    """Folders that are wrong in one way each."""
    root = tmp_path_factory.mktemp("places")
    (root / "empty").mkdir()
    shutil.copytree(corpus, root / "captionless")
    lines = [json.loads(line) for line in (corpus / "metadata.jsonl").read_text().splitlines()]
    del lines[3]["text"]
    (root / "captionless" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shutil.copytree(corpus, root / "unreadable")
    for image in (root / "unreadable").glob("*.png"):
        image.write_bytes(b"no picture")
    return {"ROOT": str(root), "CORPUS": str(corpus), "TEXT": str(text_model), "LABEL": str(label_model)}


ON_CPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
GENERATOR = [
    ({"colour": 3}, "colour"),
    ({"steps": "many"}, "steps"),
    ({"model": {"depth": "deep"}}, "must be a whole number"),
    ({"model": {"colour": 3}}, "unknown setting colour"),
    ({"model": {"scales": [1, 2, 4]}}, "do not fit the tokenizer's"),
    ({"model": {"codebook_size": 99}}, "the tokenizer has 32"),
    ({"scales": [2, 4]}, "first scale"),
    ({"scales": [1, 8, 4]}, "largest"),
    ({"model": {"depth": 3}, "initial": "TEXT"}, "of another shape"),
    ({"model": {}, "initial": "LABEL"}, "is conditioned on label"),
    ({"model": {}, "initial": "TEXT", "conditioning": {"max_tokens": 9}}, "max_tokens"),
    ({"model": {}, "initial": "ROOT/empty"}, "is no model"),
    ({"lora": {"rank": 4}}, "name it as initial"),
    (
        {
            "model": {},
            "initial": "TEXT",
            "lora": {"targets": ["blocks.0"]},
            "conditioning": {"max_tokens": 8},
        },
        "no linear map",
    ),
    ({"steps": 10**9}, "at most 100000000"),
    ({"steps": True}, "must be a whole number"),
    ({"optimizer": {"learning_rate": float("inf")}}, "must be a finite number"),
    ({"optimizer": {"learning_rate": 1e30}}, "at most 1"),
    ({"token_dropping": {"mean": 50, "std": 0.01}}, "more than 4 deviations"),
    ({"sampling": {"warmth": 1}}, "no setting warmth"),
    ({"sampling": {"top_k": "many"}}, "top_k must be a whole number"),
    ({"model": {"width": 65536, "num_heads": 1024, "depth": 1000}}, "lower its width or depth"),
    ({"data": {"train": "CORPUS", "workers": 0, "batch_size": 65536}}, "lower data.batch_size"),
    ({"data": {"train": "", "workers": 0}}, "must name a file or a folder"),
    ({"data": {"train": "ROOT/unreadable", "workers": 0}}, "no image can be read"),
    ({"conditioning": {"max_tokens": 600}}, "do not fit the text encoder"),
    (
        {"conditioning": {"kind": "label", "num_classes": 3}, "sample_prompts": []},
        "num_classes is 3",
    ),
    ({"cache": ""}, "the name of a folder"),
    ({"tokenizer": "ROOT/empty"}, "no image tokenizer"),
    ({"data": {"train": "ROOT/captionless", "workers": 0}}, "has no caption"),
    ({"data": {"train": "ROOT/empty", "workers": 0}}, "has no images"),
    ({"data": {"train": "ROOT/nowhere", "workers": 0}}, "no image folder"),
    ({"conditioning": {"kind": "label"}, "sample_prompts": []}, "num_classes"),
    ({"residual": {"kind": "wide"}, "token_dropping": {}}, "take kind: token"),
    ({"conditioning": {"word_drop": 0.2}, "cache": "ROOT/cache"}, "word_drop needs captions"),
    ({"sample_labels": [3]}, "its samples are sample_prompts"),
    (
        {
            "conditioning": {"kind": "label", "num_classes": 8},
            "sample_labels": [8],
            "sample_prompts": [],
        },
        "8 classes, 0 to 7",
    ),
]
TOKENIZER = [
    ({"run.speed": 3}, "run.speed"),
    ({"run.output": ""}, "must name a file or a folder"),
    ({"run.seed": -1}, "run.seed must be at least 0"),
    ({"losses.l1": float("nan")}, "must be a finite number"),
    ({"model.scales": [1, 2, 1000]}, "lower data.batch_size"),
    ({"run.precision": "fp16"}, "bf16"),
    ({"data.train": "ROOT/empty"}, "has no images"),
    ({"initial": "TEXT/image_tokenizer", "model.scales": [1, 8, 4]}, "largest"),
    ({"initial": "TEXT/image_tokenizer", "model.code_dim": 99}, "do not fit its config"),
    ({"initial": "ROOT/empty"}, "config.json is missing"),
]


def filled(value, places):
    text = json.dumps(value)
    for name, place in places.items():
        text = text.replace(f'"{name}', f'"{place}')
    return json.loads(text)


def refused(kind, recipe, output, capsys):
    code = main(["train", kind, str(recipe), "--quiet"])
    said = capsys.readouterr().err
    assert code == 1
    assert said.startswith("openhart: ")
    assert said.count("\n") == 1
    assert not output.exists()
    return said.replace(str(recipe.parent), "")  # the folder bears the test's name, and so the word


@pytest.mark.parametrize(("change", "word"), GENERATOR, ids=[word for _, word in GENERATOR])
def test_generator(change, word, corpus, tokenizer_folder, places, tmp_path, capsys):
    output = tmp_path / "out"
    values = generator_recipe(corpus, output, tokenizer_folder) | filled(change, places)
    assert word in refused("generator", write_recipe(tmp_path / "r.yaml", values), output, capsys)


@pytest.mark.parametrize(
    ("parallel", "word"),
    [
        ("fsdp", "fp16 cannot be combined"),
        pytest.param("ddp", "fp16 needs a GPU", marks=ON_CPU),
    ],
)
def test_half_precision(parallel, word, corpus, tokenizer_folder, tmp_path, capsys):
    values = generator_recipe(corpus, tmp_path / "out", tokenizer_folder)
    values["run"] |= {"precision": "fp16", "parallel": parallel}
    assert word in refused("generator", write_recipe(tmp_path / "r.yaml", values), tmp_path / "out", capsys)


@pytest.mark.parametrize(("change", "word"), TOKENIZER, ids=[str(change) for change, _ in TOKENIZER])
def test_tokenizer(change, word, corpus, places, tmp_path, capsys):
    output = tmp_path / "out"
    values = tokenizer_recipe(corpus, output)
    for name, value in filled(change, places).items():
        section, _, key = name.rpartition(".")
        (values[section] if section else values)[key] = value
    assert word in refused("tokenizer", write_recipe(tmp_path / "r.yaml", values), output, capsys)


@pytest.mark.slow
def test_a_checkpoint_of_another_model(corpus, tokenizer_folder, tmp_path, capsys):
    values = generator_recipe(corpus, tmp_path / "out", tokenizer_folder, steps=1, sample_prompts=[])
    recipe = write_recipe(tmp_path / "r.yaml", values)
    assert main(["train", "generator", str(recipe), "--quiet"]) == 0
    assert main(["train", "generator", str(recipe), "--quiet", "steps=2", "model.width=96"]) == 1
    assert "cannot resume from" in capsys.readouterr().err


def test_values_of_a_recipe_may_follow_an_option(corpus, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "r.yaml", tokenizer_recipe(corpus, tmp_path / "out"))
    assert main(["train", "tokenizer", str(recipe), "--dry-run", "data.batch_size=4", "--gpus", "2"]) == 0
    assert "samples     8 per step" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["info", "data.batch_size=4", "more=1"])
    assert "unrecognized" in capsys.readouterr().err
