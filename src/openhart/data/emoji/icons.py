"""Icons of things in emoji packages, and the split into training and test things.

The split is by thing and depends on a hash of the name, so it stays the same when packages change, and no
style of a held-out thing is used for training.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HELD_OUT_ONE_IN = 17
LEFT_OUT = re.compile(
    r"skin-tone|-(light|dark|medium|medium-light|medium-dark)$|-(light|dark|medium)-|flag|keycap|button"
    r"|^[0-9a-z]$|arrow|-sign$|-square$|-circle$|letter|mahjong|input-|oclock|thirty|joker|^(light|medium"
    r"|dark)|calendar|tear-off|-symbol$|medium-star|facing-(right|left)$|^(abc|abcd|cl|id|ok|vs|up|new|free|cool)$"
)
NEVER_MIRRORED = re.compile(
    r"clock|watch|hand|fist|finger|thumb|gesture|salute|horns|biceps|left|right|pointing|tilted|moon|music"
    r"|globe|map|chart|newspaper|book|ledger|memo|scroll|receipt|ticket|card|banknote|money|coin|label"
    r"|e mail|x ray|zzz|hundred|pool 8|dvd|disk|abacus|keyboard|die|slot|bank|hospital|hotel|school|store"
    r"|office|police|ambulance|fire engine|taxi|statue|placard|battery|ruler|phone|pager|fax|writing"
)


@dataclass(frozen=True)
class Icon:
    """One drawing: style, name with hyphens, SVG, and width divided by height."""

    style: str
    name: str
    svg: str
    ratio: float

    @property
    def thing(self) -> str:
        """Name of the thing, with spaces."""
        return self.name.replace("-", " ")


def icons_of(sets: dict[str, dict[str, Any]]) -> Iterator[Icon]:
    """All icons of things; flags, symbols, letters and skin tones are excluded.

    Args:
        sets: the result of :func:`openhart.data.emoji.packages.read_package` per style.
    """
    unwanted = {
        name
        for package in sets.values()
        for category in ("Flags", "Symbols", "Modifiers")
        for name in package["metadata.json"].get("categories", {}).get(category, [])
    }
    for style, package in sets.items():
        data = package["icons.json"]
        for name, icon in data["icons"].items():
            if icon.get("hidden") or name in unwanted or LEFT_OUT.search(name):
                continue
            width = icon.get("width", data.get("width", 16))
            height = icon.get("height", data.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            svg = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
            )
            yield Icon(style, name, svg, width / height)


def is_held_out(thing: str) -> bool:
    """Whether a thing belongs to the test split."""
    return stable_hash(thing) % HELD_OUT_ONE_IN == 0


def may_be_mirrored(thing: str) -> bool:
    """Whether the mirror image of a thing has the same meaning; not for clocks, letters or hands."""
    return NEVER_MIRRORED.search(thing) is None


def stable_hash(text: str) -> int:
    """A hash that is equal in every process and on every machine."""
    return int(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), 16)
