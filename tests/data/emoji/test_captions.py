"""Names, articles, plurals, and what captions say."""

from collections import Counter

import pytest

from openhart.data.emoji.captions import plural, with_article, write_captions
from openhart.data.emoji.colours import BACKGROUNDS
from openhart.data.emoji.names import read_synonyms, spell_names


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("apple", "apples"),
        ("toothbrush", "toothbrushes"),
        ("butterfly", "butterflies"),
        ("key", "keys"),
        ("bus", "buses"),
        ("tomato", "tomatoes"),
        ("sheep", "sheep"),
        ("slice of pizza", "slices of pizza"),
    ],
)
def test_plurals(name, words):
    assert plural(name) == words


def test_no_synonym_names_two_things():
    synonyms = read_synonyms()
    counts = Counter(name for names in synonyms.values() for name in names)
    assert counts.most_common(1)[0][1] == 1
    assert not counts.keys() & synonyms.keys()
    assert "donut" in synonyms["doughnut"]


def test_captions_come_with_other_names_styles_and_backgrounds_and_start_with_the_plainest():
    captions = write_captions("doughnut", "fluent-3d", "light blue", True, ["donut"])
    assert captions[0] == "a doughnut, 3d style, on a light blue background"
    assert len(set(captions)) == len(captions) > 8
    assert all("light blue" in caption for caption in captions)
    assert any("donut" in caption for caption in captions)
    assert captions == write_captions("doughnut", "fluent-3d", "light blue", True, ["donut"])


def test_one_caption_never_stands_for_two_pictures():
    seen = Counter()
    for name, others in (("red apple", ["apple"]), ("pear", [])):
        for style in ("fluent-3d", "fluent-flat", "noto"):
            for background in ("white", *BACKGROUNDS):
                seen.update(write_captions(name, style, background, style == "fluent-3d", others))
    assert seen.most_common(1)[0][1] == 1


def test_names_are_spelled_as_emojibase_does():
    names = spell_names([{"label": "woman’s hat"}, {"label": "man: beard"}, {"label": "T-Rex"}])
    assert names == {"womans hat": "woman's hat", "man beard": "man with beard", "t rex": "t-rex"}
