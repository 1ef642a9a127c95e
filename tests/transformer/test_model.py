import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from openhart.errors import UserError
from openhart.transformer import attention, rotary
from openhart.transformer.model import HartTransformer
from tests.tiny import CONTEXT, SCALES, random_context, tiny_transformer

VARIANTS = [
    {},
    {"modulation": "none"},
    {"modulation": "per_block", "pooling": "max"},
    {"modulation": "shared", "norm": "layer", "mlp": "gelu", "positions": "learned"},
    {"levels": "learned", "normalize_attention": True, "context_norm": False},
    {"value_residual": True},
]
TOKENS = sum(side * side for side in SCALES)


def scale_inputs(batch=2):
    return torch.randn(batch, TOKENS - 1, 8, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def cached_hidden(model, inputs, context, mask):
    cache = model.allocate_cache(len(context))
    prefilled = model(None, context, mask, cache=cache)
    outputs = [prefilled.hidden_states]
    parts = inputs.split([side * side for side in SCALES[1:]], dim=1)
    for index, part in enumerate(parts, start=1):
        scale_context = prefilled.prepared.at_scale(index, len(context))
        outputs.append(model(part, cache=cache, scale_context=scale_context).hidden_states)
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_one_scale_at_a_time_equals_all_at_once(settings):
    model = tiny_transformer(**settings)
    context, mask = random_context(2)
    with torch.no_grad():
        at_once = model(scale_inputs(), context, mask).hidden_states
    stepwise = cached_hidden(model, scale_inputs(), context, mask)
    torch.testing.assert_close(stepwise, at_once, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_no_scale_sees_a_finer_one(settings):
    model = tiny_transformer(**settings)
    context, mask = random_context(2)
    inputs = scale_inputs()
    changed = inputs.clone()
    changed[:, -16:] += 1
    with torch.no_grad():
        before, after = (model(x, context, mask).hidden_states for x in (inputs, changed))
    torch.testing.assert_close(after[:, :-16], before[:, :-16], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after[:, -16:], before[:, -16:], atol=1e-3)


def test_long_sequences_by_block_equal_short_ones_by_mask(monkeypatch):
    model = tiny_transformer()
    context, mask = random_context(2)
    with torch.no_grad():
        masked = model(scale_inputs(), context, mask).hidden_states
        monkeypatch.setattr(attention, "MASK_LIMIT", 0)
        by_block = model(scale_inputs(), context, mask).hidden_states
    torch.testing.assert_close(by_block, masked, atol=1e-5, rtol=1e-5)


def test_thinning_leaves_coarser_scales_alone():
    model = tiny_transformer()
    context, mask = random_context(2)
    keep = torch.zeros(2, 16, dtype=torch.bool)
    keep[0, [1, 5, 9]] = keep[1, [0, 2, 15]] = True
    with torch.no_grad():
        whole, thinned = (
            model(scale_inputs(), context, mask, keep=kept).hidden_states for kept in (None, keep)
        )
    assert thinned.shape[1] == whole.shape[1] - 13
    torch.testing.assert_close(thinned[:, :-3], whole[:, :-16], atol=1e-5, rtol=1e-5)


def test_gradients_reach_everything_with_and_without_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        context, mask = random_context(2)
        hidden = model(scale_inputs(), context, mask).hidden_states
        condition = model.residual_condition(hidden, torch.randn(2, hidden.shape[1], 8))
        (model.logits(hidden, model.prepare(context, mask)).square().mean() + condition.mean()).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing
        gradients.append(model.word_embed.weight.grad)
    torch.testing.assert_close(gradients[0].shape, gradients[1].shape)


def test_saved_and_loaded_is_the_same(tmp_path):
    model = tiny_transformer()
    model.save_pretrained(tmp_path)
    loaded = HartTransformer.from_pretrained(tmp_path)
    arguments = (scale_inputs(), *random_context(2))
    with torch.no_grad():
        assert torch.equal(loaded(*arguments).hidden_states, model(*arguments).hidden_states)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"modulation": "film"}, "modulation"),
        ({"norm": "batch"}, "norm"),
        ({"mlp": "relu"}, "mlp"),
        ({"scales": [2, 4]}, "first scale"),
        ({"width": 33}, "multiple"),
        ({"context_projection": False}, "context_dim"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_told(settings, word):
    with pytest.raises(UserError, match=word):
        tiny_transformer(**settings)


def test_a_context_of_another_shape_is_told():
    with pytest.raises(UserError, match="context must be"):
        tiny_transformer().prepare(torch.zeros(1, 4, CONTEXT[1]), torch.ones(1, 4, dtype=torch.bool))


def test_rotary_scores_depend_on_distance_only():
    """Of two context positions, what counts is how far apart they lie (RoFormer, section 3.2)."""
    q, k = torch.randn(2, 1, 1, 1, 16)
    scores = []
    for first, second in itertools.product((0, 5), (2, 7)):
        angles = [rotary.context_angles(torch.tensor([[p]]), 16)[:, None] for p in (first, second)]
        turned = [rotary.rotate(x, (a.cos(), a.sin())) for x, a in zip((q, k), angles, strict=True)]
        scores.append(((first - second), (turned[0] * turned[1]).sum()))
    by_distance = dict(scores)
    torch.testing.assert_close(by_distance[-2], scores[0][1])
    torch.testing.assert_close(scores[0][1], scores[3][1])


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), st.integers(1, 70)),
    st.integers(1, 4000),
)
def test_attention_in_blocks_is_attention(sizes, scores):
    batch, heads, queries, keys = sizes
    generator = torch.Generator().manual_seed(sum(sizes))
    q = torch.randn(batch, queries, heads, 8, generator=generator).transpose(1, 2)
    k, v = torch.randn(2, batch, heads, keys, 8, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SCORES_AT_A_TIME", scores)
        found = attention.attend_in_blocks(q, k, v, 0.3)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, scale=0.3))
