"""Triton kernels against the plain block, under Triton's interpreter, so that no GPU is needed."""

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import random_context, tiny_transformer

pytest.importorskip("triton", reason="Triton comes for Linux alone")

from openhart.acceleration.fused import FusedBlock, fuse_blocks
from openhart.acceleration.kernels import modulated_norm, silu_times, split_heads

VARIANTS = [
    {},
    {"norm": "layer", "mlp": "gelu", "positions": "learned", "modulation": "shared"},
    {"normalize_attention": True, "modulation": "per_block", "width": 48, "num_heads": 4},
    {"value_residual": True, "dropout": 0.1},
]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_fused_transformer_says_the_same(variant, dtype):
    transformer = tiny_transformer(**variant).to(dtype)
    inputs, condition = torch.randn(2, 29, 8), random_context(2)
    expected = transformer(inputs, *condition).hidden_states
    fuse_blocks(transformer)
    assert all(isinstance(block, FusedBlock) for block in transformer.blocks)
    found = transformer(inputs, *condition).hidden_states
    error = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 2e-2)


@torch.no_grad()
@pytest.mark.slow
def test_a_fused_block_works_with_the_cache():
    plain, fused = tiny_transformer(), tiny_transformer()
    fuse_blocks(fused)
    condition = random_context(2)
    for index, inputs in ((1, torch.randn(2, 4, 8)), (2, torch.randn(2, 9, 8))):
        hidden = []
        for transformer in (plain, fused):
            cache = transformer.allocate_cache(2)
            prepared = transformer(None, *condition, cache=cache).prepared
            context = prepared.at_scale(index, 2)
            hidden.append(transformer(inputs, cache=cache, scale_context=context).hidden_states)
        torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [8, 33, 256])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_modulated_norm(width, centred, weighted):
    x, weight = torch.randn(3, 5, width), torch.randn(width) if weighted else None
    _, scale, shift = torch.randn(3, 3, width).unbind(1)
    norm = F.layer_norm if centred else F.rms_norm
    expected = norm(x, (width,), eps=1e-6) * (1 if weight is None else weight)
    expected = expected * (1 + scale[:, None]) + shift[:, None]
    found = modulated_norm(x, weight, scale, shift, 1e-6, centred)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_one_rotation_serves_all_samples():
    qkv, bias = torch.randn(3, 5, 48), torch.randn(48)
    rotation = torch.randn(2, 1, 1, 5, 8).unbind(0)
    shared = split_heads(qkv, bias, 2, rotation, None)
    each = split_heads(qkv, bias, 2, tuple(part.expand(3, -1, -1, -1) for part in rotation), None)
    for one, other in zip(shared, each, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("count", [1, 1000, 3000])
def test_silu_times(count):
    gate, up = torch.randn(2, count)
    torch.testing.assert_close(silu_times(gate, up), F.silu(gate) * up)
