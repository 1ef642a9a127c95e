"""What befalls long runs: they are killed, disks fill up, losses explode."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate import Accelerator

from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.training.generator import train as generator
from openhart.training.generator.hart.losses import GeneratorLosses
from openhart.training.run.nonfinite import NonFiniteGuard
from openhart.training.tokenizer import train as tokenizer
from tests.training.corpus import draw_corpus, generator_recipe, logged, tokenizer_recipe, write_recipe

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def image_tokenizer(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer")
    values = tokenizer_recipe(corpus, output, steps=(2, 2, 1))
    return tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)


@pytest.fixture
def recipe(corpus, image_tokenizer, tmp_path):
    values = generator_recipe(corpus, tmp_path / "run", image_tokenizer, steps=STEPS, sample_prompts=[])
    values["run"] |= {"save_every": 1, "sample_every": 1000}
    return write_recipe(tmp_path / "recipe.yaml", values)


@pytest.fixture(scope="module")
def undisturbed(corpus, image_tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    values = generator_recipe(corpus, output, image_tokenizer, steps=STEPS, sample_prompts=[])
    return generator.train(write_recipe(output / "recipe.yaml", values), quiet=True)


def start(recipe, **settings):
    command = [sys.executable, "-m", "openhart", "train", "generator", str(recipe), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **settings)


def same_weights(first, second):
    transformers = [HartPipeline.from_pretrained(folder).transformer for folder in (first, second)]
    pairs = zip(transformers[0].parameters(), transformers[1].parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_killed_while_saving_ends_as_if_it_had_not_been(recipe, undisturbed, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for least in (2, 5, 9):
        process = start(recipe)
        wanted = f"step-{least:08d}"
        while process.poll() is None and not any(
            path.name >= wanted and path.suffix == ".partial" for path in checkpoints.glob("step-*")
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = start(recipe)
    assert process.communicate() is not None
    assert process.returncode == 0
    assert same_weights(tmp_path / "run" / "pipeline", undisturbed)
    assert not list(checkpoints.glob("*.partial"))


def test_a_full_disk_costs_checkpoints_and_not_the_run(recipe, undisturbed, tmp_path):
    """A limit on the size of files lets the model through, but not the optimizer's two moments."""
    size = (undisturbed / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    limit = size * 3 // 2
    process = start(recipe, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert "cannot save the checkpoint of step 1, training goes on" in complaints
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    assert same_weights(tmp_path / "run" / "pipeline", undisturbed)


def test_a_step_that_is_not_finite_is_left_out_and_counted(recipe, tmp_path, monkeypatch):
    forward, calls = GeneratorLosses.forward, []

    def sometimes_infinite(self, batch):
        report = forward(self, batch)
        calls.append(len(calls))
        return report | {"loss": report["loss"] * float("nan")} if len(calls) in (3, 4) else report

    monkeypatch.setattr(GeneratorLosses, "forward", sometimes_infinite)
    folder = generator.train(recipe, quiet=True)
    assert logged(tmp_path / "run", "skipped") == [0, 0, 1, 2] + [2] * (STEPS - 4)
    transformer = HartPipeline.from_pretrained(folder).transformer
    assert all(parameter.isfinite().all() for parameter in transformer.parameters())


def test_a_gradient_scaler_sees_what_overflows_and_scales_less():
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer, scaler = torch.optim.SGD([weight], lr=1e-34), torch.amp.GradScaler("cpu")
    skips, process = NonFiniteGuard(3), Accelerator(cpu=True)
    process.scaler = scaler
    for step in range(30):
        loss = weight * 2e34  # overflows while the scale is above 2¹⁴
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if skips.allows(process, step, loss, weight.grad, ["a ball"]):
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() <= 2**14
    assert weight.isfinite()
    assert weight != 1
    assert not skips.total


def test_too_many_of_them_stop_the_run_and_name_the_batch(recipe, tmp_path, monkeypatch):
    forward, calls = GeneratorLosses.forward, []

    def infinite_later(self, batch):
        calls.append(len(calls))
        report = forward(self, batch)
        return report | {"loss": report["loss"] * float("inf")} if len(calls) > 2 else report

    monkeypatch.setattr(GeneratorLosses, "forward", infinite_later)
    with pytest.raises(UserError, match=r"3 steps in a row.*step 4 with .*\.png"):
        generator.train(recipe, ["run.max_skipped=3"], quiet=True)
    assert not (tmp_path / "run" / "pipeline").exists()
    assert max((tmp_path / "run" / "checkpoints").glob("step-*")).name == "step-00000004"
