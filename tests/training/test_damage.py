"""A damaged run, cache or corpus is refused in one sentence, or trains exactly as if nothing had happened."""

import json
import random
import shutil
import warnings

import pytest
import torch

from openhart.checksums import record_of
from openhart.cli import main
from openhart.data import open_dataset
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.training.generator import data as generator_data
from openhart.training.generator import train as generator
from openhart.training.run.checkpoint import MANIFEST
from openhart.training.run.plain_state import load_state, save_state
from openhart.training.tokenizer import train as tokenizer
from tests.damage import damages, flipped
from tests.data.shard_files import shard_bytes
from tests.hostile import pickled, saved_by_torch
from tests.training.corpus import draw_corpus, generator_recipe, tokenizer_recipe, write_recipe

STEPS = 3


@pytest.fixture
def mark(tmp_path):
    """The file that harm would write; no test leaves it."""
    path = tmp_path / "harm"
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tokenizer_run(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer")
    values = tokenizer_recipe(corpus, output, steps=(1, 1, 1))
    tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)
    return output


@pytest.fixture(scope="module")
def label_recipe(corpus, tokenizer_run, tmp_path_factory):
    """Writes recipes of the smallest generator, told classes: no text encoder slows it down."""
    cache = tmp_path_factory.mktemp("cache") / "cache"

    def write(output, **values):
        labels = {"conditioning": {"kind": "label", "num_classes": 8}, "sample_prompts": []}
        values = {"steps": STEPS, "cache": str(cache), **labels, **values}
        recipe = generator_recipe(corpus, output, tokenizer_run / "image_tokenizer", **values)
        recipe["model"] = {"depth": 1, "width": 32, "num_heads": 2}
        recipe["run"] |= {"trackers": [], "save_every": 2}
        return write_recipe(output / "recipe.yaml", recipe)

    generator_data.fill_cache(write(cache.parent), quiet=True)
    return write


@pytest.fixture(scope="module")
def run(label_recipe, tmp_path_factory):
    """A run that stopped after its first two steps."""
    output = tmp_path_factory.mktemp("run")
    generator.train(label_recipe(output), quiet=True)
    shutil.rmtree(output / "checkpoints" / f"step-{STEPS:08d}")
    shutil.rmtree(output / "pipeline")
    return output


def copied(run, tmp_path, label_recipe):
    """A copy of the run, its recipe and its only checkpoint."""
    output = shutil.copytree(run, tmp_path / "run")
    recipe = label_recipe(output)
    return recipe, output / "checkpoints" / "step-00000002"


def weights(folder):
    return list(HartPipeline.from_pretrained(folder).transformer.parameters())


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_a_checkpoint_is_data(run):
    names = {path.name for path in (run / "checkpoints" / "step-00000002").iterdir()}
    parts = ("model", "optimizer", "averages", "skips", "random-0")
    assert names == {f"{part}.safetensors" for part in parts} | {MANIFEST}


@pytest.mark.slow
def test_every_damaged_file_of_a_checkpoint_is_told(run, label_recipe, tmp_path, capsys):
    recipe, checkpoint = copied(run, tmp_path, label_recipe)
    for path in sorted(checkpoint.iterdir()):
        whole = path.read_bytes()
        for what, content in [*damages(path, seed=3, each=2)][:6]:
            path.write_bytes(content)
            assert main(["train", "generator", str(recipe), "--quiet"]) == 1, (path, what)
            said = capsys.readouterr().err
            assert said.count("\n") == 1, said
            assert str(checkpoint) in said, (path, what)
        path.unlink()
        assert main(["train", "generator", str(recipe), "--quiet"]) == 1
        assert "missing or damaged" in capsys.readouterr().err
        path.write_bytes(whole)
    assert main(["train", "generator", str(recipe), "--quiet"]) == 0


@pytest.mark.slow
def test_the_checkpoint_before_a_damaged_one_goes_on(label_recipe, tmp_path, capsys):
    recipe = label_recipe(tmp_path)
    first = generator.train(recipe, ["run.save_every=1", "run.keep_checkpoints=2"], quiet=True)
    before = weights(first)
    last = tmp_path / "checkpoints" / f"step-{STEPS:08d}"
    (last / "model.safetensors").write_bytes((last / "model.safetensors").read_bytes()[:-1])
    assert main(["train", "generator", str(recipe), "--quiet"]) == 1
    assert f"delete {last} to go on from the checkpoint before it" in capsys.readouterr().err
    shutil.rmtree(last)
    assert same(before, weights(generator.train(recipe, quiet=True)))


@pytest.mark.slow
def test_random_states_that_make_no_sense_are_told(run, label_recipe, tmp_path, capsys):
    """As a program would leave them that writes checksums but other states."""
    recipe, checkpoint = copied(run, tmp_path, label_recipe)
    path, manifest = checkpoint / "random-0.safetensors", checkpoint / MANIFEST
    states = load_state(path)
    for change in ({"torch": torch.zeros(3)}, {"numpy": ["MT19937"]}, {"python": [1, 2]}, None):
        save_state(states | change if change else [], path)
        about = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(about | {"files": record_of(checkpoint, list(about["files"]))}))
        assert main(["train", "generator", str(recipe), "--quiet"]) == 1
        said = capsys.readouterr().err
        assert "the random states in random-0.safetensors are broken" in said
        assert said.count("\n") == 1


def test_a_checkpoint_of_another_model_is_told(run, label_recipe, tmp_path, capsys):
    recipe, _ = copied(run, tmp_path, label_recipe)
    assert main(["train", "generator", str(recipe), "--quiet", "model.width=64"]) == 1
    said = capsys.readouterr().err
    assert "cannot resume" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_pickles_in_a_run_are_not_opened(run, label_recipe, tmp_path, mark, capsys):
    recipe, checkpoint = copied(run, tmp_path, label_recipe)
    for name in ("custom_checkpoint_0.pkl", "random_states_0.pkl", "scheduler.bin", "notes.pickle"):
        (checkpoint / name).write_bytes(pickled(mark))
    saved_by_torch(mark, checkpoint / "optimizer.bin")
    assert main(["train", "generator", str(recipe), "--quiet"]) == 0
    shutil.rmtree(checkpoint.parent / f"step-{STEPS:08d}")
    (checkpoint / MANIFEST).unlink()
    assert main(["train", "generator", str(recipe), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "saved by an earlier version as pickles, which can run code and are not read" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_damaged_history_is_passed_over(run, label_recipe, tmp_path):
    recipe, _ = copied(run, tmp_path, label_recipe)
    history = tmp_path / "run" / "metrics.jsonl"
    lines = [b'{"step": "many"}', b"\xff\xfe", b"[]", b"3", b'{"step": NaN}', b'{"step": 1, "lo']
    history.write_bytes(b"\n".join([*history.read_bytes().splitlines(), *lines]))
    assert main(["train", "generator", str(recipe), "--quiet"]) == 0
    assert [json.loads(line)["step"] for line in history.read_text().splitlines()] == list(range(STEPS))
    with history.open("ab") as file:
        file.write(b'\xff\n{"step": "many"}\n{"step": 3, "loss": "low"}\n')
    assert main(["train", "generator", str(recipe), "--plot", str(tmp_path / "a.png")]) == 0


@pytest.mark.slow
def test_every_damaged_file_of_a_cache_is_told(label_recipe, tmp_path, capsys):
    whole = generator_data.load_recipe(label_recipe(tmp_path), generator_data.GeneratorRecipe).cache
    expected = weights(generator.train(label_recipe(tmp_path), quiet=True))
    cache = shutil.copytree(whole, tmp_path / "cache")
    recipe = label_recipe(tmp_path, cache=str(cache))
    for path in sorted(cache.iterdir()):
        content = path.read_bytes()
        for what, damaged in [*damages(path, seed=4, each=4)][:10]:
            path.write_bytes(damaged)
            shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
            code = main(["train", "generator", str(recipe), "--quiet"])
            said = capsys.readouterr().err
            if code == 0:
                assert same(expected, weights(tmp_path / "pipeline")), (path, what)
                continue
            assert code == 1
            assert said.count("\n") == 1, (what, said)
            assert str(cache) in said, (path, what)
        path.unlink()
        assert main(["train", "generator", str(recipe), "--quiet"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        path.write_bytes(content)


def test_a_damaged_part_of_a_cache_is_made_again(label_recipe, tmp_path):
    recipe = label_recipe(tmp_path, cache=str(tmp_path / "cache"))
    generator_data.fill_cache(recipe, quiet=True)
    part = tmp_path / "cache" / "part-00000.safetensors"
    content = part.read_bytes()
    part.write_bytes(flipped(content, len(content) - 1))
    with pytest.raises(
        UserError, match=r"part-00000\.safetensors is missing, damaged.*delete it and cache\.json"
    ):
        generator.train(recipe, quiet=True)
    part.unlink()
    (tmp_path / "cache" / "cache.json").unlink()
    generator_data.fill_cache(recipe, quiet=True)
    assert part.read_bytes() == content
    generator.train(recipe, quiet=True)


@pytest.fixture(scope="module")
def shard(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    files = []
    for image in sorted(corpus.glob("*.png"))[:3]:
        files += [(image.name, image.read_bytes()), (f"{image.stem}.txt", image.stem.encode())]
    path.write_bytes(shard_bytes(files))
    return path


def read(path):
    """Samples, and complaints of images that cannot be read."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        samples = [sample for _, sample in open_dataset(str(path), (32, 32))]
    return samples, [error for sample in samples for error in sample.decode_errors] + told


def test_a_shard_cut_anywhere_is_told(shard, tmp_path):
    content, chance = shard.read_bytes(), random.Random(0)
    end = content.rstrip(b"\0")
    places = [chance.randrange(1, len(end)) for _ in range(40)] + list(range(512, len(end), 512))
    for place in places:
        (tmp_path / "a.tar").write_bytes(content[:place])
        with pytest.raises(UserError, match=r"cannot read shard|has no image"):
            read(tmp_path / "a.tar")


def test_a_turned_byte_of_a_shard_is_told_or_harmless(shard, tmp_path):
    """What a caption or an image holds is the user's; no sample is lost unsaid."""
    content, chance = shard.read_bytes(), random.Random(1)
    for _ in range(60):
        (tmp_path / "a.tar").write_bytes(flipped(content, chance.randrange(len(content.rstrip(b"\0")))))
        found, skipped, refusal = read_or_refused(tmp_path / "a.tar")
        assert "\n" not in refusal
        assert refusal or len(found) + len(skipped) == 3


def read_or_refused(path):
    try:
        return *read(path), ""
    except UserError as error:
        return [], [], str(error)
