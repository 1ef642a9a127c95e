"""Captions as a person would type them, for a named thing drawn in a named style."""

import re

STYLE_PHRASES = {
    "fluent-3d": ("{a}, 3d style", "3d emoji of {a}", "3d {thing}"),
    "fluent-flat": ("{a}, flat style", "flat icon of {a}", "flat {thing}"),
    "noto": ("{a}, noto style", "noto emoji of {a}", "noto {thing}"),
    "twemoji": ("{a}, twemoji style", "twemoji of {a}", "twemoji {thing}"),
    "emojione": ("{a}, emojione style", "emojione of {a}", "emojione {thing}"),
}
"""What each style is called; the first phrase is an image's main caption."""

WITHOUT_ARTICLE_TEXT = """
bacon badminton bamboo baseball basketball bowling boxing bread broccoli butter cheese chocolate confetti
coral cricket dna fire fog garlic ginger hockey honey ice lacrosse lightning mate milk money night popcorn
rice sake salt snow soap softball spaghetti sunrise sunset sushi tea tennis thread tofu together volleyball
water wood yarn
"""
WITHOUT_ARTICLE = frozenset(WITHOUT_ARTICLE_TEXT.split())
PLURAL_LOOKING = ("ss", "us", "is", "as", "os", "bus", "lens", "cactus", "tennis", "claus")
ONLY_ONE = frozenset(["sun", "moon", "santa", "earth", "saturn"])


def with_article(thing: str) -> str:
    """``apple`` → ``an apple``; plurals and what is not counted stay as they are."""
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
    """The word that the phrase is about: before ``with``, ``of``, ``on`` …, else the last one."""
    for place, word in enumerate(words):
        if place and word in ("with", "of", "on", "in", "at", "and", "over", "without", "from"):
            return words[place - 1]
    return words[-1]


def write_captions(name: str, style: str, background: str, is_default_style: bool) -> list[str]:
    """Captions of one image, the main one first.

    Args:
        name: what it shows, such as ``red apple``.
        style: a key of :data:`STYLE_PHRASES`.
        background: ``white``, which is not mentioned, or a colour, which always is.
        is_default_style: a caption may leave the style out.
    """
    article = with_article(name)
    captions = [phrase.format(a=article, thing=name) for phrase in STYLE_PHRASES[style]]
    if is_default_style:
        captions += [article, name]
    captions = list(dict.fromkeys(captions))
    if background == "white":
        return captions
    ground = f" on {with_article(background)} background"
    return [f"{caption},{ground}" if "," in caption else caption + ground for caption in captions]
