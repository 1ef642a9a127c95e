"""The kinds of evaluation that generate, on families beside HART; the others are in test_commands.py."""

import json

import pytest

from tests.evaluation.command_line import fails, run
from tests.evaluation.test_commands import emoji_like


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("retrieval", "reconstructed top5"), ("attributes", "style")])
def test_every_family_is_measured(capsys, sibling_model, tmp_path, kind, name):
    pytest.importorskip("efficientnet_lite_pytorch")
    folder, report = emoji_like(tmp_path / "scenes"), tmp_path / "r.json"
    command = ("evaluate", kind, folder, "--count", "3", "--model", sibling_model, "-o", report)
    code, _, stderr = run(capsys, *command)
    assert code == 0, stderr
    assert name in {figure["name"] for figure in json.loads(report.read_text())["figures"]}


@pytest.mark.slow
def test_every_family_is_compared_by_time(capsys, text_model, sibling_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    models = ("--model", f"hart={text_model}", "--model", f"sibling={sibling_model}")
    setting = ("--set", "sibling:temperature=0.9")
    command = ("evaluate", "pipelines", tmp_path / "prompts.txt", *models, "--samples", tmp_path / "out")
    assert run(capsys, *command, *setting, "--quiet")[0] == 0
    records = [json.loads((tmp_path / "out" / n / "samples.json").read_text()) for n in ("hart", "sibling")]
    assert [record["sampling"]["temperature"] for record in records] == [1.0, 0.9]


def test_samples_have_the_defaults_of_the_model(capsys, sibling_model, text_pipeline, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    command = ("evaluate", "samples", "prompts", tmp_path / "prompts.txt", "-o", tmp_path / "out")
    assert run(capsys, *command, "--model", sibling_model, "--quiet")[0] == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    stored = json.loads((sibling_model / "model_index.json").read_text())["sampling"]
    assert stored.items() <= record["sampling"].items()
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    fails(capsys, 1, "takes no classes", "evaluate", "samples", "imagenet", "-o", tmp_path / "x",
          "--model", sibling_model)  # fmt: skip
    wrong = ("--set", "residual_steps=3", "--model", sibling_model)
    fails(capsys, 1, "Pipeline has no argument residual_steps", *command, *wrong)


def test_classes_of_every_family_are_sampled(capsys, mar_pipeline, tmp_path):
    mar_pipeline.save_pretrained(tmp_path / "model")
    command = ("evaluate", "samples", "imagenet", "-o", tmp_path / "out", "--model", tmp_path / "model")
    assert run(capsys, *command, "--images-per-prompt", "2", "--quiet")[0] == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 10
    (tmp_path / "prompts.txt").write_text("a cat\n")
    prompts = ("evaluate", "samples", "prompts", tmp_path / "prompts.txt", "-o", tmp_path / "other")
    fails(capsys, 1, "prompts needs a text-conditional model", *prompts, "--model", tmp_path / "model")
    assert not (tmp_path / "other").exists()
    folder = emoji_like(tmp_path / "scenes")
    fails(capsys, 1, "retrieval needs a text-conditional model", "evaluate",
          "retrieval", folder, "--count", "3", "--model", tmp_path / "model")  # fmt: skip


def test_what_a_family_cannot_do_is_one_sentence(capsys, sibling_model, tmp_path):
    folder = emoji_like(tmp_path / "scenes")
    common = (folder, "--model", sibling_model)
    fails(capsys, 1, "no residual head", "evaluate", "residual", *common, "--count", "3")
    scales = {"vqgan": "one scale", "mar": "has none"}[sibling_model.name]
    fails(capsys, 1, scales, "evaluate", "scales", *common)
