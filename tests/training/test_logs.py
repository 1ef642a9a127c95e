"""What a run tells while it goes: pace, and the trackers it is told to."""

import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from openhart.cli import main
from openhart.training.run import history
from openhart.training.run import throughput as pace
from openhart.training.tokenizer import train as tokenizer
from tests.training.corpus import draw_corpus, tokenizer_recipe, write_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_clock_counts_steps_and_nothing_between_them(monkeypatch):
    now = iter([0.0, 2.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(pace, "matmul_rate", lambda *_: 4e12)
    clock = pace.Pace(Accelerator(cpu=True), samples=8)
    for _ in range(2):
        with clock.step(flops=2e12):
            pass
    told = clock.since_last_call()
    assert (told["samples_per_second"], told["teraflops_per_second"], told["mfu"]) == (4, 1, 0.25)
    with clock.step(flops=1e12):
        pass
    told = clock.since_last_call()
    assert (told["samples_per_second"], told["teraflops_per_second"], told["mfu"]) == (2, 0.25, 1 / 16)


@pytest.mark.slow
def test_a_run_tells_its_pace(corpus, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", tokenizer_recipe(corpus, tmp_path, (2, 2, 2)))
    tokenizer.train(recipe, quiet=True)
    peak = pace.matmul_rate(torch.device("cpu"), torch.float32) / 1e12
    lines = history.read(tmp_path)
    assert all(line["mfu"] * peak == pytest.approx(line["teraflops_per_second"]) for line in lines)
    work = [line["teraflops_per_second"] / line["samples_per_second"] for line in lines]
    assert work[4] == pytest.approx(work[5])
    assert work[4] != pytest.approx(work[0])  # a frozen encoder, a discriminator


@pytest.mark.slow
def test_weights_and_biases_gets_numbers_and_pictures(corpus, tmp_path):
    pytest.importorskip("wandb")
    values = tokenizer_recipe(corpus, tmp_path / "run", (2, 1, 1), trackers=["wandb"], sample_every=2)
    recipe = write_recipe(tmp_path / "r.yaml", values)
    command = [sys.executable, "-m", "openhart", "train", "tokenizer", str(recipe), "--quiet"]
    environment = os.environ | {"WANDB_MODE": "offline", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))
    pictures = list((tmp_path / "run" / "wandb").rglob("reconstructions*.png"))
    assert len(pictures) == 24 * 2
    assert len(history.read(tmp_path / "run")) == 4
    assert not (tmp_path / "run" / "log").exists()


def test_a_tracker_that_is_not_installed_is_told(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = write_recipe(tmp_path / "r.yaml", tokenizer_recipe(corpus, tmp_path / "run"))
    assert main(["train", "tokenizer", str(recipe), "run.trackers=[wandb]"]) == 1
    assert "pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
