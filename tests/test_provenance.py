"""How an image was made is in its file, and ``openhart generate --like`` makes it again."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from openhart.cli import main
from openhart.errors import UserError
from openhart.image_io import save_image
from openhart.provenance import Record, model_hash, read_record

VALUES = {"seed": 7, "height": 32, "width": 32, "sampling": {"top_k": 5}}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings(max_examples=30, deadline=None)
@given(texts, texts, st.integers(0, 2**63 - 1), st.sampled_from([".png", ".jpg", ".webp"]))
def test_a_record_is_read_as_it_was_written(tmp_path_factory, prompt, negative, seed, suffix):
    record = Record(**VALUES | {"seed": seed}, prompt=prompt, negative_prompt=negative, model_hash="ab")
    path = tmp_path_factory.mktemp("records") / f"image{suffix}"
    save_image(Image.new("RGB", (8, 8)), path, record)
    assert read_record(path) == record


def test_a_prompt_that_is_too_long_for_a_jpeg_is_left_out(tmp_path):
    save_image(Image.new("RGB", (8, 8)), tmp_path / "a.jpg", Record(**VALUES, prompt="x" * 70_000))
    with pytest.raises(UserError, match="does not state how it was made"):
        read_record(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "does not state how it was made"),
        ("{", "Invalid JSON"),
        ("[" * 100_000, "the record in"),
        ("[]", "the record in"),
        ("{}", "seed is missing"),
        (json.dumps(VALUES | {"seed": -1}), "seed must be at least 0"),
        (json.dumps(VALUES | {"height": "32"}), "height must be a whole number"),
        (json.dumps(VALUES | {"computation": {"dtype": ["x"]}}), "dtype must be a text"),
    ],
)
def test_a_record_that_is_missing_or_damaged_is_one_sentence(tmp_path, text, problem):
    info = PngInfo()
    if text is not None:
        info.add_text("openhart", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(UserError, match=problem):
        read_record(tmp_path / "a.png")


def test_a_file_that_is_no_image_is_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    for name in ("a.png", "absent.png"):
        with pytest.raises(UserError, match="cannot read how"):
            read_record(tmp_path / name)


def test_the_hash_of_a_model_changes_with_its_files(label_model, tmp_path):
    before = model_hash(label_model)
    assert re.fullmatch("[0-9a-f]{16}", before)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model_index.json").write_text((label_model / "model_index.json").read_text())
    assert model_hash(copy) != before
    assert model_hash(label_model) == before


def run(*words):
    return main([str(word) for word in words])


def test_an_image_is_made_again(text_model, tmp_path):
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    settings = ("--seed", 3, "--top-k", 7, "--negative-prompt", "a dog", "--optimize", "exact")
    assert run("generate", "a cat", "--model", text_model, "-o", first, "--quiet", *settings) == 0
    assert run("generate", "--like", first, "--model", text_model, "-o", again, "--quiet") == 0
    assert Image.open(first).tobytes() == Image.open(again).tobytes()
    assert read_record(again) == read_record(first)
    assert read_record(first).sampling["top_k"] == 7


def test_an_image_of_a_class_is_made_again(label_model, tmp_path):
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    assert run("generate", "--label", 2, "--model", label_model, "-o", first, "--quiet") == 0
    assert run("generate", "--like", first, "--model", label_model, "-o", again, "--quiet") == 0
    assert Image.open(first).tobytes() == Image.open(again).tobytes()


def test_what_does_not_go_with_an_image_is_refused(text_model, label_model, tmp_path, capsys):
    path, plain = tmp_path / "first.png", tmp_path / "plain.png"
    run("generate", "a cat", "--model", text_model, "-o", path, "--quiet")
    run("generate", "a cat", "--model", text_model, "-o", plain, "--quiet", "--no-metadata")
    unknown, adapted = tmp_path / "unknown.png", tmp_path / "adapted.png"
    save_image(Image.new("RGB", (8, 8)), unknown, Record(**VALUES | {"sampling": {"magic": 1}}, prompt="a"))
    save_image(Image.new("RGB", (8, 8)), adapted, Record(**VALUES, prompt="a", computation={"lora": "/x"}))
    wrong = [
        (["--like", path, "a dog"], 2, "omit them"),
        (["--like", path, "--seed", 1], 2, "omit them"),
        (["--like", path, "--model", label_model], 1, "made by another model"),
        (["--like", plain], 1, "does not state how it was made"),
        (["--like", unknown], 1, "unknown setting magic"),
        (["--like", adapted], 1, "give it by --lora"),
    ]
    for words, status, sentence in wrong:
        assert run("generate", "-o", tmp_path / "again.png", *words) == status
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "again.png").exists()
