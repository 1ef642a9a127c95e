"""Augmentation of captions by leaving out filler words."""

import torch

FILLERS = frozenset(["a", "an", "the", "of", "to", "in", "style", "emoji", "icon", "render", "picture"])
"""Words that can be omitted without changing the meaning of a caption."""


def drop_words(caption: str, share: float, generator: torch.Generator) -> str:
    """Drop some of the :data:`FILLERS` of a caption; commas stay.

    Args:
        caption: such as ``a red apple, flat style``.
        share: probability with which each such word is dropped.
        generator: source of one random number per word.
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
