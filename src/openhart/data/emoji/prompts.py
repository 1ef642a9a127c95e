"""Prompts for GenEval's six tasks about common things, with combinations seen in training and held out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openhart.data.emoji.colours import BACKGROUNDS
from openhart.data.emoji.common import UNSEEN_STYLES
from openhart.data.emoji.content import TAGS, Content, draw_content
from openhart.data.emoji.sentences import main_caption, requirements
from openhart.data.emoji.sprites import Sprites
from openhart.errors import UserError

PROMPT_SETS = ("plain", "seen", "unseen")
PROMPTS_PER_TAG = 50
PATIENCE = 100


def write_prompts(folder: Path, sprites: Sprites, styles: Sequence[str], seed: int) -> None:
    """Write ``plain.jsonl``, ``seen.jsonl`` and ``unseen.jsonl`` with up to 50 prompts per task.

    Each line has GenEval's keys (``tag``, ``include``, for counting ``exclude``, ``prompt``) and ``style``,
    ``background`` and ``unseen``. ``plain`` names neither style nor background. In ``unseen``, half
    of the prompts name a held-out style and half a held-out background; in the colour tasks all name a
    held-out colour. ``seen`` has the same structure with combinations that occur in training.
    """
    folder.mkdir(parents=True)
    for number, name in enumerate(PROMPT_SETS):
        generator = np.random.default_rng([seed, number])
        lines = [
            json.dumps(prompt) + "\n"
            for tag in TAGS
            for prompt in _prompts(name, tag, sprites, styles, generator)
        ]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def kinds_of_unseen(tag: str, styles: Sequence[str]) -> tuple[str, ...]:
    """The kinds of combinations that can be held out in a task."""
    if tag in ("colors", "color_attr"):
        return ("colour",)
    return ("style", "background") if set(styles) & set(UNSEEN_STYLES) else ("background",)


def _prompts(
    name: str, tag: str, sprites: Sprites, styles: Sequence[str], generator: np.random.Generator
) -> list[dict[str, Any]]:
    found: dict[str, Content] = {}
    kinds = (None,) if name == "plain" else kinds_of_unseen(tag, styles)
    for number, kind in enumerate(kinds, start=1):
        failures = 0
        while len(found) < PROMPTS_PER_TAG * number // len(kinds) and failures < PATIENCE:
            before = len(found)
            content = _draw(tag, kind, name == "unseen", sprites, styles, generator)
            if content is not None and _as_in_geneval(content):
                found.setdefault(main_caption(content, sprites.library.default_style), content)
            failures = failures + 1 if len(found) == before else 0
    return [
        {
            **requirements(content),
            "prompt": prompt,
            "style": content.style,
            "background": content.background,
            "unseen": content.unseen,
        }
        for prompt, content in found.items()
    ]


def _draw(
    tag: str,
    kind: str | None,
    unseen: bool,
    sprites: Sprites,
    styles: Sequence[str],
    generator: np.random.Generator,
) -> Content | None:
    """Content whose main caption names only a style, a background or a colour; None if there is none."""
    if kind == "style":
        styles = [style for style in styles if style in UNSEEN_STYLES]
    elif kind != "colour":
        styles = [sprites.library.default_style or styles[0]]
    backgrounds = list(BACKGROUNDS) if kind == "background" else ["white"]
    try:
        return draw_content(tag, sprites, styles, backgrounds, generator, kind if unseen else None)
    except UserError:
        return None


def _as_in_geneval(content: Content) -> bool:
    """Whether it fits GenEval: no sizes, one kind of thing to count, colours only in the colour tasks."""
    coloured = content.tag in ("colors", "color_attr")
    return all(item.size is None and (coloured or item.colour is None) for item in content.items) and not (
        content.tag == "counting" and len(content.items) > 1
    )
