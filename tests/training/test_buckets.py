"""Images of several aspect ratios in one run: each cut to the nearest size, a batch of one size."""

import itertools
import json
import shutil

import pytest
import torch
from PIL import Image, ImageDraw

from openhart.cli import main
from openhart.data import open_dataset
from openhart.errors import UserError
from openhart.pipelines.hart import HartPipeline
from openhart.training.encoding import disk as cache
from openhart.training.generator import data as generator_data
from openhart.training.generator import train as generator
from openhart.training.run.batches import EndlessBatches, IndexedBatches
from openhart.training.tokenizer import train as tokenizer
from tests.data.shard_files import shard_bytes
from tests.training.corpus import draw_corpus, generator_recipe, logged, tokenizer_recipe, write_recipe

SIZES = [(32, 32), (24, 40), (40, 24)]
SHAPES = {"square": (60, 64), "wide": (100, 60), "tall": (50, 90)}  # width, height


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder, records = tmp_path_factory.mktemp("corpus"), []
    for kind, (width, height) in SHAPES.items():
        for number in range(5 if kind == "wide" else 3):
            image = Image.new("RGB", (width, height), "white")
            ImageDraw.Draw(image).ellipse((10, 10, width - 10, height - 10), fill=(60 * number, 0, 99))
            image.save(folder / f"{kind}-{number}.png")
            records.append({"file_name": f"{kind}-{number}.png", "text": f"a {kind} ball"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def image_tokenizer(tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer")
    values = tokenizer_recipe(draw_corpus(output), output, steps=(2, 3, 1))
    return tokenizer.train(write_recipe(output / "recipe.yaml", values), quiet=True)


def test_an_image_takes_the_size_nearest_to_its_shape(corpus, tmp_path):
    dataset = open_dataset(str(corpus), *SIZES)
    wanted = {"square": SIZES[0], "wide": SIZES[1], "tall": SIZES[2]}
    for image, sample in (dataset[index] for index in range(len(dataset))):
        size = wanted[sample.name.partition("-")[0]]
        assert sample.size == size
        assert image.shape == (3, *size)
    picture = Image.new("RGB", (100, 60))
    exif = picture.getexif()
    exif[0x0112] = 6  # lies on its side
    (tmp_path / "ball").mkdir()
    picture.save(tmp_path / "ball" / "turned.jpg", exif=exif)
    assert open_dataset(str(tmp_path), *SIZES)[0][0].shape == (3, 40, 24)


@pytest.mark.parametrize("world", [1, 2])
def test_a_batch_is_of_one_size_and_an_epoch_has_every_image(corpus, world):
    dataset = open_dataset(str(corpus), *SIZES)
    buckets = [sample.size for sample in dataset.samples]
    ranks = [EndlessBatches(buckets, 2, seed=3, rank=rank, world=world) for rank in range(world)]
    steps = ranks[0].length // (2 * world)
    seen = []
    for parts in itertools.islice(zip(*ranks, strict=False), steps):
        together = list(itertools.chain(*parts))
        assert len({buckets[index] for index in together}) == 1
        seen += together
    assert set(seen) == set(range(len(dataset)))
    later = EndlessBatches(buckets, 2, seed=3, first=2, world=world)
    assert list(itertools.islice(later, 5)) == list(itertools.islice(ranks[0], 7))[2:]


def test_what_stands_for_a_broken_image_has_its_size(corpus, tmp_path):
    lines = (corpus / "metadata.jsonl").read_text()
    (tmp_path / "metadata.jsonl").write_text(lines)
    for path in corpus.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    dataset = open_dataset(str(tmp_path), *SIZES)
    (tmp_path / "square-2.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="square-2"):
        batches = list(itertools.islice(IndexedBatches(dataset, 3, seed=0, workers=0).after(0), 8))
    assert all(images.ndim == 4 for images, _ in batches)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["memory", "none"])
def test_a_generator_learns_all_sizes_and_makes_them(corpus, image_tokenizer, tmp_path, kept):
    values = generator_recipe(corpus, tmp_path, image_tokenizer, steps=40, cache=kept, token_dropping={})
    values["data"] |= {"buckets": SIZES, "batch_size": 4}
    folder = generator.train(write_recipe(tmp_path / "recipe.yaml", values), quiet=True)
    losses = logged(tmp_path, "cross_entropy")
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    pipeline = HartPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for height, width in SIZES:
        image = pipeline("a wide ball", height=height, width=width).images[0]
        assert image.size == (width, height)


@pytest.mark.slow
def test_caching_and_encoding_see_the_same_batches(corpus, image_tokenizer, tmp_path):
    losses = []
    for kept in ("memory", "none"):
        output = tmp_path / kept
        output.mkdir()
        values = generator_recipe(corpus, output, image_tokenizer, steps=4, cache=kept, sample_prompts=[])
        values["data"] |= {"buckets": SIZES, "batch_size": 3}
        generator.train(write_recipe(output / "recipe.yaml", values), quiet=True)
        losses.append(logged(output, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # a cache keeps bfloat16 targets


@pytest.mark.slow
def test_a_cache_on_disk_is_the_same_as_one_in_memory(corpus, image_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SAMPLES_A_PART", 6)
    losses = []
    for kind, kept in (("disk", str(tmp_path / "cache")), ("memory", "memory")):
        output = tmp_path / kind
        output.mkdir()
        values = generator_recipe(corpus, output, image_tokenizer, steps=6, cache=kept, sample_prompts=[])
        values["data"] |= {"buckets": SIZES, "batch_size": 1}
        recipe = write_recipe(output / "recipe.yaml", values)
        if kind == "disk":
            assert generator_data.fill_cache(recipe, quiet=True)[1] == 11
        generator.train(recipe, quiet=True)
        losses.append(logged(output, "loss"))
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match="made with data"):
        generator.train(tmp_path / "disk" / "recipe.yaml", ["data.buckets=[[32, 32], [24, 40]]"], quiet=True)


@pytest.mark.slow
def test_shards_of_all_sizes_train_and_resume_exactly(corpus, image_tokenizer, tmp_path):
    files = [(path.name, path.read_bytes()) for path in sorted(corpus.glob("*.png"))]
    with_texts = [pair for name, data in files for pair in ((name, data), (name[:-3] + "txt", b"a ball"))]
    (tmp_path / "0.tar").write_bytes(shard_bytes(with_texts))

    values = generator_recipe(
        tmp_path / "0.tar", tmp_path, image_tokenizer, steps=6, cache="none", sample_prompts=[]
    )
    values["data"] |= {"buckets": SIZES, "batch_size": 2}
    values["run"]["save_every"] = 4
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    generator.train(recipe, quiet=True)
    whole = logged(tmp_path, "loss")
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000006")
    generator.train(recipe, quiet=True)
    assert logged(tmp_path, "loss")[-2:] == whole[-2:]


def test_another_size_is_made_of_the_same_weights(text_pipeline):
    transformer, image_tokenizer = text_pipeline.transformer, text_pipeline.image_tokenizer
    scales = image_tokenizer.scales_for_image((24, 40))
    assert scales == ((1, 1), (2, 2), (2, 4), (3, 5))
    assert transformer.check_scales(scales) == scales
    images = torch.randn(2, 3, 24, 40)
    quantized = image_tokenizer.quantize(image_tokenizer.encode(images))
    assert image_tokenizer.decode_codes(quantized.codes, (24, 40)).shape == images.shape


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"data.buckets": [[32, 32], [30, 40]]}, "multiples of 8"),
        ({"data.buckets": [[32, 32]]}, "two sizes or more"),
        ({"model.positions": "learned", "data.buckets": SIZES}, "learned positions"),
        ({"data.buckets": [[32]]}, "data.buckets.0"),
    ],
)
def test_buckets_that_cannot_be_are_told(corpus, image_tokenizer, tmp_path, change, word, capsys):
    values = generator_recipe(corpus, tmp_path / "out", image_tokenizer)
    for name, value in change.items():
        section, _, key = name.rpartition(".")
        (values[section] if section else values)[key] = value
    values = json.loads(json.dumps(values))
    assert main(["train", "generator", str(write_recipe(tmp_path / "r.yaml", values)), "--quiet"]) == 1
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_size_that_cannot_be_made_is_told(text_model, tmp_path, capsys):
    command = ["generate", "a ball", "-o", str(tmp_path / "a.png"), "--model", str(text_model)]
    assert main([*command, "--height", "33"]) == 1
    assert "multiples of" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
    assert main([*command, "--height", "24", "--width", "40", "--quiet"]) == 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (40, 24)
