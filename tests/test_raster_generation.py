"""The loop over the places of a map of codes."""

import pytest
import torch

from openhart.errors import UserError
from openhart.generation.raster import generate
from openhart.generation.raster_settings import RasterSampling
from openhart.generation.states import KnownCodes
from openhart.randomness import SeededDraws
from tests.tiny import tiny_raster, tiny_vqgan_tokenizer

QUANTIZER = tiny_vqgan_tokenizer().quantizer


def seeded(*seeds):
    return SeededDraws([torch.Generator().manual_seed(seed) for seed in seeds])


def run(transformer, context, draws, empty=None, size=None, known=None, **settings):
    sampling = RasterSampling(**settings)
    return list(generate(transformer, QUANTIZER, context, empty, draws, sampling, known, size))


def context_of(batch, *shape):
    return torch.randn(batch, *shape, 32, generator=torch.Generator().manual_seed(0))


def published_window(place, side):
    """Row or column inside a window of four, by the published rule."""
    if place <= 2:
        return place
    return 4 - (side - place) if side - place < 2 else 2


@torch.no_grad()
def drawn_without_a_cache(transformer, context, draws, size):
    """The published sampler: for every place, the window is run anew and read at the place."""
    height, width = size
    codes = torch.zeros(len(context), height, width, dtype=torch.long)
    for i in range(height):
        for j in range(width):
            row, column = published_window(i, height), published_window(j, width)
            part = (slice(None), slice(i - row, i - row + 4), slice(j - column, j - column + 4))
            seen = context[part].flatten(1, 2) if context.ndim == 4 else context
            logits = transformer(codes[part].flatten(1)[:, :-1], seen).logits
            codes[:, i, j] = draws.codes(logits[:, row * 4 + column, None], i * width + j)[:, 0]
    return codes


@pytest.mark.parametrize(
    ("tokens", "size"), [(1, (4, 4)), (16, (4, 4)), (16, (4, 7)), (16, (6, 4)), (16, (7, 9))]
)
def test_a_cache_and_a_moving_window_draw_what_the_published_sampler_draws(tokens, size):
    transformer = tiny_raster(context_tokens=tokens)
    context = context_of(2, 1) if tokens == 1 else context_of(2, *size)
    states = run(transformer, context, seeded(1, 2), size=size, top_k=0)
    expected = drawn_without_a_cache(transformer, context, seeded(1, 2), size)
    assert torch.equal(states[-1].codes, expected)
    assert torch.equal(states[-1].features, QUANTIZER.decode([expected.flatten(1)], size))
    assert [state.index for state in states] == list(range(size[0]))
    assert torch.equal(states[1].codes[:, :2], expected[:, :2])
    assert not states[1].features[:, :, 2:].any()


def test_an_image_is_the_same_alone_and_in_a_batch():
    transformer, context = tiny_raster(), context_of(3, 1)
    together = run(transformer, context, seeded(1, 2, 3), temperature=1.5)[-1].codes
    alone = [run(transformer, context[i, None], seeded(i + 1), temperature=1.5)[-1].codes for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_guidance_by_1_changes_nothing_and_by_more_follows_its_formula():
    transformer, context, empty = tiny_raster(), context_of(2, 1), context_of(1, 1) + 1
    plain, guided = (
        run(transformer, context, seeded(1, 2), empty, guidance_scale=w, top_k=1) for w in (1, 3)
    )
    assert torch.equal(plain[-1].codes, run(transformer, context, seeded(1, 2), top_k=1)[-1].codes)
    codes = guided[-1].codes.flatten(1)
    with torch.no_grad():
        cond, uncond = (
            transformer(codes[:, :-1], each).logits for each in (context, empty.expand_as(context))
        )
    assert torch.equal((uncond + 3 * (cond - uncond)).argmax(dim=-1), codes)
    assert not torch.equal(codes, plain[-1].codes.flatten(1))


def test_known_codes_stay_and_the_others_follow_them():
    transformer, context = tiny_raster(), context_of(1, 1)
    codes = torch.arange(16)[None]
    known = KnownCodes([codes], [codes < 8])
    made = run(transformer, context, seeded(0), known=known, top_k=1)[-1].codes.flatten(1)
    assert torch.equal(made[:, :8], codes[:, :8])
    with torch.no_grad():
        assert torch.equal(transformer(made[:, :-1], context).logits.argmax(dim=-1)[:, 8:], made[:, 8:])


@pytest.mark.parametrize(
    ("context", "size", "message"),
    [
        (context_of(1, 1), (3, 4), "at least 4×4 codes, got 3×4"),
        (context_of(1, 1), (4, 5), "need a condition with a token per place"),
        (context_of(1, 5, 5), (4, 5), "a map of 5×5 codes, and the image 4×5"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(context, size, message):
    with pytest.raises(UserError, match=message):
        run(tiny_raster(), context, seeded(0), size=size)


def test_guidance_needs_an_empty_condition_and_weights_must_be_finite():
    transformer = tiny_raster()
    with pytest.raises(UserError, match="no empty condition"):
        run(transformer, context_of(1, 1), seeded(0), guidance_scale=2.0)
    with pytest.raises(UserError, match="not finite"):
        run(transformer, context_of(1, 1) * torch.inf, seeded(0))
