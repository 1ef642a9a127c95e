import json

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.command_line import fails, run
from tests.evaluation.shapes import write_scenes
from tests.evaluation.tiny_networks import save_clip, save_mask2former


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(6):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
def test_pack_and_score_a_sample_batch(capsys, photos, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    batch = tmp_path / "samples.npz"
    code, stdout, _ = run(capsys, "evaluate", "pack", photos, "-o", batch)
    assert (code, "6 images" in stdout) == (0, True)
    report = tmp_path / "report.json"
    scored = ("evaluate", "imagenet", batch, batch, "--extractor", "efficientnet", "--quiet", "-o", report)
    assert run(capsys, *scored)[0] == 0
    stored = json.loads(report.read_text())
    values = {figure["label"]: figure["value"] for figure in stored["figures"]}
    assert values["precision@6"] == values["recall@6"] == 1
    assert abs(values["FD@6"]) < 1
    assert "openhart" in stored["made_by"]
    code, stdout, _ = run(capsys, "evaluate", "compare", report, report)
    assert code == 0
    assert len(json.loads(stdout)) == 3
    stored["figures"][0]["count"] = 7
    (tmp_path / "other.json").write_text(json.dumps(stored))
    fails(
        capsys, 1, "cannot be compared: count 6 and 7", "evaluate", "compare", report, tmp_path / "other.json"
    )


def test_what_is_missing_is_said_in_one_sentence(capsys, photos, tmp_path):
    none = tmp_path / "none"
    fails(capsys, 1, "there is no folder", "evaluate", "pack", none, "-o", tmp_path / "a.npz")
    fails(capsys, 1, "there is no file", "evaluate", "imagenet", none, none)
    fails(capsys, 1, "there is no folder", "evaluate", "geneval", none)
    fails(capsys, 1, "there is no file", "evaluate", "composition", none, "--samples", tmp_path / "s")
    fails(capsys, 1, "there is no result", "evaluate", "compare", none)
    fails(capsys, 2, "whole number from 1", "evaluate", "retrieval", photos, "--count", "0")
    fails(capsys, 2, "--only is written", "evaluate", "retrieval", photos, "--only", "x")
    fails(capsys, 2, "invalid choice", "evaluate", "everything")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


@pytest.mark.slow
def test_a_checker_is_trained_and_asked(capsys, text_model, tmp_path):
    scenes = write_scenes(tmp_path / "scenes" / "train", 100).parent
    checker = tmp_path / "checker"
    train = (
        "evaluate",
        "checker",
        scenes,
        "-o",
        checker,
        "--held-out",
        "20",
        "--model",
        text_model,
        "--quiet",
    )
    assert run(capsys, *train)[0] == 0
    stored = json.loads((checker / "checker.json").read_text())
    assert set(stored["accuracy"]) == {"real", "reconstructed"}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"tag": "colors", "include": [{"class": "ball", "count": 1}], "prompt": "a ball"}\n')
    composition = (
        "evaluate", "composition", prompts, "--checker", checker, "--samples", tmp_path / "samples",
        "--images-per-prompt", "2", "--model", text_model,
    )  # fmt: skip
    code, stdout, stderr = run(capsys, *composition, "--quiet", "-o", tmp_path / "report.json")
    assert (code, stdout, stderr) == (0, "", "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {figure["label"] for figure in report["figures"]} == {"colors@2", "overall@2"}
    assert report["details"]["checker_accuracy"] == stored["accuracy"]
    assert len(list((tmp_path / "samples" / "00000" / "samples").iterdir())) == 2
    fails(capsys, 1, "other settings", *composition, "--seed", "1")


def emoji_like(folder):
    """Scenes whose records name a thing, a style and a background, as those of the emoji corpus."""
    write_scenes(folder, 16)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for index, line in enumerate(lines):
        thing, style = f"thing {index // 2}", ("flat", "rough")[index % 2]
        ground = ("white", "light blue")[index // 2 % 2]
        text = f"{thing}, {style}" + ("" if ground == "white" else f", on a {ground} background")
        line |= {"thing": thing, "style": style, "background": ground, "text": text}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.slow
def test_every_kind_of_measure_on_a_model(capsys, text_model, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    folder = emoji_like(tmp_path / "scenes")
    report = tmp_path / "r.json"
    for kind, name in (("retrieval", "top1"), ("residual", "with residual, FD"), ("attributes", "style")):
        common = ("--count", "3", "--model", text_model, "-o", report)
        code, stdout, stderr = run(capsys, "evaluate", kind, folder, *common)
        assert code == 0, stderr
        stored = json.loads(report.read_text())
        assert json.loads(stdout) == stored
        assert name in {figure["name"] for figure in stored["figures"]}
        assert stored["made_by"]["model"] == str(text_model)


def test_geneval_from_a_folder_to_the_published_summary(capsys, tmp_path):
    folder = tmp_path / "images"
    prompts = [
        {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a red cat"},
        {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "two dogs"},
    ]
    for index, prompt in enumerate(prompts):
        samples = folder / f"{index:05}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(prompt))
        for number in range(2):
            Image.new("RGB", (40, 30), (90 * number, 50, 200)).save(samples / f"{number:05}.png")
    detector, clip = save_mask2former(tmp_path / "detector"), save_clip(tmp_path / "clip")
    command = ("evaluate", "geneval", folder, "--detector", detector, "--clip", clip)
    rows, report = tmp_path / "rows.jsonl", tmp_path / "r.json"
    code, stdout, stderr = run(capsys, *command, "--rows", rows, "-o", report)
    assert code == 0, stderr
    assert "Total images: 4" in stdout
    assert "Overall score (avg. over tasks):" in stdout
    stored = json.loads(report.read_text())
    assert [figure["label"] for figure in stored["figures"]] == ["colors@2", "counting@2", "overall@4"]
    assert {figure["extractor"] for figure in stored["figures"]} == {str(detector)}
    assert str(clip) in stored["figures"][0]["rules"]["colours"]
    assert stored["details"]["complete"] is False
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["correct"] for row in kept] == [row["reason"] == "" for row in kept]
    (folder / "00001" / "samples" / "00001.png").write_bytes(b"broken")
    fails(capsys, 1, "00001.png as an image", *command)


@pytest.mark.slow
def test_two_folders_are_compared(capsys, photos, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    crop = ("--crop", "sana", "--size", "8")
    code, stdout, _ = run(
        capsys, "evaluate", "distances", photos, photos, *crop, "--quiet", "-o", tmp_path / "r.json"
    )
    assert (code, stdout) == (0, "")
    values = {f["name"]: f["value"] for f in json.loads((tmp_path / "r.json").read_text())["figures"]}
    assert values["FD"] == pytest.approx(0, abs=1e-2)
    fails(capsys, 2, "are given together", "evaluate", "distances", photos, photos, "--crop", "sana")
    fails(capsys, 1, "there is no folder", "evaluate", "distances", photos, tmp_path / "none")


@pytest.mark.slow
def test_the_tokenizer_is_measured_by_scales_and_with_exchanged_codes(capsys, text_model, photos, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    lines = [json.dumps({"file_name": path.name, "text": "noise"}) for path in sorted(photos.iterdir())]
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    common = (photos, "--model", text_model, "--quiet", "-o", tmp_path / "r.json")
    assert run(capsys, "evaluate", "scales", *common, "--plot", tmp_path / "plot.png")[0] == 0
    assert Image.open(tmp_path / "plot.png").width > 100
    assert run(capsys, "evaluate", "perturbed", *common, "--nearest", "5", "--shares", "0.1", "0.5")[0] == 0
    names = {figure["name"] for figure in json.loads((tmp_path / "r.json").read_text())["figures"]}
    assert names == {
        "10 % exchanged, PSNR",
        "10 % exchanged, FD",
        "50 % exchanged, PSNR",
        "50 % exchanged, FD",
    }
    fails(capsys, 1, "between 1 and 31", "evaluate", "perturbed", *common, "--nearest", "500")
