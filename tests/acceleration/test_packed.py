import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from openhart.acceleration.packed import PackedLinear, can_pack, pack
from openhart.errors import UserError
from openhart.onednn import packs
from tests.tiny import random_context, tiny_head, tiny_transformer

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="packing is oneDNN's")
VARIANTS = [
    {},
    {"mlp": "gelu", "norm": "layer"},
    {"normalize_attention": True, "modulation": "per_block"},
    {"value_residual": True},
]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 50), st.integers(1, 40), st.booleans())
@torch.no_grad()
def test_a_packed_map_is_the_map(rows, inner, outer, biased):
    linear = nn.Linear(inner, outer, bias=biased)
    x = torch.randn(2, rows, inner)
    torch.testing.assert_close(PackedLinear(linear.weight, linear.bias)(x), linear(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_a_packed_transformer_says_and_saves_the_same(variant):
    plain = tiny_transformer(**variant)
    packed = copy.deepcopy(plain)
    pack(packed)
    inputs, condition = torch.randn(2, 29, 8), random_context(2)
    outputs = [model(inputs, *condition).hidden_states for model in (packed, plain)]
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
    expected, found = plain.state_dict(), packed.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.skipif(not packs(torch.bfloat16), reason="this CPU packs no bfloat16")
@torch.no_grad()
def test_packed_weights_follow_a_change_of_dtype():
    head = tiny_head()
    expected = copy.deepcopy(head).to(torch.bfloat16)
    pack(head)
    head.to(torch.bfloat16)
    t, size = torch.full((1, 1), 10), (3, 4)
    given = torch.randn(1, 12, 8).bfloat16(), torch.randn(1, 12, 32).bfloat16()
    outputs = [
        each(given[0], t, each.embed_condition(given[1]), size).prediction for each in (head, expected)
    ]
    torch.testing.assert_close(*outputs, atol=0.05, rtol=0.05)


def test_packed_weights_refuse_a_dtype_that_cannot_be_packed():
    with pytest.raises(UserError, match="load it in that dtype, then optimize"):
        PackedLinear(torch.randn(4, 3), None).to(torch.float64)


def test_packed_weights_stay_on_the_cpu():
    packed = PackedLinear(torch.randn(4, 3), None)
    with pytest.raises(UserError, match="stays on the CPU"):
        packed.to("meta")


def test_only_what_onednn_takes_is_packed():
    assert can_pack(tiny_transformer())
    assert not can_pack(tiny_transformer().to(torch.float16))
    assert not can_pack(tiny_transformer().to("meta"))
