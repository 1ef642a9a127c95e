import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openhart.conditioning.text import empty_condition
from openhart.errors import UserError
from openhart.generation.logits import guide, truncate
from openhart.generation.next_scale import generate, most_distinct
from openhart.generation.saved import present_index
from openhart.generation.settings import RESIDUAL_SOLVERS, SamplingOptions, SamplingSettings
from openhart.generation.table import PAGES, with_table
from openhart.randomness import SeededDraws, codes_at, draw_codes
from openhart.residual.solvers import SOLVERS
from tests.tiny import SCALES, random_context, tiny_head, tiny_tokenizer, tiny_transformer


@pytest.fixture(scope="module")
def parts():
    return tiny_transformer(), tiny_tokenizer().quantizer, tiny_head()


def run(parts, rows, head=True, **values):
    """Generate samples 0 … 2 of a fixed context, or only some of them, seeds following the rows."""
    context, mask = random_context(3)
    nothing = empty_condition(1, 1, context.shape[2])
    generators = [torch.Generator().manual_seed(row) for row in rows]
    return list(
        generate(
            parts[0],
            parts[1],
            parts[2] if head else None,
            (context[rows], mask[rows]),
            nothing,
            SeededDraws(generators),
            SamplingSettings(**values),
        )
    )


WAYS = [
    {},
    {"guidance_scale": 1.0},
    {"gumbel_smoothing": True},
    {"top_k": 5, "top_p": 0.7},
    {"last_scale_steps": 3},
    {"use_residual": False},
    {"residual_solver": "dpm++", "residual_steps": 4},
    {"residual_solver": "mean", "residual_strength": 0.5},
    {"unguided_scales": 1},
    {"unguided_scales": 2, "keep_ratios": (0.5, 0.5)},
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
    plain = run(parts, [0], guidance_scale=1.0)[-1]
    guided = run(parts, [0], guidance_scale=1 + 1e-9)[-1]
    torch.testing.assert_close(plain.f_hat, guided.f_hat, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_one_empty_token_means_what_a_whole_empty_context_means(parts):
    transformer = parts[0]
    context, mask = random_context(2)
    whole = empty_condition(2, *context.shape[1:])
    both = [torch.cat(pair) for pair in zip((context, mask), whole, strict=True)]
    short = empty_condition(1, 1, context.shape[2])
    caches = transformer.allocate_cache(4), transformer.allocate_cache(4)
    expected = transformer(None, *both, cache=caches[0])
    found = transformer(None, context, mask, empty=short, cache=caches[1])
    torch.testing.assert_close(found.hidden_states, expected.hidden_states, atol=1e-5, rtol=1e-5)
    inputs = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        transformer(inputs, cache=caches[1], scale_context=found.prepared.at_scale(1, 4)).to_tuple(),
        transformer(inputs, cache=caches[0], scale_context=expected.prepared.at_scale(1, 4)).to_tuple(),
        atol=1e-5,
        rtol=1e-5,
    )


def test_scales_left_unguided_change_and_earlier_ones_do_not(parts):
    guided, partly = run(parts, [0]), run(parts, [0], unguided_scales=1)
    for before, after in zip(guided[:-1], partly[:-1], strict=True):
        assert torch.equal(before.codes, after.codes)
    assert not torch.equal(guided[-1].f_hat, partly[-1].f_hat)


def test_no_scale_guided_is_no_guidance(parts):
    plain, none = run(parts, [0], guidance_scale=1.0), run(parts, [0], unguided_scales=4)
    assert torch.equal(plain[-1].f_hat, none[-1].f_hat)


def test_keeping_all_tokens_is_keeping_none_out(parts):
    whole, kept = run(parts, [0, 1]), run(parts, [0, 1], keep_ratios=(1.0, 1.0))
    assert torch.equal(whole[-1].f_hat, kept[-1].f_hat)


def test_kept_tokens_are_the_ones_that_stand_out():
    tokens = torch.zeros(1, 6, 2)
    tokens[0, [1, 4]] = torch.tensor([[5.0, 0], [0, -4]])
    assert most_distinct(tokens, 2).tolist() == [[1, 4]]


def test_more_special_scales_than_there_are_is_told(parts):
    for values in ({"unguided_scales": 5}, {"keep_ratios": (0.5,) * 5}):
        with pytest.raises(UserError, match="4 scales"):
            run(parts, [0], **values)


def test_a_share_of_the_residual_is_added(parts):
    parts = parts[0], tiny_tokenizer(phi_at_last_scale="never").quantizer, parts[2]
    states = {share: run(parts, [0, 1], residual_strength=share)[-1] for share in (0.0, 0.5, 1.0)}
    torch.testing.assert_close(states[0.5].residual, states[1.0].residual / 2)
    middle = (states[0.0].f_hat + states[1.0].f_hat) / 2
    torch.testing.assert_close(states[0.5].f_hat, middle, atol=1e-5, rtol=1e-4)
    without = run(parts, [0, 1], use_residual=False)[-1]
    assert torch.equal(states[0.0].f_hat, without.f_hat)
    assert states[0.0].residual is None


def test_the_mean_residual_is_the_same_for_every_seed(parts):
    greedy = {"top_k": 1, "residual_solver": "mean", "guidance_scale": 1.0}
    context, mask = random_context(1)
    nothing = empty_condition(1, 1, context.shape[2])
    states = [
        list(
            generate(
                *parts,
                (context, mask),
                nothing,
                SeededDraws([torch.Generator().manual_seed(seed)]),
                SamplingSettings(**more),
            )
        )[-1]
        for seed, more in ((0, greedy), (1, greedy), (0, greedy | {"residual_solver": "dpm++"}))
    ]
    assert torch.equal(states[0].residual, states[1].residual)
    assert not torch.equal(states[0].residual, states[2].residual)


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


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True, width=32))
def test_codes_by_inversion_have_the_given_probabilities(seed, uniform):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(1, 4, 32, generator=generator) * (torch.rand(1, 4, 32, generator=generator) < 0.3)
    weights[..., 7] += 1e-3
    probabilities = weights / weights.sum(dim=-1, keepdim=True)
    codes = codes_at(probabilities, torch.full((1, 4), uniform))
    assert (probabilities.gather(-1, codes[..., None]) > 0).all()
    before = (probabilities.cumsum(-1) - probabilities).gather(-1, codes[..., None])
    after = probabilities.cumsum(-1).gather(-1, codes[..., None])
    assert (before <= uniform + 1e-5).all()
    assert (after >= uniform - 1e-5).all()


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
        ({"residual_solver": "euler"}, "one of ddpm, dpm"),
        ({"residual_strength": 1.5}, "residual_strength"),
        ({"residual_strength": -0.1}, "residual_strength"),
        ({"unguided_scales": -1}, "unguided_scales"),
        ({"keep_ratios": (0.0,)}, "keep_ratios"),
        ({"keep_ratios": (0.5,), "last_scale_steps": 2}, "last_scale_steps"),
    ],
)
def test_impossible_values_are_told(values, word):
    with pytest.raises(UserError, match=word):
        SamplingSettings(**values)


def test_settings_are_plain_data():
    assert SamplingSettings(**dataclasses.asdict(SamplingSettings(top_k=3))).top_k == 3


PHI_RULES = {  # per rule: is φ applied with a residual, with an unused head, without a head?
    "without_residual": (False, True, True),
    "never": (False, False, False),
    "without_head": (False, False, True),
}


@pytest.mark.parametrize("rule", PHI_RULES)
def test_phi_at_the_last_scale_follows_the_setting(parts, rule):
    quantizer = tiny_tokenizer(phi_at_last_scale=rule).quantizer
    ways = ({"use_residual": True}, {"use_residual": False}, {"head": False})
    for way, expected in zip(ways, PHI_RULES[rule], strict=True):
        *_, before, last = run((parts[0], quantizer, parts[2]), [0, 1], **way)
        embedding = quantizer.lookup(last.codes)
        if last.residual is not None:
            embedding = embedding + last.residual
        applied = quantizer.add_scale(before.f_hat, embedding, len(SCALES) - 1)
        omitted = quantizer.add_scale(before.f_hat, embedding, len(SCALES) - 1, apply_phi=False)
        assert torch.allclose(last.f_hat, applied, atol=1e-5) is expected
        assert torch.allclose(last.f_hat, omitted, atol=1e-5) is not expected


def test_every_setting_is_a_keyword_argument_too():
    fields = {field.name for field in dataclasses.fields(SamplingSettings)}
    assert set(SamplingOptions.__annotations__) == fields
    assert set(RESIDUAL_SOLVERS) == set(SOLVERS)


@pytest.mark.parametrize("name", PAGES)
def test_the_documented_table_is_the_present_one(name):
    page = (Path(__file__).parents[1] / "docs" / name).read_text(encoding="utf-8")
    assert page == with_table(page, PAGES[name])


def test_guidance_grows_linearly_and_is_that_of_diffusers(parts):
    conditional, unconditional = torch.randn(2, 3, 4, 8).unbind()
    expected = unconditional + 2.5 * (conditional - unconditional)
    torch.testing.assert_close(guide(torch.cat([conditional, unconditional]), 2.5), expected)
    below, none = run(parts, [0], guidance_scale=0.5), run(parts, [0], guidance_scale=1.0)
    assert torch.equal(below[-1].f_hat, none[-1].f_hat)


def test_settings_saved_by_the_first_version_are_translated():
    old = {"guidance_scale": 1.5, "smooth": True, "kept_tokens": [0.5], "last_scale_holds_back": False}
    new = present_index({"sampling": old})
    assert SamplingSettings(**new["sampling"]) == SamplingSettings(
        guidance_scale=2.5, gumbel_smoothing=True, keep_ratios=[0.5], hold_last_guidance=False
    )
    assert present_index(new) == new
    with pytest.raises(UserError, match="later OpenHART"):
        present_index({"_sampling_version": 3})
