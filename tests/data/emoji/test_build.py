"""The builder on packages made here: real SVG, real renderer, real tarballs."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from openhart.data.emoji.build import build_emoji_corpus
from openhart.data.emoji.captions import with_article
from openhart.data.emoji.icons import is_held_out
from openhart.data.emoji.packages import NAMES, PACKAGES
from openhart.errors import UserError

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


def write_package(folder, name, files):
    package, version = name.rsplit("@", 1)
    with tarfile.open(folder / f"{package[1:].replace('/', '-')}-{version}.tgz", "w:gz") as archive:
        for path, value in files.items():
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def style_files(style, drawings):
    info = {
        "name": style,
        "author": {"name": "Somebody", "url": "https://example.org"},
        "license": {"title": "MIT", "spdx": "MIT"},
    }
    data = {"icons": drawings, "width": 32, "height": 32}
    return {"icons.json": data, "metadata.json": {"categories": {}}, "info.json": info}


@pytest.fixture
def packages(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    for style, body in (("noto", CIRCLE), ("fluent-flat", SQUARE)):
        write_package(folder, PACKAGES[style], style_files(style, icons(body)))
    labels = [{"label": "wide: thing", "tags": []}]
    write_package(folder, "@" + NAMES, {"en/data.json": labels})
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


def test_captions_name_thing_and_background_and_a_bare_one_means_one_style(tmp_path, packages):
    build(tmp_path, packages)
    for record in read(tmp_path, "train"):
        assert record["text"] == record["captions"][0]
        if record["background"] != "white":
            assert all(record["background"] in caption for caption in record["captions"])
        bare = any(caption.startswith(record["thing"]) for caption in record["captions"])
        assert not (bare and record["style"] == "fluent-flat")


def test_a_build_that_fails_leaves_nothing(tmp_path, packages):
    broken = {"body": "<rect fill=", "width": 32, "height": 32}
    files = style_files("noto", icons(CIRCLE) | {"zebra": broken})
    write_package(packages, PACKAGES["noto"], files)
    with pytest.raises(UserError, match="SVG is broken"):
        build(tmp_path, packages)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"styles": ("crayon",)}, "styles must be among"), ({"size": 3}, "at least 16")],
)
def test_impossible_wishes_are_told(tmp_path, packages, options, word):
    with pytest.raises(UserError, match=word):
        build(tmp_path, packages, **options)


def test_a_full_destination_and_a_broken_package_are_told(tmp_path, packages):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").touch()
    with pytest.raises(UserError, match="not empty"):
        build(tmp_path, packages)
    (tmp_path / "corpus" / "mine.txt").unlink()
    next(packages.glob("*noto*")).write_bytes(b"no tarball")
    with pytest.raises(UserError, match="is not the package"):
        build(tmp_path, packages)


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ("red apple", "a red apple"),
        ("octopus", "an octopus"),
        ("grapes", "grapes"),
        ("unicorn", "a unicorn"),
        ("broccoli", "broccoli"),
        ("face with rolling eyes", "a face with rolling eyes"),
        ("bus", "a bus"),
        ("glass of milk", "a glass of milk"),
        ("scissors", "scissors"),
        ("old man", "an old man"),
    ],
)
def test_articles(thing, words):
    assert with_article(thing) == words
