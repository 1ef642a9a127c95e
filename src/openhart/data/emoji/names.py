"""Names and synonyms of things; no synonym belongs to two things."""

import re
from importlib.resources import files
from typing import Any


def spell_names(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Spelling of each thing by Emojibase: ``man beard`` → ``man with beard``."""
    names = {}
    for entry in entries:
        label = entry["label"].lower()
        plain = re.sub(r"[^a-z0-9 ]", "", label.replace("-", " "))
        written = label.replace(": bald", " who is bald").replace(": ", " with ").replace("’", "'")
        names[plain] = re.sub(r"[^a-z0-9' -]", "", written)
    return names


def read_synonyms() -> dict[str, list[str]]:
    """Synonyms by thing.

    They were chosen by hand, most of them from the 1,721 tags of Emojibase that belong to one thing of the
    corpus only; the other tags (``fruit``, ``launch``) fit many things or none. No synonym fits two things.
    """
    text = files("openhart.data.emoji").joinpath("synonyms.txt").read_text()
    pairs = (line.split(": ") for line in text.splitlines())
    return {thing: names.split(", ") for thing, names in pairs}
