import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from openhart.data.oklab import to_oklab
from openhart.errors import UserError
from openhart.evaluation.benchmarks.composition import score_composition
from openhart.evaluation.checker.accuracy import CHECKER_THRESHOLDS, measure_checker, wrong_prompt
from openhart.evaluation.checker.files import load_checker, make_checker, save_checker
from openhart.evaluation.checker.make import train_checker
from openhart.evaluation.checker.scenes import read_scenes
from openhart.evaluation.checker.segments import background_of, find_pieces, group_pieces
from openhart.evaluation.checker.train import make_examples, things_of, train_classifier, train_colours
from openhart.evaluation.geneval.rules import judge
from openhart.evaluation.samples.layouts import plan_geneval
from openhart.evaluation.samples.make import Processes, fill_folder
from tests.evaluation.shapes import COLOURS, GROUNDS, THINGS, draw_scene, write_scenes
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "train", 200)


@pytest.fixture(scope="module")
def checker(scenes):
    examples = make_examples(read_scenes(scenes), quiet=True)
    classifier = train_classifier(examples, things_of(read_scenes(scenes)))
    return make_checker(classifier, train_colours(examples), "test")


def count(found):
    return {name: len(objects) for name, objects in found.items()}


def test_oklab_of_known_colours():
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8)
    expected = [[1, 0, 0], [0, 0, 0], [0.6279, 0.2249, 0.1258]]  # from the page that defines it
    assert to_oklab(colours) == pytest.approx(np.array(expected), abs=1e-3)


@pytest.mark.parametrize("ground", GROUNDS)
def test_pieces_are_found_on_any_ground_though_blurred(ground):
    picture = draw_scene(["ball", "dumbbell"], ["red", "yellow"], ground)
    soft = np.array(picture.filter(ImageFilter.GaussianBlur(1)))
    assert np.abs(background_of(soft).astype(int) - GROUNDS[ground]).max() <= 1
    pieces, gaps = find_pieces(soft)
    assert len(pieces) == 3
    groups = group_pieces(pieces, gaps)
    assert len(groups) == 5
    assert groups[-1].box[::2] == (pytest.approx(3, abs=3), pytest.approx(62, abs=3))
    assert groups[-1].mask.sum() == sum(piece.sum() for piece in pieces)


def test_an_empty_picture_has_nothing(checker):
    assert checker.detector(Image.new("RGB", (64, 64), "white")) == {}


def test_things_are_told_counted_and_placed(checker):
    picture = draw_scene(["kite", "ball", "kite"], ["red", "blue", "green"])
    found = checker.detector(picture)
    assert count(found) == {"kite": 2, "ball": 1}
    assert found["ball"].boxes[0, :4].tolist() == pytest.approx([35, 4, 63, 30], abs=2)
    assert checker.colours(picture, found["ball"], "ball") == ["blue"]
    assert sorted(checker.colours(picture, found["kite"], "kite")) == ["green", "red"]


def test_two_pieces_are_one_thing_and_two_things_are_two(checker):
    assert count(checker.detector(draw_scene(["dumbbell"], ["blue"]))) == {"dumbbell": 1}
    assert count(checker.detector(draw_scene(["ball", "ball"], ["blue", "red"]))) == {"ball": 2}


def test_the_scoring_is_geneval_s(checker):
    picture = draw_scene(["kite", "block"], ["red", "blue"])
    found = checker.detector(picture)

    def holds(*include):
        def name_colours(objects, name):
            return checker.colours(picture, objects, name)

        return judge({"include": list(include)}, found, name_colours, CHECKER_THRESHOLDS).correct

    kite, block = {"class": "kite", "count": 1}, {"class": "block", "count": 1}
    assert holds(kite, {**block, "position": ["right of", 0]})
    assert not holds(kite, {**block, "position": ["left of", 0]})
    assert holds({**kite, "color": "red"}, {**block, "color": "blue"})
    assert not holds({**kite, "color": "blue"}, {**block, "color": "red"})
    assert not holds({**kite, "count": 2})


def test_its_accuracy_is_measured_on_right_and_wrong_prompts(checker, tmp_path):
    other = read_scenes(write_scenes(tmp_path / "other", 60, seed=1))
    shares = measure_checker(checker, other, quiet=True)
    assert set(shares) == {"colors", "counting", "position", "color_attr"}
    for task in shares.values():
        assert task["accuracy"] > 0.85, shares
        low, high = task["accepts_right"]["interval"]
        assert low <= task["accepts_right"]["share"] <= high
    blank = measure_checker(checker, other, lambda picture: Image.new("RGB", picture.size), quiet=True)
    for task in blank.values():
        assert (task["accepts_right"]["share"], task["rejects_wrong"]["share"]) == (0, 1)


def test_a_wrong_prompt_is_never_the_right_one(scenes):
    random = np.random.default_rng(0)
    for scene in read_scenes(scenes):
        wrong = wrong_prompt(scene.metadata, list(THINGS), random)
        assert wrong["include"] != scene.metadata["include"]
        assert wrong["tag"] == scene.metadata["tag"]


def test_a_checker_is_read_as_it_was_written(checker, tmp_path):
    save_checker(checker, tmp_path / "checker")
    again = load_checker(tmp_path / "checker")
    picture = draw_scene(["kite", "block"], ["red", "blue"])
    first, second = checker.detector(picture), again.detector(picture)
    assert first["kite"].boxes.tolist() == second["kite"].boxes.tolist()
    assert again.colours(picture, second["kite"], "kite") == ["red"]
    (tmp_path / "checker" / "checker.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checker(tmp_path / "checker")
    with pytest.raises(UserError, match="there is no checker"):
        load_checker(tmp_path)


@pytest.mark.slow
def test_a_checker_is_made_from_a_folder(scenes):
    checker = train_checker(scenes, tiny_tokenizer(), held_out=40, quiet=True)
    assert checker.detector.classifier.things == tuple(sorted(THINGS))
    for kind in ("real", "reconstructed"):
        assert sum(task["accepts_right"]["count"] for task in checker.accuracy[kind].values()) == 40
    with pytest.raises(UserError, match="are needed"):
        train_checker(scenes, tiny_tokenizer(), held_out=150)


def test_folders_without_scenes(tmp_path):
    with pytest.raises(UserError, match="openhart data scenes"):
        read_scenes(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "an apple"}\n')
    with pytest.raises(UserError, match="contains no scenes"):
        read_scenes(tmp_path)


PROMPTS = [
    {"tag": "colors", "include": [{"class": "ball", "count": 1, "color": "red"}], "prompt": "red ball"},
    {"tag": "counting", "include": [{"class": "kite", "count": 2}], "prompt": "kite kite"},
]


def painter(calls):
    """Paints what the prompt says, with the wrong colour under odd seeds."""

    def generate(prompts, seeds):
        calls.extend(zip(prompts, seeds, strict=True))
        pictures = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            names = [word for word in prompt.split() if word in THINGS]
            colours = [list(COLOURS)[seed % 2]] * len(names)
            pictures.append(np.array(draw_scene(names, colours)))
        return np.stack(pictures)

    return generate


def paint(folder, prompts, calls):
    (folder.parent / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    plan = plan_geneval(folder.parent / "prompts.jsonl", name="composition")
    fill_folder(folder, plan, {"model": "painter"}, painter(calls), 4, "png", Processes(), quiet=True)


def test_composition_is_scored(checker, tmp_path):
    calls = []
    paint(tmp_path / "samples", PROMPTS, calls)
    assert calls == [(prompt["prompt"], 42 + index) for prompt in PROMPTS for index in range(4)]
    result, rows = score_composition(tmp_path / "samples", checker, quiet=True)
    assert len(rows) == 8
    assert result.figure("colors").value == 0.5
    assert result.figure("counting").value == 1
    assert result.figure("overall").value == 0.75


def test_prompts_that_cannot_be_checked(checker, tmp_path):
    unknown = [{"tag": "colors", "include": [{"class": "ball of fire", "count": 1}], "prompt": "ball"}]
    paint(tmp_path / "samples", unknown, [])
    with pytest.raises(UserError, match="was not trained on ball of fire"):
        score_composition(tmp_path / "samples", checker, quiet=True)
