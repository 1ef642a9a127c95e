"""The scenes' folder: readable, repeatable, whole or absent."""

import json
from pathlib import Path

import pytest

from openhart.cli import main
from openhart.data.emoji.build_scenes import build_scenes
from openhart.data.emoji.content import TAGS
from openhart.data.images import ImageFolder
from openhart.errors import UserError
from tests.data.emoji.made_packages import common_icons, write_names, write_style


@pytest.fixture
def packages(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    for style, radius in (("fluent-3d", 11), ("noto", 12)):
        write_style(folder, style, common_icons(radius))
    write_names(folder, ["red apple"])
    return folder


def arguments(packages, folder, *more):
    return ["data", "scenes", str(folder), "--packages", str(packages), "--styles", "fluent-3d", "noto",
            "--count", "40", "--unseen", "12", "--size", "32", "--quiet", *more]  # fmt: skip


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_folder_is_read_as_images_with_captions_and_facts(tmp_path, packages, capsys):
    assert main(arguments(packages, tmp_path / "scenes")) == 0
    assert capsys.readouterr().out == ""
    for split, count in (("train", 40), ("unseen", 12)):
        dataset = ImageFolder(tmp_path / "scenes" / split, (32, 32))
        assert len(dataset) == count
        for image, sample in (dataset[index] for index in range(count)):
            record = sample.fields
            assert image.shape == (3, 32, 32)
            assert record["text"] == record["captions"][0]
            assert record["tag"] in TAGS
            assert len(record["objects"]) == sum(wanted["count"] for wanted in record["include"])
            assert record["license"] == "MIT"
            assert bool(record["unseen"]) == (split == "unseen")
            assert record["combination"] == ("unseen" if split == "unseen" else "seen")
    assert "Somebody" in (tmp_path / "scenes" / "LICENSES.md").read_text()


def test_the_number_of_workers_changes_nothing(tmp_path, packages):
    found = []
    for workers in ("1", "3"):
        folder = tmp_path / workers
        assert main([*arguments(packages, folder), "--count", "130", "--workers", workers]) == 0
        found.append(files(folder))
    assert found[0] == found[1]
    assert len([name for name in found[0] if name.suffix == ".png"]) == 142


def test_prompts_have_geneval_s_layout_and_differ(tmp_path, packages):
    assert main(arguments(packages, tmp_path / "scenes")) == 0
    for name in ("plain", "seen", "unseen"):
        lines = (tmp_path / "scenes" / "prompts" / f"{name}.jsonl").read_text().splitlines()
        prompts = [json.loads(line) for line in lines]
        assert {prompt["tag"] for prompt in prompts} == set(TAGS)
        assert len({prompt["prompt"] for prompt in prompts}) == len(prompts)
        for prompt in prompts:
            assert bool(prompt["unseen"]) == (name == "unseen")
            assert all(
                wanted["class"] in prompt["prompt"] or wanted["count"] > 1 for wanted in prompt["include"]
            )
            if name == "plain":
                assert (prompt["style"], prompt["background"]) == ("fluent-3d", "white")
        counting = [prompt for prompt in prompts if prompt["tag"] == "counting"]
        assert all(2 <= prompt["include"][0]["count"] <= 4 for prompt in counting)


@pytest.mark.slow
def test_the_same_arguments_give_the_same_files(tmp_path, packages):
    for name in ("one", "two"):
        assert main(arguments(packages, tmp_path / name, "--seed", "5")) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(files(tmp_path / "one")) == 40 + 12 + 2 + 3 + 1


def test_a_build_that_fails_leaves_nothing(tmp_path, packages):
    broken = common_icons(12) | {"wrench": {"body": "<rect fill="}}
    write_style(packages, "noto", broken)
    with pytest.raises(UserError, match="SVG is invalid"):
        build_scenes(
            tmp_path / "scenes", count=200, packages=packages, styles=["fluent-3d", "noto"], quiet=True
        )
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


def test_things_that_few_styles_have_are_reported(tmp_path, packages):
    write_style(packages, "noto", {"wrench": {"body": '<rect width="9" height="5" fill="#777"/>'}})
    with pytest.raises(UserError, match="can be recoloured"):
        build_scenes(tmp_path / "scenes", count=40, packages=packages, styles=["noto"], quiet=True)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--styles", "crayon"), 1, "styles must be among"),
        (("--seed", "-1"), 2, "--seed: must be a whole number from 0"),
        (("--size", "3"), 2, "--size: must be a whole number from 16"),
    ],
)
def test_wishes_that_cannot_be_are_reported(tmp_path, packages, capsys, options, status, words):
    try:
        code = main(arguments(packages, tmp_path / "scenes", *options))
    except SystemExit as stop:  # as argparse ends
        code = stop.code
    assert code == status
    assert words in capsys.readouterr().err
    assert not Path(tmp_path / "scenes").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, packages, capsys):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "mine.txt").touch()
    assert main(arguments(packages, tmp_path / "scenes")) == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "scenes").iterdir()] == ["mine.txt"]
