"""MAR's encoder and decoder: what influences a condition, and what does not."""

import pytest
import torch

from openhart.errors import UserError
from openhart.transformer.masked import MaskedTransformer, places_of
from tests.tiny import shaken, tiny_masked_transformer

CONTEXT = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 1, dtype=torch.bool)


@pytest.fixture(scope="module")
def model():
    return tiny_masked_transformer()


@pytest.fixture(scope="module")
def tokens(model):
    return torch.randn(2, model.num_tokens, 4, generator=torch.Generator().manual_seed(2))


def known_places(count, length=24):
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(length, generator=generator)[:count].sort().values for _ in range(2)])


@pytest.mark.parametrize("count", [0, 1, 10, 24])
def test_unknown_tokens_have_no_influence(model, tokens, count):
    known = known_places(count)
    masked = torch.ones(2, 24, dtype=torch.bool).scatter(1, known, False)
    changed = tokens.masked_fill(masked[..., None], torch.nan)
    found = [model(each, known, CONTEXT, MASK).hidden_states for each in (tokens, changed)]
    assert torch.equal(*found)
    assert found[0].shape == (2, 24, 32)
    assert torch.equal(places_of(~masked), known)


def test_the_order_in_which_known_tokens_are_listed_has_no_influence(model, tokens):
    known = known_places(10)
    backwards = known.flip(1)
    found = [model(tokens, each, CONTEXT, MASK).hidden_states for each in (known, backwards)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_wanted_places_have_the_conditions_of_the_whole_pass(model, tokens):
    known, wanted = known_places(10), known_places(7)
    whole = model(tokens, known, CONTEXT, MASK).hidden_states
    part = model(tokens, known, CONTEXT, MASK, wanted).hidden_states
    torch.testing.assert_close(part, whole.take_along_dim(wanted[..., None], dim=1), atol=1e-5, rtol=0)


def test_every_known_token_and_the_condition_have_influence(model, tokens):
    known = known_places(10)
    base = model(tokens, known, CONTEXT, MASK).hidden_states
    other = model(tokens, known, -CONTEXT, MASK).hidden_states
    assert not torch.allclose(base, other, atol=1e-3)
    for place in known[0].tolist():
        changed = tokens.clone()
        changed[0, place] += 1
        found = model(changed, known, CONTEXT, MASK).hidden_states
        assert not torch.allclose(found[0], base[0], atol=1e-3)
        assert torch.equal(found[1], base[1])


@pytest.mark.parametrize("patch", [1, 2])
def test_patches(patch):
    model = tiny_masked_transformer(patch_size=patch)
    latents = torch.randn(2, 4, 4, 6)
    tokens = model.patchify(latents)
    assert tokens.shape == (2, 24 // patch**2, 4 * patch**2)
    assert torch.equal(model.unpatchify(tokens), latents)
    assert torch.equal(tokens[0, 0].view(4, patch, patch), latents[0, :, :patch, :patch])


def test_padding_of_a_text_has_no_influence():
    model = tiny_masked_transformer(context_tokens=3, context_dim=12, context_projection=True)
    context, mask = torch.randn(1, 3, 12), torch.tensor([[True, True, False]])
    tokens, known = torch.randn(1, 24, 4), torch.arange(5)[None]
    changed = context.clone()
    changed[:, 2] = 7
    found = [model(tokens, known, each, mask).hidden_states for each in (context, changed)]
    assert torch.equal(*found)
    one = torch.zeros(1, 1, 12), torch.ones(1, 1, dtype=torch.bool)
    three = torch.zeros(1, 3, 12), torch.ones(1, 3, dtype=torch.bool)
    empties = [model(tokens, known, *empty).hidden_states for empty in (one, three)]
    torch.testing.assert_close(*empties)


def test_gradients_reach_everything_also_with_checkpointing():
    model = shaken(tiny_masked_transformer(dropout=0.0)).train()
    tokens, known = torch.randn(2, 24, 4), known_places(10)
    found = []
    for enabled in (False, True):
        if enabled:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(tokens, known, CONTEXT, MASK).hidden_states.square().sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient.any(), name
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-4)


def test_dropout_acts_in_training_only(tokens):
    model = tiny_masked_transformer(dropout=0.3)
    known = known_places(10)
    calm = [model(tokens, known, CONTEXT, MASK).hidden_states for _ in range(2)]
    model.train()
    noisy = [model(tokens, known, CONTEXT, MASK).hidden_states for _ in range(2)]
    assert torch.equal(*calm)
    assert not torch.allclose(*noisy, atol=1e-3)


def test_it_is_saved_and_loaded(model, tokens, tmp_path):
    model.save_pretrained(tmp_path / "model")
    again = MaskedTransformer.from_pretrained(tmp_path / "model")
    known = known_places(10)
    found = [each(tokens, known, CONTEXT, MASK).hidden_states for each in (model, again)]
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, "width must be a multiple of num_heads"),
        ({"size": (4, 5), "patch_size": 2}, "multiples of patch_size"),
        ({"size": (4,)}, "size must have at least 2 entries"),
        ({"context_tokens": 2}, "context_tokens must be 1 or buffer_tokens"),
        ({"context_dim": 16}, "context_dim must be the width"),
        ({"dropout": 1.0}, "dropout must be less than 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        tiny_masked_transformer(**settings)


def test_a_context_of_another_shape(model, tokens):
    with pytest.raises(UserError, match=r"context must be \(batch, 1, 32\), got \(2, 2, 32\)"):
        model(tokens, known_places(3), CONTEXT.repeat(1, 2, 1), MASK.repeat(1, 2))
