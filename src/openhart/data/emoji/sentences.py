"""Captions of a scene in the wording of prompts, and its requirements in GenEval's layout."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from openhart.data.emoji.captions import (
    GROUND_PHRASES,
    MORE_STYLE_PHRASES,
    STYLE_PHRASES,
    add_ground,
    join_ground,
    plural,
    with_article,
)
from openhart.data.emoji.common import everyday_name
from openhart.data.emoji.content import Content, Item

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
SAME_RELATION = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
ALL_CAPTIONS = 4
STYLE_MENTIONED = 0.3
REVERSED = 0.4
TERSE = 0.25


def main_caption(content: Content, default_style: str | None) -> str:
    """The main caption; it omits the default style and a white background."""
    caption = _statement(content, [_phrase(item) for item in content.items])
    if content.style != default_style:
        caption = STYLE_PHRASES[content.style][0].format(a=caption)
    if content.background != "white":
        caption = join_ground(caption, GROUND_PHRASES[0], content.background)
    return caption


def scene_captions(
    content: Content,
    default_style: str | None,
    synonyms: Mapping[str, Sequence[str]],
    chance: random.Random,
) -> list[str]:
    """Captions of a scene, all of them exact; the first is the main caption.

    Args:
        content: content of the scene.
        default_style: the style that captions may omit.
        synonyms: synonyms by corpus name.
        chance: source of the random choices.
    """
    captions = [main_caption(content, default_style)]
    for _ in range(ALL_CAPTIONS - 1):
        caption = _some_statement(content, synonyms, chance)
        if content.style != default_style or chance.random() < STYLE_MENTIONED:
            caption = chance.choice(_style_phrases(content.style)).format(a=caption)
        captions.append(add_ground(caption, content.background, chance))
    return list(dict.fromkeys(captions))


def requirements(content: Content) -> dict[str, Any]:
    """``tag``, ``include`` and ``exclude`` in the layout of GenEval's prompt files.

    As in GenEval, a position belongs to the later entry and refers to the index of the earlier entry.
    """
    include: list[dict[str, Any]] = []
    for item in reversed(content.items) if content.relation else content.items:
        name = everyday_name(item.thing) or item.name
        wanted: dict[str, Any] = {"class": name, "count": item.count}
        if item.colour is not None:
            wanted["color"] = item.colour
        if item.size is not None:
            wanted["size"] = item.size
        include.append(wanted)
    if content.relation:
        include[1]["position"] = [content.relation, 0]
    found: dict[str, Any] = {"tag": content.tag, "include": include}
    if content.tag == "counting":
        found["exclude"] = [{"class": wanted["class"], "count": wanted["count"] + 1} for wanted in include]
    return found


def _style_phrases(style: str) -> list[str]:
    """Phrases of a style that are correct for several things."""
    phrases = STYLE_PHRASES[style] + MORE_STYLE_PHRASES[style]
    fitting = [phrase for phrase in phrases if phrase.startswith("{a}") and not phrase.endswith("emoji")]
    return [*fitting, *(phrase for phrase in phrases if phrase.endswith(("render of {a}", "design of {a}")))]


def _phrase(item: Item, called: str | None = None, terse: bool = False) -> str:
    """``two small red apples``; ``terse`` omits the article and writes digits."""
    name = called or item.name
    words = [item.size, item.colour, name if item.count == 1 else plural(name)]
    phrase = " ".join(word for word in words if word)
    if item.count > 1:
        return f"{item.count if terse else NUMBERS[item.count]} {phrase}"
    return phrase if terse else with_article(phrase)


def _statement(content: Content, phrases: Sequence[str]) -> str:
    return f" {content.relation or 'and'} ".join(phrases)


def _some_statement(content: Content, synonyms: Mapping[str, Sequence[str]], chance: random.Random) -> str:
    terse = chance.random() < TERSE
    phrases = []
    for item in content.items:
        others = [name for name in synonyms.get(item.thing, ()) if name != item.name]
        called = chance.choice([item.name, item.name, *others[:1]])
        phrases.append(_phrase(item, called, terse))
    relation = content.relation
    if len(phrases) > 1 and chance.random() < REVERSED:
        phrases.reverse()
        relation = OPPOSITE[relation] if relation else None
    word = chance.choice(SAME_RELATION[relation]) if relation else "and"
    return f" {word} ".join(phrases)
