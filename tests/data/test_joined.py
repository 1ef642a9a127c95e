"""Several data sets as one."""

import json

import pytest
import torch
from PIL import Image

from openhart.data import open_dataset
from openhart.data.joined import into_memory
from openhart.data.memory import ImagesInMemory
from openhart.errors import UserError


@pytest.fixture
def folders(tmp_path):
    for name, count in (("first", 2), ("second", 3)):
        folder = tmp_path / name
        folder.mkdir()
        lines = []
        for number in range(count):
            file_name = f"{name}-{number}.png"
            Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(folder / file_name)
            lines.append(json.dumps({"file_name": file_name, "text": file_name, "kind": str(number)}))
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "first"), str(tmp_path / "second")


def names(dataset):
    return [dataset[index][1].name for index in range(len(dataset))]


def test_data_sets_follow_each_other_as_often_as_they_are_named(folders):
    first, second = folders
    joined = open_dataset([second, first, second], (8, 8))
    once = [names(open_dataset(folder, (8, 8))) for folder in folders]
    assert names(joined) == once[1] + once[0] + once[1]
    assert [sample.name for sample in joined.all_samples()] == names(joined)


def test_records_are_selected_in_each_data_set(folders):
    joined = open_dataset(list(folders), (8, 8), only={"kind": ["1"]})
    assert names(joined) == ["first-1.png", "second-1.png"]


def test_sizes_are_those_of_each_image(folders):
    joined = open_dataset(list(folders), (8, 8), (8, 16))
    assert [joined.bucket(index) for index in range(5)] == [(8, 8)] * 5


def test_in_memory_each_data_set_is_decoded_once_and_occurs_as_often_as_it_is_named(folders):
    first, second = folders
    joined = open_dataset([second, first, second], (8, 8))
    decoded = []

    def decode(dataset):
        decoded.extend(names(dataset))
        return ImagesInMemory(dataset, 0, torch.device("cpu"))

    kept = into_memory(joined, decode)
    assert sorted(decoded) == sorted(set(names(joined)))
    assert names(kept) == [sample.name for sample in kept.all_samples()] == names(joined)
    images, samples = kept.take([6, 3, 1])
    assert torch.equal(images, torch.stack([joined[index][0] for index in (6, 3, 1)]))
    assert [sample.name for sample in samples] == [names(joined)[index] for index in (6, 3, 1)]


@pytest.mark.parametrize(("paths", "word"), [([], "at least one"), (["first", "x-{0..1}.tar"], "stream")])
def test_what_cannot_be_joined_is_refused(folders, paths, word):
    with pytest.raises(UserError, match=word):
        open_dataset([folders[0] if path == "first" else path for path in paths], (8, 8))
