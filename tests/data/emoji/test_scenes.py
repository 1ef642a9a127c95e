"""Scenes: what is said of them is what they show."""

import random

import numpy as np
import pytest

from openhart.data.emoji.colours import BACKGROUNDS, WHITE
from openhart.data.emoji.common import BY_THING, COMMON_THINGS, unseen_combinations
from openhart.data.emoji.content import RELATIONS, TAGS, Content, Item, draw_content
from openhart.data.emoji.icons import is_held_out, may_be_mirrored
from openhart.data.emoji.library import read_library
from openhart.data.emoji.mixture import training_scenes, unseen_scenes
from openhart.data.emoji.packages import DEFAULT_STYLES
from openhart.data.emoji.scenes import compose, facts, place_scene
from openhart.data.emoji.sentences import main_caption, requirements, scene_captions
from openhart.data.emoji.sprites import Sprites
from openhart.data.oklab import to_lightness_chroma_hue
from openhart.errors import UserError
from tests.data.emoji.made_packages import common_icons, write_names, write_style

SIZE = 64
GROUNDS = ("white", *BACKGROUNDS)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    for style, radius in zip(DEFAULT_STYLES, (11, 12, 13), strict=True):
        write_style(folder, style, common_icons(radius))
    write_names(folder)
    return Sprites(read_library(DEFAULT_STYLES, folder), SIZE)


def scenes(sprites, tag, count=40):
    for number in range(count):
        generator = np.random.default_rng([7, number])
        content = draw_content(tag, sprites, DEFAULT_STYLES, GROUNDS, generator)
        yield place_scene(content, sprites, generator)


@pytest.mark.parametrize("tag", TAGS)
def test_things_lie_in_their_boxes_alone_and_nothing_lies_outside(sprites, tag):
    for scene in scenes(sprites, tag):
        picture = np.asarray(compose(scene, sprites)).astype(int)
        assert picture.shape == (SIZE, SIZE, 3)
        ground = BACKGROUNDS.get(scene.content.background, WHITE)
        shown = (np.abs(picture - ground) > 8).any(axis=2)
        covered = np.zeros((SIZE, SIZE), int)
        for thing in facts(scene, SIZE)["objects"]:
            left, top, right, bottom = thing["box"]
            assert 0 <= left < right <= SIZE
            assert 0 <= top < bottom <= SIZE
            covered[top:bottom, left:right] += 1
            rows, columns = np.nonzero(shown[top:bottom, left:right])
            assert np.ptp(rows) + 1 >= bottom - top - 3
            assert np.ptp(columns) + 1 >= right - left - 3
        assert covered.max() == 1
        assert not (shown & (covered == 0)).any()


def relations(box, other):
    """GenEval's rule (arXiv 2310.11513): clear of a tenth of both sizes, within 60 degrees of the axis."""
    (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = box, other
    offset = np.array([left + right - left_2 - right_2, top + bottom - top_2 - bottom_2]) / 2
    sizes = np.array([right - left + right_2 - left_2, bottom - top + bottom_2 - top_2])
    clear = np.maximum(np.abs(offset) - 0.1 * sizes, 0) * np.sign(offset) / np.linalg.norm(offset)
    names = [("left of", clear[0] < -0.5), ("right of", clear[0] > 0.5)]
    names += [("above", clear[1] < -0.5), ("below", clear[1] > 0.5)]
    return [name for name, holds in names if holds]


def test_a_relation_that_is_said_holds_alone(sprites):
    found = set()
    for scene in scenes(sprites, "position", 80):
        first, second = (thing["box"] for thing in facts(scene, SIZE)["objects"])
        assert relations(first, second) == [scene.content.relation]
        found.add(scene.content.relation)
    assert found == set(RELATIONS)


def test_counts_are_said_and_shown(sprites):
    counts = set()
    for scene in scenes(sprites, "counting"):
        objects = facts(scene, SIZE)["objects"]
        wanted = requirements(scene.content)
        for include, exclude in zip(wanted["include"], wanted["exclude"], strict=True):
            assert [thing["name"] for thing in objects].count(include["class"]) == include["count"]
            assert exclude == {"class": include["class"], "count": include["count"] + 1}
        counts.add(len(objects))
    assert counts == {2, 3, 4}


def test_a_colour_that_is_said_is_shown(sprites):
    hues = {"red": 27, "orange": 58, "yellow": 97, "green": 144, "blue": 258, "purple": 305, "pink": 355}
    found = set()
    for scene in scenes(sprites, "color_attr", 60):
        picture = np.asarray(compose(scene, sprites)) / 255
        for thing in facts(scene, SIZE)["objects"]:
            if thing["colour"] not in hues:
                continue
            left, top, right, bottom = thing["box"]
            part = to_lightness_chroma_hue(picture[top:bottom, left:right]).reshape(-1, 3)
            near = np.abs((part[:, 2] - hues[thing["colour"]] + 180) % 360 - 180) < 12
            assert (near & (part[:, 1] > 0.08)).mean() > 0.25
            found.add(thing["colour"])
    assert len(found) > 5


def test_sizes_that_are_said_differ(sprites):
    for tag in ("single_object", "two_object"):
        for scene in scenes(sprites, tag):
            for thing in facts(scene, SIZE)["objects"]:
                left, top, right, bottom = thing["box"]
                side = max(right - left, bottom - top) / SIZE
                low, high = {"small": (0, 0.4), "large": (0.5, 1), None: (0.25, 1)}[thing["size"]]
                assert low < side < high


def test_clocks_are_not_mirrored(sprites):
    for tag in ("counting", "single_object"):
        for scene in scenes(sprites, tag, 80):
            objects = facts(scene, SIZE)["objects"]
            assert not any(thing["mirrored"] for thing in objects if thing["name"] == "clock")
            assert facts(scene, SIZE)["mirror"] == all(thing["name"] != "clock" for thing in objects)
    assert may_be_mirrored("red apple")


def test_white_things_are_not_put_on_white(sprites):
    for scene in scenes(sprites, "colors", 80):
        if scene.content.items[0].colour == "white":
            assert scene.content.background not in ("white", "grey")


APPLE, KEY = Item("apple", "red apple", "red"), Item("key", "key", "yellow")


def test_the_main_caption_is_plain_and_says_all():
    pair = Content("position", "noto", "pink", (APPLE, KEY), "left of")
    assert main_caption(pair, "fluent-3d") == "an apple left of a key, noto style, on a pink background"
    three = Content("counting", "fluent-3d", "white", (Item("apple", "red apple", "red", 3, "blue"),))
    assert main_caption(three, "fluent-3d") == "three blue apples"
    assert main_caption(three, None) == "three blue apples, 3d style"


def test_other_captions_of_a_relation_say_the_same():
    pair = Content("position", "fluent-3d", "white", (APPLE, KEY), "above")
    first_said = set()
    for seed in range(60):
        for caption in scene_captions(pair, "fluent-3d", {}, random.Random(seed)):
            over = any(word in caption for word in (" above ", " over "))
            assert over != any(word in caption for word in (" below ", " under ", " beneath "))
            assert over == (caption.index("apple") < caption.index("key"))
            first_said.add(over)
    assert first_said == {True, False}


def test_requirements_are_those_of_geneval():
    pair = Content("position", "fluent-3d", "white", (APPLE, KEY), "left of")
    assert requirements(pair) == {
        "tag": "position",
        "include": [
            {"class": "key", "count": 1},
            {"class": "apple", "count": 1, "position": ["left of", 0]},
        ],
    }
    blue = Content("colors", "fluent-3d", "white", (Item("apple", "red apple", "red", 1, "blue"),))
    assert requirements(blue)["include"] == [{"class": "apple", "count": 1, "color": "blue"}]


def test_a_seed_gives_the_same_scenes_and_another_seed_others(sprites):
    first, again = (list(training_scenes(60, 3, sprites, DEFAULT_STYLES)) for _ in range(2))
    assert first == again
    assert first != list(training_scenes(60, 4, sprites, DEFAULT_STYLES))


def test_training_has_all_tasks_and_nothing_that_is_held_out(sprites):
    found = list(training_scenes(400, 0, sprites, DEFAULT_STYLES))
    assert len(found) == 400
    assert {scene.content.tag for scene in found} == set(TAGS)
    assert not any(scene.content.unseen for scene in found)
    alone = {
        (scene.content.items[0].thing, scene.content.style)
        for scene in found
        if scene.content.tag == "single_object"
    }
    for thing, style in sprites.library.icons:
        held_out = is_held_out(thing) or unseen_combinations(thing, style, "white")
        assert ((thing, style) in alone) == (not held_out)


def test_unseen_scenes_each_have_a_combination_that_is_held_out(sprites):
    found = list(unseen_scenes(90, 0, sprites, DEFAULT_STYLES))
    assert {kind for scene in found for kind in scene.content.unseen} == {"style", "background", "colour"}
    assert all(len(scene.content.unseen) == 1 for scene in found)


def test_a_scene_that_cannot_be_is_reported(sprites):
    with pytest.raises(UserError, match="no things for a scene of kind colors with an unseen style"):
        draw_content("colors", sprites, ["fluent-3d"], ["white"], np.random.default_rng(0), "style")


def test_each_common_thing_keeps_two_styles_and_most_colours_for_training():
    assert len(COMMON_THINGS) == 80 == len({common.name for common in COMMON_THINGS}) == len(BY_THING)
    assert not any(is_held_out(common.thing) for common in COMMON_THINGS)
    without_style = [common for common in COMMON_THINGS if common.unseen_style]
    assert 16 < len(without_style) < 40
    assert all(common.unseen_style != "fluent-3d" for common in COMMON_THINGS)
    assert all(common.unseen_background in BACKGROUNDS for common in COMMON_THINGS)
    assert all(common.unseen_colour != common.colour for common in COMMON_THINGS)
    common = without_style[0]
    assert unseen_combinations(common.thing, common.unseen_style, "white") == ["style"]
    assert unseen_combinations(common.thing, "fluent-3d", common.unseen_background) == ["background"]
    assert unseen_combinations("abacus", "noto", "pink", "blue") == []
