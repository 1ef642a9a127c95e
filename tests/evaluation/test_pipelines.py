"""Time, memory and quality of several pipelines in one table, with tiny pipelines of published classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.benchmarks.pipelines import (
    Candidate,
    Quality,
    Run,
    Setup,
    cost_figures,
    evaluate_pipelines,
    run_pipeline,
)
from openhart.evaluation.samples.layouts import plan_prompts
from tests.evaluation.command_line import fails, run
from tests.evaluation.tiny_networks import save_clip
from tests.evaluation.tiny_pipelines import save_tiny

SMALL = {"height": 32, "width": 32, "num_inference_steps": 1}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a bench\n\na cat\na red kite\n")
    return path


def test_own_prompts_are_lines_of_a_text(prompts):
    plan = plan_prompts(prompts, seed=4, images_per_prompt=2)
    assert [(job.path, job.condition, job.seeds) for job in plan.jobs][:3] == [
        ("00000", "a bench", (4,)),
        ("00000-1", "a bench", (5,)),
        ("00001", "a cat", (6,)),
    ]
    prompts.write_text("\n \n")
    with pytest.raises(UserError, match="has no prompts"):
        plan_prompts(prompts)


def test_every_call_is_timed_and_memory_counted(prompts, tmp_path):
    model = str(save_tiny("sdxl", tmp_path / "sdxl"))
    plan = plan_prompts(prompts)
    measured = run_pipeline(Candidate(model, SMALL), plan, tmp_path / "out", Setup(batch_size=2))
    assert measured.pipeline == "StableDiffusionXLPipeline"
    assert measured.images == (2, 1)
    assert all(seconds > 0 for seconds in measured.seconds)
    assert measured.peak > 50 * 2**20  # PyTorch alone takes more
    assert "thread" in measured.machine
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["sampling"]["num_inference_steps"] == 1
    with pytest.raises(UserError, match="has no argument steps"):
        run_pipeline(Candidate(model, {"steps": 1}), plan, tmp_path / "other", Setup())


def test_what_cannot_be_timed_is_refused_before_work_begins(prompts, tmp_path):
    candidates = {"a": Candidate("nowhere", {})}
    with pytest.raises(UserError, match="times need at least 2 calls"):
        evaluate_pipelines(candidates, plan_prompts(prompts), tmp_path, Setup(batch_size=3), Quality())
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="exists: give a new folder"):
        evaluate_pipelines(candidates, plan_prompts(prompts), tmp_path, Setup(), Quality())


@pytest.mark.slow
def test_the_command_compares_two_pipelines_in_one_table(capsys, prompts, text_model, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    sdxl, clip = save_tiny("sdxl", tmp_path / "sdxl"), save_clip(tmp_path / "clip")
    real = tmp_path / "real"
    real.mkdir()
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(real / f"{index}.png")
    settings = [f"--set=sdxl:{name}={value}" for name, value in SMALL.items()]
    command = (
        "evaluate", "pipelines", prompts, "--model", f"own={text_model}", "--model", sdxl, *settings,
        "--clip", clip, "--hps", clip, "--reference", real,
    )  # fmt: skip
    report = tmp_path / "r.json"
    code, stdout, stderr = run(capsys, *command, "--samples", tmp_path / "out", "-o", report)
    assert code == 0, stderr
    table = [line.strip("| ").split(" | ") for line in stdout.splitlines() if line.startswith("|")]
    columns = [
        "seconds per image@2", "seconds of the first call@1", "peak memory, GiB@3", "FD@3", "KID@3",
        "CLIP score@3", "HPSv2@3",
    ]  # fmt: skip
    assert table[0] == ["model", *columns]
    assert [row[0] for row in table[2:]] == ["own", "sdxl"]
    assert all("–" in row[1] and len(row) == len(table[0]) for row in table[2:])
    stored = json.loads(report.read_text())
    figures = {figure["label"]: figure for figure in stored["figures"]}
    assert set(figures) == {f"{name}, {column}" for name in ("own", "sdxl") for column in columns}
    runs = stored["details"]["pipelines"]
    assert runs["sdxl"]["pipeline"] == "StableDiffusionXLPipeline"
    assert len(runs["own"]["seconds_per_call"]) == 3
    time = figures["sdxl, seconds per image@2"]
    assert time["value"] == pytest.approx(np.mean(runs["sdxl"]["seconds_per_call"][1:]))
    assert time["rules"]["calls"] == "without the first"
    assert figures["own, CLIP score@3"]["extractor"] == str(clip)
    fails(capsys, 1, "exists: give a new folder", *command, "--samples", tmp_path / "out")


def test_wrong_usage_is_one_sentence(capsys, prompts, tmp_path):
    def refused(code, message, *more):
        fails(capsys, code, message, "evaluate", "pipelines", prompts, "--samples", tmp_path / "o", *more)

    refused(2, "two models have the name a", "--model", "a", "--model", "x/a")
    refused(2, "is written PATH or NAME=PATH", "--model", "a/b=c")
    refused(2, "which is none of a", "--model", "a", "--set", "b:guidance_scale=2")
    refused(2, "--dinov2 needs --reference", "--dinov2", "x")
    refused(1, "there is no folder", "--reference", tmp_path / "none")
    refused(1, "cannot load a CLIP model", "--hps", tmp_path / "none")
    assert not (tmp_path / "o").exists()


def test_a_time_is_the_mean_without_the_first_call():
    figures = cost_figures(
        "a", Run("P", (9.0, 2.0, 4.0), (2, 2, 2), 2**30, "a machine"), Setup(dtype=torch.float16)
    )
    assert [(figure.label, figure.value) for figure in figures] == [
        ("a, seconds per image@4", 1.5),
        ("a, seconds of the first call@2", 9.0),
        ("a, peak memory, GiB@6", 1.0),
    ]
    assert figures[0].rules["weights"] == "float16"
