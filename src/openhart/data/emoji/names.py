"""What things are called."""

import re
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
