"""Captions with filler words left out."""

import torch

from openhart.data.words import drop_words


def test_fillers_are_left_out_at_their_share_and_nothing_else():
    caption = "a picture of an apple to the left of a car, noto style, on a pink background"
    generator = torch.Generator().manual_seed(0)
    found = [drop_words(caption, 0.5, generator) for _ in range(200)]
    assert len(set(found)) > 100
    for short in found:
        assert [
            word
            for word in ("apple", "left", "car,", "noto", "on", "pink", "background")
            if word in short.split()
        ]
    words = sum(len(short.split()) for short in found) / 200
    assert 11.5 < words < 13.5


def test_all_and_none():
    generator = torch.Generator().manual_seed(0)
    caption = "a red apple, flat style, on a pink background"
    assert drop_words(caption, 0.0, generator) == caption
    assert drop_words(caption, 1.0, generator) == "red apple, flat, on pink background"
    assert drop_words("an emoji", 1.0, generator) == "an emoji"
