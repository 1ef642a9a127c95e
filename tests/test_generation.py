import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openhart.errors import UserError
from openhart.generation import SamplingSettings, draw_codes, generate, truncate
from tests.tiny import random_context, tiny_head, tiny_tokenizer, tiny_transformer


@pytest.fixture(scope="module")
def parts():
    return tiny_transformer(), tiny_tokenizer().quantizer, tiny_head()


def run(parts, rows, head=True, **values):
    """Generate samples 0 … 2 of a fixed context, or only some of them, seeds following the rows."""
    context, mask = random_context(3)
    nothing = torch.zeros_like(context), torch.eye(1, mask.shape[1]).bool().expand(3, -1)
    generators = [torch.Generator().manual_seed(row) for row in rows]
    return list(
        generate(
            parts[0],
            parts[1],
            parts[2] if head else None,
            (context[rows], mask[rows]),
            (nothing[0][rows], nothing[1][rows]),
            generators,
            SamplingSettings(**values),
        )
    )


WAYS = [
    {},
    {"guidance_scale": 0.0},
    {"smooth": True},
    {"top_k": 5, "top_p": 0.7},
    {"last_scale_steps": 3},
    {"use_residual": False},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_sample_does_not_depend_on_its_batch(parts, way):
    together, alone = run(parts, [0, 1, 2], **way), run(parts, [1], **way)
    for batched, single in zip(together, alone, strict=True):
        assert torch.equal(batched.codes[1:2], single.codes)
        torch.testing.assert_close(batched.f_hat[1:2], single.f_hat, atol=1e-4, rtol=1e-4)


def test_seeds_matter_and_repeat(parts):
    first, again = run(parts, [0, 1])[-1], run(parts, [0, 1])[-1]
    assert torch.equal(first.f_hat, again.f_hat)
    assert not torch.equal(first.codes[0], first.codes[1])


def test_every_scale_is_yielded_and_the_residual_comes_last(parts):
    states = run(parts, [0])
    assert [state.codes.shape[1] for state in states] == [1, 4, 9, 16]
    assert [state.residual is None for state in states] == [True, True, True, False]


def test_without_guidance_the_empty_condition_is_not_read(parts):
    plain = run(parts, [0], guidance_scale=0.0)[-1]
    guided = run(parts, [0], guidance_scale=1e-9)[-1]
    torch.testing.assert_close(plain.f_hat, guided.f_hat, atol=1e-4, rtol=1e-4)


def test_many_residual_steps_cost_nothing_but_time(parts):
    assert run(parts, [0], residual_steps=1)[-1].f_hat.isfinite().all()
    assert run(parts, [0], residual_steps=30)[-1].f_hat.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.floats(0, 1), st.integers(0, 1000))
def test_only_codes_in_the_nucleus_are_drawn(top_k, top_p, seed):
    logits = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(seed))
    kept = truncate(logits, top_k, top_p).isfinite()
    ranks = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    if top_k:
        assert (ranks[kept] < top_k).all()
    assert kept[..., :].any(dim=-1).all()
    assert kept.gather(-1, logits.argmax(-1, keepdim=True)).all()
    codes = draw_codes(truncate(logits, top_k, top_p), [torch.Generator().manual_seed(seed)])
    assert kept.gather(-1, codes[..., None]).all()
    if 0 < top_p < 1 and not top_k:
        held = logits.softmax(-1).where(kept, 0).sum(-1)
        assert (held >= top_p - 1e-5).all()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": 0.0}, "temperature"),
        ({"last_scale_steps": 0}, "last_scale_steps"),
        ({"residual_steps": 0}, "residual_steps"),
    ],
)
def test_impossible_values_are_told(values, word):
    with pytest.raises(UserError, match=word):
        SamplingSettings(**values)


def test_settings_are_plain_data():
    assert SamplingSettings(**dataclasses.asdict(SamplingSettings(top_k=3))).top_k == 3
