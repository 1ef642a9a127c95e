"""Images that are kept in memory."""

import itertools

import pytest
import torch
from PIL import Image

from openhart.data.images import ImageFolder
from openhart.data.memory import ImagesInMemory
from openhart.tokenizer.model import HybridTokenizer
from openhart.training.run.batches import IndexedBatches
from openhart.training.tokenizer import train as tokenizer
from tests.training.corpus import draw_corpus, tokenizer_recipe, write_recipe

CPU = torch.device("cpu")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return draw_corpus(folder)


def test_batches_are_those_of_the_folder(corpus):
    folder = ImageFolder(corpus, (32, 32))
    read, kept = (
        itertools.islice(IndexedBatches(dataset, 3, seed=0, workers=0).after(2), 6)
        for dataset in (folder, ImagesInMemory(folder, 0, CPU))
    )
    for (images, samples), (expected, wanted) in zip(kept, read, strict=True):
        assert torch.equal(images, expected)
        assert [sample.name for sample in samples] == [sample.name for sample in wanted]


def test_a_broken_image_is_replaced_and_named(corpus):
    (corpus / "red-circle.png").write_bytes(b"no picture at all")
    with pytest.warns(UserWarning, match=r"skipped an image \(1 so far\): .*red-circle\.png"):
        kept = ImagesInMemory(ImageFolder(corpus, (32, 32)), 0, CPU)
    assert len(kept) == 8


def test_a_tokenizer_learns_the_same(corpus, tmp_path):
    weights = []
    for in_memory in (False, True):
        output = tmp_path / str(in_memory)
        output.mkdir()
        values = tokenizer_recipe(corpus, output, steps=(2, 2, 1))
        values["data"]["in_memory"] = in_memory
        folder = tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)
        weights.append(HybridTokenizer.from_pretrained(folder).state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_generator_is_told_its_own_setting(tmp_path, corpus, capsys):
    from openhart.cli import main
    from tests.training.corpus import generator_recipe

    tokenizer_folder = tmp_path / "tokenizer"
    values = tokenizer_recipe(corpus, tmp_path / "run", steps=(1, 1, 1))
    trained = tokenizer.train(write_recipe(tmp_path / "t.yaml", values), quiet=True)
    trained.rename(tokenizer_folder)
    values = generator_recipe(corpus, tmp_path / "out", tokenizer_folder)
    values["data"]["in_memory"] = True
    assert main(["train", "generator", str(write_recipe(tmp_path / "g.yaml", values)), "--quiet"]) == 1
    assert "cache: memory" in capsys.readouterr().err


def test_decoded_once(corpus):
    kept = ImagesInMemory(ImageFolder(corpus, (32, 32)), 0, CPU)
    for path in corpus.glob("*.png"):
        Image.new("RGB", (32, 32)).save(path)
    assert kept.take([0, 7])[0].std() > 0.1
