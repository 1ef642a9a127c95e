"""Captions for a thing in a style, in the wording that people use in prompts."""

import random
import re
from collections.abc import Sequence

from openhart.data.emoji.icons import stable_hash

STYLE_PHRASES = {
    "fluent-3d": ("{a}, 3d style", "3d emoji of {a}", "3d {thing}"),
    "fluent-flat": ("{a}, flat style", "flat icon of {a}", "flat {thing}"),
    "noto": ("{a}, noto style", "noto emoji of {a}", "noto {thing}"),
    "twemoji": ("{a}, twemoji style", "twemoji of {a}", "twemoji {thing}"),
    "emojione": ("{a}, emojione style", "emojione of {a}", "emojione {thing}"),
}
"""Phrases for each style; the first one makes the main caption."""

MORE_STYLE_PHRASES = {
    "fluent-3d": (
        "{a} in 3d", "3d render of {a}", "{a}, 3d render", "{thing}, 3d", "3-d {thing}", "3d icon of {a}",
        "3d {thing} emoji",
    ),
    "fluent-flat": (
        "{a} in flat style", "flat design of {a}", "{a}, flat design", "{thing}, flat", "2d {thing}",
        "flat {thing} icon", "flat emoji of {a}",
    ),
    "noto": (
        "{a} in noto style", "{thing}, noto", "google emoji of {a}", "google {thing} emoji",
        "noto {thing} emoji",
    ),
    "twemoji": ("{a} in twemoji style", "{thing}, twemoji", "twitter emoji of {a}"),
    "emojione": ("{a} in emojione style", "{thing}, emojione", "emojione {thing} emoji"),
}  # fmt: skip
BARE_PHRASES = ("{a}", "{thing}", "{thing} emoji", "emoji of {a}", "picture of {a}")
GROUND_PHRASES = (
    "on {a} background",
    "on {colour}",
    "with {a} background",
    ", {colour} background",
    "against {a} background",
)
WHITE_MENTIONED = 0.2
MORE_CAPTIONS = 6

WITHOUT_ARTICLE_TEXT = """
bacon badminton bamboo baseball basketball bowling boxing bread broccoli butter cheese chocolate confetti
coral corn cricket dna dynamite fire fog garlic ginger hockey honey ice lacrosse lettuce lightning mate milk
money night paper poo poop popcorn ramen rice sake salt snow soap softball spaghetti sunrise sunset sushi tea
tennis thread tofu together volleyball water wood yarn
"""
WITHOUT_ARTICLE = frozenset(WITHOUT_ARTICLE_TEXT.split())
PLURAL_LOOKING = ("ss", "us", "is", "as", "os", "bus", "lens", "cactus", "tennis", "claus")
UNCHANGED_PLURALS = frozenset(["fish", "sheep"])
ONLY_ONE = frozenset(["sun", "moon", "santa", "earth", "saturn"])


def with_article(thing: str) -> str:
    """``apple`` → ``an apple``; plurals and uncountable nouns stay unchanged."""
    words = thing.split()
    if words[0] in ("a", "an", "the") or re.match(r"(two|three|[0-9])", words[0]):
        return thing
    noun = _noun(words)
    plural = noun.endswith("s") and not noun.endswith(PLURAL_LOOKING)
    if plural or noun in WITHOUT_ARTICLE or words[0] in ("people", "men", "women"):
        return thing
    if words[0] in ONLY_ONE and len(words) == 1:
        return f"the {thing}" if thing != "santa" else thing
    vowel = re.match(r"[aeiou]", thing) and not re.match(r"(uni|eu|one|use|ufo)", thing)
    return f"an {thing}" if vowel else f"a {thing}"


def _noun(words: list[str]) -> str:
    """The head noun: the word before ``with``, ``of``, ``on`` …, otherwise the last word."""
    for place, word in enumerate(words):
        if place and word in ("with", "of", "on", "in", "at", "and", "over", "without", "from"):
            return words[place - 1]
    return words[-1]


def write_captions(
    name: str, style: str, background: str, is_default_style: bool, synonyms: Sequence[str] = ()
) -> list[str]:
    """Captions of one image; the first is the main caption.

    Args:
        name: name of the thing, such as ``red apple``.
        style: a key of :data:`STYLE_PHRASES`.
        background: ``white``, which few captions mention, or a colour, which all captions mention.
        is_default_style: whether captions may omit the style.
        synonyms: other names of the thing.
    """
    article = with_article(name)
    captions = [phrase.format(a=article, thing=name) for phrase in STYLE_PHRASES[style]]
    if is_default_style:
        captions += [article, name]
    if background != "white":
        captions = [join_ground(caption, GROUND_PHRASES[0], background) for caption in captions]
    chance = random.Random(stable_hash(f"{name} {style} {background}"))
    phrases = STYLE_PHRASES[style] + MORE_STYLE_PHRASES[style]
    for number in range(MORE_CAPTIONS):
        called = [*synonyms, name][number % (len(synonyms) + 1)]
        bare = is_default_style and number % 2 == 0
        phrase = chance.choice(BARE_PHRASES if bare else phrases)
        caption = phrase.format(a=with_article(called), thing=called)
        captions.append(add_ground(caption, background, chance))
    return list(dict.fromkeys(captions))


def add_ground(caption: str, background: str, chance: random.Random) -> str:
    """Add the background in one of several phrases; white is mostly omitted."""
    if background == "white" and chance.random() > WHITE_MENTIONED:
        return caption
    if background == "grey" and chance.random() < 0.5:
        background = "gray"
    return join_ground(caption, chance.choice(GROUND_PHRASES), background)


def join_ground(caption: str, phrase: str, background: str) -> str:
    """Join a caption and a phrase of :data:`GROUND_PHRASES`."""
    ground = phrase.format(a=with_article(background), colour=background)
    if ground.startswith(","):
        return caption + ground
    return f"{caption}, {ground}" if "," in caption else f"{caption} {ground}"


def plural(name: str) -> str:
    """``toothbrush`` → ``toothbrushes``, ``slice of pizza`` → ``slices of pizza``."""
    head, of, rest = name.partition(" of ")
    if of:
        return plural(head) + of + rest
    if name in UNCHANGED_PLURALS:
        return name
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    if name.endswith(("s", "x", "ch", "sh", "tomato")):
        return name + "es"
    return name + "s"
