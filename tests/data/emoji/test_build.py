"""The builder on packages made here: real SVG, real renderer, real tarballs."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from openhart.data.emoji.build import build_emoji_corpus
from openhart.data.emoji.icons import is_held_out
from openhart.errors import UserError
from tests.data.emoji.made_packages import write_names, write_style

CIRCLE = '<circle cx="16" cy="16" r="12" fill="#d00"/>'
SQUARE = '<rect x="4" y="4" width="24" height="24" fill="#00d"/>'
THINGS = [f"thing-{number}" for number in range(40)]


def icons(body):
    drawn = {
        name: {"body": body.replace('r="12"', f'r="{8 + i * 0.1}"').replace('"24"', f'"{9 + i / 2}"')}
        for i, name in enumerate(THINGS)
    }
    return drawn | {
        "a": {"body": body},
        "waving-hand-light-skin-tone": {"body": body},
        "black-flag": {"body": body},
        "copy-of-thing-3": drawn["thing-3"],
        "wide-thing": {"body": '<rect width="64" height="16" fill="#080"/>', "width": 64, "height": 16},
        "nothing": {"body": ""},
    }


@pytest.fixture
def packages(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    for style, body in (("noto", CIRCLE), ("fluent-flat", SQUARE)):
        write_style(folder, style, icons(body))
    write_names(folder, ["wide: thing"])
    return folder


def build(tmp_path, packages, **options):
    options = {"size": 32, "styles": ("noto", "fluent-flat"), "workers": 1, "quiet": True} | options
    return build_emoji_corpus(tmp_path / "corpus", packages=packages, **options)


def read(folder, split):
    lines = (folder / "corpus" / split / "metadata.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_corpus_holds_things_drawn_whole_and_centred(tmp_path, packages):
    counts = build(tmp_path, packages)
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert sum(counts.values()) == len(train) + len(test)
    names = {record["thing"] for record in train + test}
    assert {"wide thing", "thing 0"} <= names
    assert not names & {"a", "nothing", "black flag", "waving hand light skin tone"}
    digests = set()
    for split, records in (("train", train), ("test", test)):
        for record in records:
            picture = Image.open(tmp_path / "corpus" / split / record["file_name"])
            digests.add(picture.tobytes())
            ground = picture.getpixel((0, 0))
            mask = (np.asarray(picture) != ground).any(axis=2)
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            assert max(np.ptp(rows), np.ptp(columns)) + 1 == 28
            assert abs(rows[0] + rows[-1] - 31) <= 1
    assert len(digests) == len(train) + len(test)
    assert "Somebody" in (tmp_path / "corpus" / "LICENSES.md").read_text()


def test_held_out_things_are_in_no_style_of_train(tmp_path, packages):
    build(tmp_path, packages)
    train, test = ({r["thing"] for r in read(tmp_path, split)} for split in ("train", "test"))
    assert test
    assert not train & test
    assert all(map(is_held_out, test))


def test_captions_name_the_background_and_one_without_a_style_means_one_style(tmp_path, packages):
    build(tmp_path, packages)
    words = {"noto": ("noto", "google"), "fluent-flat": ("flat", "2d")}
    bare = set()
    for record in read(tmp_path, "train"):
        assert record["text"] == record["captions"][0]
        ground = record["background"].replace("grey", "gr[ae]y")
        for caption in record["captions"]:
            assert record["background"] == "white" or re.search(ground, caption)
            if not any(word in caption for word in words[record["style"]]):
                bare.add(record["style"])
    assert bare == {"noto"}


def test_a_build_that_fails_leaves_nothing(tmp_path, packages):
    broken = {"body": "<rect fill=", "width": 32, "height": 32}
    write_style(packages, "noto", icons(CIRCLE) | {"zebra": broken})
    with pytest.raises(UserError, match="SVG is invalid"):
        build(tmp_path, packages)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"styles": ("crayon",)}, "styles must be among"), ({"size": 3}, "at least 16")],
)
def test_impossible_wishes_are_reported(tmp_path, packages, options, word):
    with pytest.raises(UserError, match=word):
        build(tmp_path, packages, **options)


def test_a_full_destination_and_a_broken_package_are_reported(tmp_path, packages):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").touch()
    with pytest.raises(UserError, match="not empty"):
        build(tmp_path, packages)
    (tmp_path / "corpus" / "mine.txt").unlink()
    next(packages.glob("*noto*")).write_bytes(b"no tarball")
    with pytest.raises(UserError, match="is not the package"):
        build(tmp_path, packages)
