"""Shards whose images have many shapes: a batch is of one size, and nothing is lost or seen twice."""

import io
import itertools

import pytest
from PIL import Image

from openhart.data import open_dataset
from openhart.data.shards import Shards
from openhart.errors import UserError
from openhart.training.run.batches import StreamedBatches
from tests.data.shard_files import shard_bytes

SIZES = [(8, 8), (4, 12), (12, 4)]
SHAPES = [(20, 20), (30, 10), (10, 30), (21, 20), (28, 10)]  # width, height
PASS = 48 * 3  # one window of batches of three


def samples_of(shard, count, broken=()):
    for number in range(count):
        picture = io.BytesIO()
        place = shard * count + number
        Image.new("RGB", SHAPES[place % len(SHAPES)], (place, 0, 0)).save(picture, "PNG")
        yield f"{place:03d}.png", b"no picture" if place in broken else picture.getvalue()
        yield f"{place:03d}.txt", b"a ball"


def write_shards(folder, count=PASS, shards=4, broken=()):
    for shard in range(shards):
        content = shard_bytes(samples_of(shard, count // shards, broken))
        (folder / f"{shard}.tar").write_bytes(content)
    return str(folder / "*.tar")


@pytest.fixture
def pattern(tmp_path):
    return write_shards(tmp_path)


def names(batches, count):
    found = itertools.islice(batches.after(0), count)
    return [[sample.name for sample in samples] for _, samples in found]


def test_in_order_each_image_has_the_size_nearest_to_its_shape(pattern):
    for image, sample in itertools.islice(open_dataset(pattern, *SIZES), 10):
        width, height = SHAPES[int(sample.name[:3]) % len(SHAPES)]
        wanted = (8, 8) if abs(width - height) < 2 else (4, 12) if width > height else (12, 4)
        assert sample.size == wanted
        assert image.shape == (3, *wanted)


def test_a_batch_has_one_size_and_a_pass_every_image_once(pattern):
    batches = StreamedBatches(Shards(pattern, *SIZES), 3, seed=0, workers=0)
    seen, as_nearest = [], 0
    for images, samples in itertools.islice(batches.after(0), PASS // 3):
        assert {sample.size for sample in samples} == {tuple(images.shape[2:])}
        seen += [sample.name for sample in samples]
        for sample in samples:
            width, height = SHAPES[int(sample.name[:3]) % len(SHAPES)]
            as_nearest += (width > 2 * height) == (sample.size == (4, 12))
    assert len(set(seen)) == len(seen) == PASS
    assert seen != sorted(seen)
    assert as_nearest >= PASS - 6  # at most two a size are left over


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 7, 50])
def test_batches_go_on_exactly_where_they_were(pattern, workers, done):
    settings = {"batch_size": 3, "seed": 0, "workers": workers}
    whole = names(StreamedBatches(Shards(pattern, *SIZES), **settings), done + 6)
    batches = StreamedBatches(Shards(pattern, *SIZES), **settings)
    names(batches, done)
    resumed = StreamedBatches(Shards(pattern, *SIZES), **settings)
    resumed.load_state_dict(batches.state_dict())
    assert names(resumed, 6) == whole[done:]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_broken_image_is_left_out_and_named(tmp_path, batch_size):
    pattern = write_shards(tmp_path, broken=[17, 18])
    batches = StreamedBatches(Shards(pattern, *SIZES), batch_size, seed=0, workers=0)
    with pytest.warns(UserWarning, match="skipped an image") as told:
        seen = names(batches, PASS // batch_size + 48)
    assert {"017" in str(each.message) for each in told} == {"018" not in str(each.message) for each in told}
    assert all(len(batch) == batch_size for batch in seen)
    assert {f"{place:03d}.png" for place in range(PASS) if place not in (17, 18)} == set(
        itertools.chain(*seen)
    )


def test_nothing_readable_is_reported(tmp_path):
    pattern = write_shards(tmp_path, count=8, broken=range(8))
    batches = StreamedBatches(Shards(pattern, *SIZES), 2, seed=0, workers=0)
    with pytest.raises(UserError, match="no image can be read"):
        names(batches, 1)
