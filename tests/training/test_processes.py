"""Two processes with half a batch each are one process with all of it."""

import os
import subprocess
import sys

import pytest

from tests.data.shard_files import shard_bytes
from tests.training.corpus import draw_corpus, generator_recipe, logged, tokenizer_recipe, write_recipe
from tests.training.test_families import LABELS, MODELS, SECTIONS, TOKENIZERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


def train(kind, recipe, processes, *overrides):
    run(processes, "train", kind, str(recipe), *overrides)


def run(processes, *arguments):
    launch = (
        []
        if processes == 1
        else ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    )
    command = [sys.executable, "-m", *launch, "openhart", *arguments, "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:3000]


def losses(kind, values, output, name, processes, *overrides):
    folder = output / name
    folder.mkdir()
    values = {**values, "run": {**values["run"], "output": str(folder)}}
    values["data"] = {**values["data"], "batch_size": 8 // processes}
    train(kind, write_recipe(folder / "recipe.yaml", values), processes, *overrides)
    return folder


def test_two_processes_train_a_tokenizer_as_one_does(corpus, tmp_path):
    values = tokenizer_recipe(corpus, tmp_path, steps=(2, 10, 3))
    values |= {"revive_every": 3, "revival_memory": 0.3}
    values["run"]["seed"] = 1  # with 0 two codes are equally near to a vector, and rounding chooses
    folders = [losses("tokenizer", values, tmp_path, str(n), n) for n in (1, 2)]
    for name in ("loss", "gradient_norm", "codes_alive", "codes_revived"):
        one, two = (logged(folder, name) for folder in folders)
        assert one == pytest.approx(two, rel=1e-5, abs=1e-5), name
    assert sum(logged(folders[1], "codes_revived")) > 0


@pytest.fixture(scope="module")
def image_tokenizer(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer")
    values = tokenizer_recipe(corpus, output, steps=(4, 4, 1))
    train("tokenizer", write_recipe(output / "recipe.yaml", values), 1)
    return output / "image_tokenizer"


@pytest.mark.parametrize("shards", [False, True])
def test_two_processes_fill_the_cache_that_one_does(corpus, image_tokenizer, tmp_path, shards):
    data = corpus
    if shards:
        data = tmp_path / "*.tar"
        for number, path in enumerate(sorted(corpus.glob("*.png"))):
            files = [("a.png", path.read_bytes()), ("a.txt", path.stem.encode())]
            (tmp_path / f"{number}.tar").write_bytes(shard_bytes(files if number else []))
    folders = [tmp_path / "one", tmp_path / "two"]
    for processes, folder in enumerate(folders, start=1):
        values = generator_recipe(data, tmp_path / "run", image_tokenizer, cache=str(folder))
        run(processes, "data", "cache", str(write_recipe(tmp_path / "recipe.yaml", values)))
    one, two = (sorted(path.name for path in folder.iterdir()) for folder in folders)
    assert one == two
    assert len(one) == (1 + 2 * 8 if shards else 3)
    for name in one:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


@pytest.fixture(scope="module")
def alone(corpus, image_tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("generator")
    values = generator_recipe(corpus, output, image_tokenizer, steps=5, token_dropping={})
    return values, losses("generator", values, output, "1", 1)


@pytest.mark.parametrize("after", [2, 4])
def test_a_spread_run_resumes_on_as_many_processes_or_another_number(alone, tmp_path, after):
    values, folder = alone
    stopped = {**values, "steps": 5, "run": {**values["run"], "save_every": 2, "output": str(tmp_path)}}
    recipe = write_recipe(tmp_path / "recipe.yaml", stopped)
    for processes, steps in ((2, 2), (after, 5)):
        size = f"data.batch_size={8 // processes}"
        train("generator", recipe, processes, "run.parallel=fsdp", size, f"steps={steps}")
    assert logged(tmp_path, "loss") == pytest.approx(logged(folder, "loss"), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_a_generator_as_one_does(alone, tmp_path, parallel):
    values, folder = alone
    other = losses("generator", values, tmp_path, "2", 2, f"run.parallel={parallel}")
    for name in ("loss", "gradient_norm", "diffusion", "cross_entropy/scale_3"):
        assert logged(folder, name) == pytest.approx(logged(other, name), rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("kind", MODELS)
def test_two_processes_train_a_sibling_family_as_one_does(corpus, tmp_path, kind):
    TOKENIZERS[kind]().save_pretrained(tmp_path / "tokenizer")
    values = generator_recipe(corpus, tmp_path, tmp_path / "tokenizer", steps=4)
    del values["residual"], values["sample_prompts"]
    values |= {**LABELS, **SECTIONS[kind], "model": MODELS[kind], "sample_labels": []}
    one, *others = (
        losses("generator", values, tmp_path, f"{parallel}-{count}", count, f"run.parallel={parallel}")
        for parallel, count in (("ddp", 1), ("ddp", 2), ("fsdp", 2))
    )
    for other in others:
        for name in ("loss", "gradient_norm"):
            assert logged(other, name) == pytest.approx(logged(one, name), rel=1e-3), name
