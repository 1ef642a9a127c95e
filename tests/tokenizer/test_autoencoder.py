"""Which levels of the convolutional pair attend."""

import pytest
import torch

from openhart.tokenizer.autoencoder import Decoder, Encoder, SpatialAttention


def attending(levels):
    """Levels from the finest that hold an attention; the modules between them resize."""
    return [
        i for i, level in enumerate(levels) if any(isinstance(m, SpatialAttention) for m in level.modules())
    ]


@pytest.mark.parametrize("levels", [(), (0,), (2,), (0, 2)])
@pytest.mark.parametrize("middle", [False, True])
def test_the_named_levels_attend(levels, middle):
    encoder = Encoder(3, 32, (1, 1, 2), 1, 4, 1, levels, middle)
    decoder = Decoder(3, 32, (1, 1, 2), 2, 4, 1, levels, middle)
    assert attending(list(encoder.levels)[::2]) == list(levels)
    assert attending(list(decoder.levels)[::-2]) == list(levels)
    for part in (encoder, decoder):
        assert attending([part.middle]) == ([0] if middle else [])
    assert decoder(encoder(torch.zeros(1, 3, 8, 12))).shape == (1, 3, 8, 12)
