"""The drawings of the chosen styles, with names, captions and licences."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from openhart.data.emoji.captions import write_captions
from openhart.data.emoji.icons import Icon, icons_of
from openhart.data.emoji.names import read_synonyms, spell_names
from openhart.data.emoji.packages import NAMES, read_package, read_styles

STYLES_OF_BARE_CAPTIONS = ("fluent-3d", "noto")


@dataclass(frozen=True)
class Library:
    """Icons, names and licences of the chosen styles.

    Args:
        sets: the files of each style's package.
        icons: by thing and style.
        names: spelling of the things whose spelling differs from the corpus name.
        synonyms: other names of things.
    """

    sets: dict[str, dict[str, Any]]
    icons: dict[tuple[str, str], Icon]
    names: dict[str, str]
    synonyms: dict[str, list[str]]

    @cached_property
    def all_names(self) -> set[str]:
        """Names of all things, in both spellings."""
        things = {thing for thing, _ in self.icons}
        return things | {self.name(thing) for thing in things}

    def name(self, thing: str) -> str:
        """Spelling of a thing in captions."""
        return self.names.get(thing, thing)

    def captions(self, thing: str, style: str, background: str) -> list[str]:
        """Captions of an image of one thing; the first is the main caption."""
        synonyms = [name for name in self.synonyms.get(thing, []) if name not in self.all_names]
        default = self.is_default_style(thing, style)
        return write_captions(self.name(thing), style, background, default, synonyms)

    @cached_property
    def default_style(self) -> str | None:
        """The style of scenes whose caption names no style."""
        return next((style for style in STYLES_OF_BARE_CAPTIONS if style in self.sets), None)

    def is_default_style(self, thing: str, style: str) -> bool:
        """Whether captions of this thing in this style may omit the style."""
        there = [name for name in STYLES_OF_BARE_CAPTIONS if (thing, name) in self.icons]
        return style in there[:1]

    def category(self, name: str) -> frozenset[str]:
        """Things of a category of the packages, such as ``People & Body``."""
        return self._categories.get(name, frozenset())

    @cached_property
    def _categories(self) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {}
        for package in self.sets.values():
            for category, names in package["metadata.json"].get("categories", {}).items():
                found.setdefault(category, set()).update(name.replace("-", " ") for name in names)
        return {category: frozenset(things) for category, things in found.items()}

    def credit(self, style: str) -> dict[str, str]:
        """``license`` and ``source`` of a style, for the record of an image."""
        info = self.sets[style]["info.json"]
        return {"license": info["license"]["spdx"], "source": info["author"]["url"]}


def read_library(styles: Sequence[str], packages: Path) -> Library:
    """Read the packages of the given styles; missing packages are downloaded into the folder.

    Raises:
        UserError: if a style is unknown, or if a package can be neither read nor downloaded.
    """
    sets = read_styles(styles, packages)
    names = spell_names(read_package(NAMES, packages, "en/data.json")["en/data.json"])
    icons: dict[tuple[str, str], Icon] = {}
    seen: set[tuple[str, str]] = set()
    for icon in icons_of(sets):
        if (icon.style, icon.svg) not in seen:  # some drawings have two names
            icons[icon.thing, icon.style] = icon
            seen.add((icon.style, icon.svg))
    return Library(sets, icons, names, read_synonyms())
