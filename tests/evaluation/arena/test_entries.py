import json
import shutil

import pytest
from PIL import Image

from openhart.errors import UserError
from openhart.evaluation.arena.entries import find_entries


def test_images_are_matched_by_their_paths_and_get_their_prompts(folders):
    entries = find_entries(folders)
    assert entries.names == ("0", "1", "2")
    assert entries.prompts == {"0": "picture 0", "1": "picture 1", "2": "picture 2"}
    assert entries.files["blue"]["1"] == folders[1] / "1.png"


def test_genevals_layout_gives_each_sample_its_prompt(tmp_path):
    for model in "ab":
        for number, prompt in enumerate(("a bench", "two cats")):
            folder = tmp_path / model / f"{number:05}"
            (folder / "samples").mkdir(parents=True)
            (folder / "metadata.jsonl").write_text(json.dumps({"tag": "x", "prompt": prompt}))
            Image.new("RGB", (8, 8)).save(folder / "samples" / "0000.png")
    entries = find_entries([tmp_path / "a", tmp_path / "b"])
    assert entries.prompts == {"00000/samples/0000": "a bench", "00001/samples/0000": "two cats"}


def test_file_types_may_differ_between_folders(folders):
    Image.open(folders[0] / "0.png").save(folders[0] / "0.webp")
    (folders[0] / "0.png").unlink()
    assert find_entries(folders).files["red"]["0"].suffix == ".webp"


def test_a_missing_image_is_named(folders):
    (folders[1] / "2.png").unlink()
    with pytest.raises(UserError, match="blue lacks 1 of 3 images, such as 2"):
        find_entries(folders)


def test_one_folder_and_equal_names_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="at least two folders"):
        find_entries(folders[:1])
    shutil.copytree(folders[0], tmp_path / "other" / "red")
    with pytest.raises(UserError, match="different names"):
        find_entries([folders[0], tmp_path / "other" / "red"])


def test_an_absent_and_an_empty_folder_are_named(folders, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        find_entries([folders[0], tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        find_entries([folders[0], tmp_path / "empty"])


def test_changed_images_have_another_digest(folders):
    before = find_entries(folders).digests
    Image.new("RGB", (16, 16)).save(folders[0] / "0.png")
    after = find_entries(folders).digests
    assert before["red"] != after["red"]
    assert before["blue"] == after["blue"]
