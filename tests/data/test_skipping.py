import warnings

import pytest
import torch
from PIL import Image

from openhart.data.images import ImageFolder
from openhart.data.sample import Sample
from openhart.data.skipping import BrokenImages, SkipBrokenDataset
from openhart.errors import UserError
from openhart.training.run.batches import IndexedBatches


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "things").mkdir()
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / "things" / f"{number}.png")
    return tmp_path


def batches(folder, count, first=0):
    stream = IndexedBatches(ImageFolder(folder, (16, 16)), 3, seed=0, workers=0).after(first)
    return [next(stream) for _ in range(count)]


def test_a_broken_image_is_replaced_named_once_and_counted(folder):
    whole = batches(folder, 4)
    (folder / "things" / "2.png").write_bytes(b"no picture at all")
    with pytest.warns(UserWarning, match=r"skipped an image \(1 so far\): .*2\.png") as told:
        patched = batches(folder, 4)
    assert len(told) == 1
    for (images, samples), (expected, wanted) in zip(patched, whole, strict=True):
        assert images.shape == expected.shape
        for place, sample in enumerate(wanted):
            if "2.png" in sample.name:
                assert samples[place].name.endswith("3.png")
                assert "2.png" in samples[place].decode_errors[0]
            else:
                assert torch.equal(images[place], expected[place])


def test_what_takes_a_place_does_not_depend_on_where_a_run_resumes(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = SkipBrokenDataset(ImageFolder(folder, (16, 16)))
        (folder / "things" / "5.png").write_bytes(b"")
        (folder / "things" / "0.png").write_bytes(b"")
        straight, resumed = batches(folder, 4), batches(folder, 2, first=2)
        for (images, _), (again, _) in zip(straight[2:], resumed, strict=True):
            assert torch.equal(images, again)
        assert dataset[5][1].name.endswith("1.png")


def test_a_folder_of_broken_images_is_reported(folder):
    for path in (folder / "things").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no image can be read; the first error: .*0\.png"):
        SkipBrokenDataset(ImageFolder(folder, (16, 16)))[0]


def test_they_are_counted():
    broken = BrokenImages()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        broken.note([Sample({}, decode_errors=("a",)), Sample({}), Sample({}, decode_errors=("b",))])
        broken.note([Sample({}, decode_errors=("a",))])
    assert len(broken) == 2
