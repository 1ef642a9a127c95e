"""What things are called: their names, and other names that mean no other thing."""

import re
from importlib.resources import files
from typing import Any


def spell_names(entries: list[dict[str, Any]]) -> dict[str, str]:
    """How Emojibase writes each thing: ``womans hat`` is a woman's hat, ``man beard`` a man with beard."""
    names = {}
    for entry in entries:
        label = entry["label"].lower()
        plain = re.sub(r"[^a-z0-9 ]", "", label.replace("-", " "))
        written = label.replace(": bald", " who is bald").replace(": ", " with ").replace("’", "'")
        names[plain] = re.sub(r"[^a-z0-9' -]", "", written)
    return names


def read_synonyms() -> dict[str, list[str]]:
    """What else people call things, by thing.

    Picked by hand, most of them among the 1,721 tags of Emojibase that only one thing of the corpus has;
    the other tags (``fruit``, ``launch``) name many things or none. No synonym names two things.
    """
    text = files("openhart.data.emoji").joinpath("synonyms.txt").read_text()
    pairs = (line.split(": ") for line in text.splitlines())
    return {thing: names.split(", ") for thing, names in pairs}
