"""Augmentation of captions: filler words are dropped at random."""

import torch

FILLERS = frozenset(["a", "an", "the", "of", "to", "in", "style", "emoji", "icon", "render", "picture"])
"""Words that can be omitted without changing the meaning of a caption."""


def drop_words(caption: str, share: float, generator: torch.Generator) -> str:
    """Drop some of the :data:`FILLERS` of a caption; commas stay.

    Args:
        caption: the caption, such as ``a red apple, flat style``.
        share: probability with which each filler is dropped, independently.
        generator: source of one random number per word.

    Returns:
        the shorter caption, or the unchanged one if nothing would be left.
    """
    words = caption.split()
    dropped = (torch.rand(len(words), generator=generator) < share).tolist()
    kept: list[str] = []
    for word, drop in zip(words, dropped, strict=True):
        plain = word.rstrip(",")
        if not drop or plain.lower() not in FILLERS:
            kept.append(word)
        elif kept and word != plain:
            kept[-1] = kept[-1].rstrip(",") + ","
    return " ".join(kept) or caption
