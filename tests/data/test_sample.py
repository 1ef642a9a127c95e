"""Captions and labels are looked at before training begins."""

import json

import pytest
from PIL import Image

from openhart.data import open_dataset
from openhart.data.sample import Sample, check_samples
from openhart.errors import UserError

BAD_CAPTIONS = [
    {}, {"text": ""}, {"text": 3}, {"text": ["a"]}, {"text": "\ud800"}, {"captions": ["a", None]},
    {"captions": ["a", 3]}, {"captions": ["a", " "]}, {"captions": "a"}, {"captions": {"a": 1}},
]  # fmt: skip
BAD_LABELS = [
    {},
    {"label": None},
    {"label": "7"},
    {"label": 1.0},
    {"label": True},
    {"label": -1},
    {"label": 5},
]


def samples(*records):
    return [Sample({"file_name": "b.png"} | record) for record in records]


@pytest.mark.parametrize("record", BAD_CAPTIONS, ids=str)
def test_bad_captions(record):
    with pytest.raises(UserError, match=r"a\.png"):
        check_samples(samples({"text": "b"}, {"file_name": "a.png"} | record), "text", None)


@pytest.mark.parametrize("record", BAD_LABELS, ids=str)
def test_bad_labels(record):
    with pytest.raises(UserError, match=r"a\.png"):
        check_samples(samples({"label": 4}, {"file_name": "a.png"} | record), "label", 5)


def test_good_ones():
    assert Sample({"text": "a"}).captions == ["a"]
    several = Sample({"text": "a", "captions": ["b", "c"]})
    assert (several.captions, several.main_caption) == (["b", "c"], "a")
    assert Sample({"label": 0}).label(1) == 0


@pytest.mark.parametrize("size", [None, (16, 24)])
@pytest.mark.parametrize("errors", [(), ("cannot read b.png",)])
@pytest.mark.parametrize("rows", [None, (3, (0, 4))])
def test_a_record_holds_all_of_a_sample(size, errors, rows):
    sample = Sample({"file_name": "a.png", "text": "a", "style": "flat"}, size, errors, rows)
    assert Sample.from_record(json.loads(json.dumps(sample.to_record()))) == sample


def test_names_that_data_sets_use_themselves_are_left_out(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    record = {"file_name": "a.png", "text": "a\u2028b", "cut_to": "x", "in_place_of": 3}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8-sig")
    image, found = open_dataset(str(tmp_path), (16, 24))[0]
    assert image.shape == (3, 16, 24)
    assert found == Sample({"file_name": "a.png", "text": "a\u2028b"})


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"file_name": "\xff.png"}', "not a text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"file_name": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"file_name": 3}', "line 1: a record must have a file_name"),
        (b"[]", "line 1 must hold a JSON object"),
    ],
    ids=["UTF-8", "deep", "long", "name", "list"],
)
def test_metadata_that_cannot_be_read(tmp_path, content, word):
    (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=word):
        open_dataset(str(tmp_path), (16, 24))
