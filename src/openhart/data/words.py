"""Captions with words left out, as people in a hurry type them."""

import torch

FILLERS = frozenset(["a", "an", "the", "of", "to", "in", "style", "emoji", "icon", "render", "picture"])
"""Words without which a caption means the same."""


def drop_words(caption: str, share: float, generator: torch.Generator) -> str:
    """A caption without some of its :data:`FILLERS`; commas stay.

    Args:
        caption: such as ``a red apple, flat style``.
        share: each such word is left out with this probability.
        generator: decides, with one number per word.
    """
    words = caption.split()
    left_out = (torch.rand(len(words), generator=generator) < share).tolist()
    kept: list[str] = []
    for word, out in zip(words, left_out, strict=True):
        plain = word.rstrip(",")
        if not out or plain.lower() not in FILLERS:
            kept.append(word)
        elif kept and word != plain:
            kept[-1] = kept[-1].rstrip(",") + ","
    return " ".join(kept) or caption
