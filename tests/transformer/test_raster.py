import pytest
import torch

from openhart.errors import UserError
from openhart.transformer.raster import RasterTransformer
from tests.tiny import tiny_raster


def inputs(tokens=1, codes=15, batch=2):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(32, (batch, codes), generator=generator)
    return drawn, torch.randn(batch, tokens, 32, generator=generator)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("first", [0, 1, 6])
@torch.no_grad()
def test_with_a_cache_logits_are_those_without(tokens, first):
    transformer = tiny_raster(context_tokens=tokens)
    codes, context = inputs(tokens)
    cache = transformer.allocate_cache(2)
    logits = [transformer(codes[:, :first] if first else None, context, cache).logits]
    logits += [transformer(code, cache=cache).logits for code in codes[:, first:].split(1, dim=1)]
    expected = transformer(codes, context).logits
    torch.testing.assert_close(torch.cat(logits, dim=1), expected[:, first:], atol=1e-5, rtol=0)


def test_gradients_of_a_new_transformer_are_moderate_with_an_empty_condition():
    transformer = RasterTransformer(
        depth=11, width=64, num_heads=2, scales=[4], codebook_size=32, context_dim=32, context_tokens=3
    )
    transformer(inputs()[0], torch.zeros(2, 3, 32)).logits.logsumexp(-1).mean().backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in transformer.parameters()])
    assert norm < 100


@torch.no_grad()
def test_no_code_depends_on_itself_or_later_ones():
    transformer = tiny_raster()
    codes, context = inputs()
    changed = codes.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 32
    before, after = transformer(codes, context).logits, transformer(changed, context).logits
    torch.testing.assert_close(before[:, :8], after[:, :8], atol=1e-6, rtol=0)
    assert (before[:, 8] - after[:, 8]).abs().max() > 1e-3


def test_gradient_checkpointing_changes_no_gradient():
    codes, context = inputs()
    gradients = []
    for checkpointing in (False, True):
        transformer = tiny_raster().train()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        transformer(codes, context).logits.square().mean().backward()
        gradients.append(transformer.code_embed.weight.grad)
    torch.testing.assert_close(*gradients)


def test_saved_and_loaded_is_the_same(tmp_path):
    transformer = tiny_raster()
    transformer.save_pretrained(tmp_path)
    loaded = type(transformer).from_pretrained(tmp_path)
    assert torch.equal(loaded(*inputs()).logits, transformer(*inputs()).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, "width must be a multiple of num_heads"),
        ({"scales": [1, 4]}, "must have one entry"),
        ({"context_dim": 8}, "context_dim must be the width 32"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        tiny_raster(**settings)


def test_calls_that_cannot_be_are_refused():
    transformer = tiny_raster()
    codes, context = inputs()
    with pytest.raises(UserError, match="the last code is not an input"):
        transformer(torch.cat([codes, codes[:, :1]], dim=1), context)
    with pytest.raises(UserError, match=r"context must be \(batch, 1, 32\)"):
        transformer(codes, context.repeat(1, 2, 1))
    with pytest.raises(UserError, match="the context comes first and once"):
        transformer(codes)
