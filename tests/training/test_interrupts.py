"""A run that is asked to stop saves its step first and then goes on as if it had never stopped."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from openhart.cli import main
from openhart.pipelines.hart import HartPipeline
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.generator import train as generator
from openhart.training.tokenizer import train as tokenizer
from tests.training.corpus import draw_corpus, generator_recipe, logged, tokenizer_recipe, write_recipe

STEPS = 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def undisturbed_tokenizer(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer")
    values = tokenizer_recipe(corpus, output, steps=(10, 10, 10))
    return tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)


def wait_for_steps(output, count):
    history = output / "metrics.jsonl"
    while not history.exists() or len(history.read_bytes().splitlines()) < count:
        time.sleep(0.001)


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_tokenizer_run_loses_nothing(corpus, undisturbed_tokenizer, tmp_path, capsys, number):
    values = tokenizer_recipe(corpus, tmp_path, steps=(10, 10, 10))
    recipe = write_recipe(tmp_path / "recipe.yaml", values)

    def interrupt():
        wait_for_steps(tmp_path, 3)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    assert main(["train", "tokenizer", str(recipe), "--quiet"]) == 128 + number
    said = capsys.readouterr().err
    done = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    assert said == f"openhart: stopped after step {done} of 30, which is saved: the same command goes on\n"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    assert main(["train", "tokenizer", str(recipe), "--quiet"]) == 0
    assert len(logged(tmp_path, "likeness")) == 30  # steps before the stop are in the log as well
    first, second = map(
        HybridTokenizer.from_pretrained, (undisturbed_tokenizer, tmp_path / "image_tokenizer")
    )
    assert same(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_loaders_outlive_a_signal_to_all_processes(corpus, undisturbed_tokenizer, tmp_path, number):
    """As a terminal, `timeout` and service managers send it: loading workers get it too."""
    runs = []
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        values = generator_recipe(
            corpus, tmp_path / name, undisturbed_tokenizer, STEPS, cache="none", sample_prompts=[]
        )
        values["conditioning"] = {"kind": "label", "num_classes": 8}
        values["data"]["workers"] = 2
        runs.append(write_recipe(tmp_path / name / "recipe.yaml", values))
    whole = generator.train(runs[0], quiet=True)
    command = [sys.executable, "-m", "openhart", "train", "generator", str(runs[1])]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_steps(tmp_path / "stopped", 3)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert "finishing this step" in said
    assert "which is saved: the same command goes on" in said
    stopped = generator.train(runs[1], quiet=True)
    assert same(*(HartPipeline.from_pretrained(folder).transformer for folder in (whole, stopped)))
