"""Data sets of Hugging Face's library, from a folder: the hub is the same call."""

import warnings

import pytest
from PIL import Image

from openhart.data import open_dataset
from openhart.data.skipping import SkipBrokenDataset
from openhart.errors import UserError

SIZE = (8, 8)
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "caption": datasets.Value("string"),
            "kind": datasets.ClassLabel(names=["ant", "bee"]),
            "words": datasets.List(datasets.Value("string")),
        }
    )
    rows = [
        {
            "photo": Image.new("RGB", (20, 10), colour),
            "caption": f"a {colour} thing",
            "kind": number % 2,
            "words": [colour, "thing"],
        }
        for number, colour in enumerate(("red", "green", "blue"))
    ]
    target = tmp_path / "set"
    target.mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(target / "train.parquet")
    return target


def test_columns_are_found_by_kind_and_name(folder):
    dataset = open_dataset(f"hf:{folder}", SIZE)
    assert len(dataset) == 3
    image, sample = dataset[1]
    assert image.shape == (3, *SIZE)
    assert sample.fields == {
        "text": "a green thing",
        "label": 1,
        "file_name": f"row 1 of hf:{folder}",
    }


def test_columns_can_be_named(folder):
    dataset = open_dataset(f"hf:{folder}?split=train&image=photo&text=words", SIZE)
    assert dataset[0][1].fields["captions"] == ["red", "thing"]


def test_only_some_rows(folder):
    dataset = open_dataset(f"hf:{folder}", SIZE, only={"caption": ["a blue thing"]})
    assert [dataset[0][1].fields["text"]] == ["a blue thing"]
    assert len(dataset) == 1


def test_each_image_takes_the_size_nearest_to_its_shape(tmp_path):
    pictures = tmp_path / "pictures" / "bee"
    pictures.mkdir(parents=True)
    for name, size in {"a": (20, 10), "b": (10, 20), "c": (9, 10)}.items():
        Image.new("RGB", size).save(pictures / f"{name}.png")
    (pictures / "b.png").with_name("d.png").write_bytes(b"no picture")
    sizes = [(8, 8), (4, 8), (8, 4)]
    dataset = open_dataset(f"hf:{tmp_path / 'pictures'}", *sizes)
    assert [dataset.bucket(index) for index in range(4)] == [(4, 8), (8, 4), (8, 8), (8, 8)]
    image, sample = dataset[1]
    assert image.shape == (3, 8, 4)
    assert sample.size == (8, 4)
    assert SkipBrokenDataset(dataset)[3][0].shape == (3, 8, 8)


def test_a_broken_image_is_replaced(tmp_path):
    pictures = tmp_path / "pictures" / "bee"
    pictures.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(pictures / f"{number}.png")
    (pictures / "1.png").write_bytes(b"no picture")
    dataset = SkipBrokenDataset(open_dataset(f"hf:{tmp_path / 'pictures'}", SIZE))
    assert "cannot read" in dataset[1][1].decode_errors[0]
    assert dataset[1][0].equal(dataset[2][0])


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?split=none", "cannot load data set"),
        ("?colour=red", "there is no setting colour"),
        ("?image=caption", "no image column caption"),
        ("?text=alt", "no column alt"),
    ],
)
def test_what_is_not_there_is_reported(folder, query, word):
    with warnings.catch_warnings(), pytest.raises(UserError, match=word):
        open_dataset(f"hf:{folder}{query}", SIZE)


def test_a_missing_data_set_is_reported(tmp_path):
    with pytest.raises(UserError, match="cannot load data set"):
        open_dataset(f"hf:{tmp_path / 'nowhere'}", SIZE)
