"""Shards are read once a pass by however many readers, and a stream goes on exactly where it was."""

import io
import itertools
import warnings

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from openhart.data import open_dataset
from openhart.data.shards import Shards, ShardStream
from openhart.errors import UserError
from openhart.training.run.batches import StreamedBatches
from tests.data.shard_files import shard_bytes

SIZE = (8, 8)
BROKEN_PNG = b"\x89PNG no picture"


def samples_of(shard, count, broken=()):
    for number in range(count):
        picture = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 16 * number, np.uint8)).save(picture, "PNG")
        key = f"{shard}-{number}"
        yield f"{key}.png", BROKEN_PNG if number in broken else picture.getvalue()
        yield f"{key}.txt", key.encode()


@pytest.fixture
def pattern(tmp_path):
    for shard in range(5):
        (tmp_path / f"{shard}.tar").write_bytes(shard_bytes(samples_of(shard, 7)))
    return str(tmp_path / "{0..4}.tar")


EVERY = sorted(f"{shard}-{number}" for shard in range(5) for number in range(7))


def texts(batches, count):
    return [
        [sample.fields["text"] for sample in samples]
        for _, samples in itertools.islice(batches.after(0), count)
    ]


def test_shards_give_every_sample_once_in_order(pattern):
    samples = list(open_dataset(pattern, SIZE))
    assert [sample.fields["text"] for _, sample in samples] == EVERY
    assert all(image.shape == (3, *SIZE) for image, _ in samples)


@pytest.mark.parametrize("world", [1, 3, 7])
def test_each_pass_of_a_stream_is_shuffled_and_shared_out(pattern, world):
    shards, passes = Shards(pattern, SIZE), []
    for rank in range(world):
        stream = ShardStream(shards, seed=1, rank=rank, world=world)
        first = itertools.takewhile(lambda _, s=stream: s.position["epoch"] == 0, iter(stream))
        passes.append([sample.fields["text"] for _, sample in first])
    assert sorted(itertools.chain(*passes)) == EVERY
    assert list(itertools.chain(*passes)) != EVERY


def test_the_next_pass_has_another_order(pattern):
    stream = StreamedBatches(Shards(pattern, SIZE), 35, seed=0, workers=0)
    first, second = texts(stream, 2)
    assert sorted(first) == sorted(second) == EVERY
    assert first != second


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 4, 13])
def test_a_stream_goes_on_exactly_where_it_was(pattern, workers, done):
    settings = {"batch_size": 3, "seed": 0, "workers": workers}
    whole = texts(StreamedBatches(Shards(pattern, SIZE), **settings), done + 6)
    batches = StreamedBatches(Shards(pattern, SIZE), **settings)
    texts(batches, done)
    state = batches.state_dict()
    resumed = StreamedBatches(Shards(pattern, SIZE), **settings)
    resumed.load_state_dict(state)
    assert texts(resumed, 6) == whole[done:]


def test_resuming_reads_no_shard_that_is_done(pattern, tmp_path):
    batches = StreamedBatches(Shards(pattern, SIZE), 5, seed=0, workers=0)
    seen = list(itertools.chain(*texts(batches, 3)))
    resumed = StreamedBatches(Shards(pattern, SIZE), 5, seed=0, workers=0)
    resumed.load_state_dict(batches.state_dict())
    for text in seen[:14]:
        (tmp_path / f"{text[0]}.tar").write_bytes(b"gone")
    assert len(texts(resumed, 4)) == 4


def test_other_workers_cannot_resume(pattern):
    batches = StreamedBatches(Shards(pattern, SIZE), 3, seed=0, workers=0)
    state = batches.state_dict()
    with pytest.raises(UserError, match=r"1 processes of 0 workers, not with 1 of 2"):
        StreamedBatches(Shards(pattern, SIZE), 3, seed=0, workers=2).load_state_dict(state)


def test_shards_at_a_url():
    files = fsspec.filesystem("memory")
    for shard in range(2):
        files.pipe(f"/bucket/{shard}.tar", shard_bytes(samples_of(shard, 2)))
    for pattern in ("memory://bucket/{0..1}.tar", "memory://bucket/*.tar"):
        samples = list(open_dataset(pattern, SIZE))
        assert [sample.fields["text"] for _, sample in samples] == ["0-0", "0-1", "1-0", "1-1"]


@pytest.mark.usefixtures("pattern")
def test_a_pattern_with_a_star(tmp_path):
    assert len(list(open_dataset(str(tmp_path / "*.tar"), SIZE))) == len(EVERY)
    with pytest.raises(UserError, match="there is no shard"):
        open_dataset(str(tmp_path / "other-*.tar"), SIZE)


def test_labels_and_records(tmp_path):
    picture = next(samples_of(0, 1))[1]
    files = [("a.png", picture), ("a.cls", b"3"), ("b.png", picture), ("b.json", b'{"captions": ["x", "y"]}')]
    (tmp_path / "0.tar").write_bytes(shard_bytes(files))
    first, second = (sample.fields for _, sample in open_dataset(str(tmp_path / "0.tar"), SIZE))
    assert first == {"label": 3, "file_name": "a.png"}
    assert second == {"captions": ["x", "y"], "file_name": "b.png"}


def test_a_broken_image_is_left_out_and_named(tmp_path):
    (tmp_path / "0.tar").write_bytes(shard_bytes(samples_of(0, 4, broken=[1])))
    batches = StreamedBatches(Shards(str(tmp_path / "0.tar"), SIZE), 3, seed=0, workers=0)
    with pytest.warns(UserWarning, match=r"skipped an image \(1 so far\): .*0\.tar/0-1") as told:
        seen = texts(batches, 3)
    assert len(told) == 1
    assert {text for batch in seen for text in batch} == {"0-0", "0-2", "0-3"}


def test_broken_images_in_a_row_are_all_named(tmp_path):
    (tmp_path / "0.tar").write_bytes(shard_bytes(samples_of(0, 5, broken=[1, 2])))
    samples = [sample for _, sample in open_dataset(str(tmp_path / "0.tar"), SIZE)]
    assert [sample.fields["text"] for sample in samples] == ["0-0", "0-3", "0-4"]
    first, second = samples[1].decode_errors
    assert "0-1" in first
    assert "0-2" in second


def test_a_broken_last_image_is_named_too(tmp_path):
    (tmp_path / "0.tar").write_bytes(shard_bytes(samples_of(0, 3, broken=[2])))
    with pytest.warns(UserWarning, match="skipped an image: .*0-2"):
        assert len(list(open_dataset(str(tmp_path / "0.tar"), SIZE))) == 2


def test_shards_without_a_readable_image_are_reported(tmp_path):
    (tmp_path / "0.tar").write_bytes(shard_bytes(samples_of(0, 3, broken=[0, 1, 2])))
    batches = StreamedBatches(Shards(str(tmp_path / "0.tar"), SIZE), 2, seed=0, workers=0)
    with pytest.raises(UserError, match="no image can be read"):
        texts(batches, 1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("files", "word"),
    [
        ([("a.txt", b"no picture here")], "sample .*0.tar/a has no image"),
        ([("a.png", next(samples_of(0, 1))[1]), ("a.json", b"{")], "record that cannot be read"),
        ([], "no samples"),
    ],
)
def test_bad_samples_are_reported(tmp_path, files, word, workers):
    (tmp_path / "0.tar").write_bytes(shard_bytes(files))
    batches = StreamedBatches(Shards(str(tmp_path / "0.tar"), SIZE), 1, seed=0, workers=workers)
    with warnings.catch_warnings(), pytest.raises(UserError, match=word) as told:
        texts(batches, 1)
    assert "Traceback" not in str(told.value)


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("{}/none-{{0..3}}.tar", "there is no shard .*none-0.tar"),
        ("nowhere://x/0.tar", "cannot .*nowhere://"),
    ],
)
def test_missing_shards_are_reported_at_once(tmp_path, pattern, word):
    with pytest.raises(UserError, match=word):
        open_dataset(pattern.format(tmp_path), SIZE)


def test_a_cut_off_shard_is_named(tmp_path):
    inside_a_file = 512 + 30
    (tmp_path / "0.tar").write_bytes(shard_bytes(samples_of(0, 4))[:inside_a_file])
    with pytest.raises(UserError, match=r"cannot read shard .*0\.tar"):
        list(open_dataset(str(tmp_path / "0.tar"), SIZE))


def test_images_are_those_of_the_shard(pattern):
    image, sample = next(iter(open_dataset(pattern, SIZE)))
    assert sample.fields["text"] == "0-0"
    assert torch.equal(image, torch.full((3, *SIZE), -1.0))
