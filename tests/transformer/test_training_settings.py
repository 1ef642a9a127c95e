"""Value residual, dropout, zero outputs: settings of a transformer that matter to its training."""

import pytest
import torch

from openhart.errors import UserError
from openhart.transformer.model import HartTransformer
from tests.tiny import random_context, tiny_transformer
from tests.transformer.test_model import scale_inputs


def hidden_of(model, **more):
    with torch.no_grad():
        return model(scale_inputs(), *random_context(2), **more).hidden_states


def test_without_the_first_blocks_values_a_value_residual_is_none():
    plain, mixed = tiny_transformer(depth=3), tiny_transformer(depth=3, value_residual=True)
    assert mixed.value_shares.shape == (2,)
    mixed.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(hidden_of(mixed), hidden_of(plain), atol=1e-3)
    torch.nn.init.zeros_(mixed.value_shares)
    torch.testing.assert_close(hidden_of(mixed), hidden_of(plain))


@pytest.mark.parametrize("settings", [{"value_residual": True}, {"dropout": 0.3}], ids=str)
def test_gradients_are_the_same_when_blocks_are_computed_again(settings):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_transformer(depth=3, **settings).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        torch.manual_seed(0)
        model(scale_inputs(), *random_context(2)).hidden_states.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for pair in zip(*gradients, strict=True):
        torch.testing.assert_close(*pair)


def test_dropout_acts_in_training_alone():
    plain, dropping = tiny_transformer(), tiny_transformer(dropout=0.5)
    assert torch.equal(hidden_of(dropping), hidden_of(plain))
    dropping.train()
    torch.manual_seed(0)
    first, second = hidden_of(dropping), hidden_of(dropping)
    torch.manual_seed(0)
    assert torch.equal(hidden_of(dropping), first)
    assert not torch.allclose(first, second, atol=1e-3)


def test_zero_outputs_make_all_codes_equally_likely_and_still_learn():
    torch.manual_seed(0)
    config = tiny_transformer().config
    model = HartTransformer.from_config(config, zero_outputs=True)
    context, mask = random_context(2)
    logits = model.logits(model(scale_inputs(), context, mask).hidden_states, model.prepare(context, mask))
    assert (logits == 0).all()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    wanted = torch.randint(32, logits.shape[:2])
    for _ in range(5):
        hidden = model(scale_inputs(), context, mask).hidden_states
        logits = model.logits(hidden, model.prepare(context, mask))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 3.0  # ln 32 is 3.47
    assert model.blocks[0].mlp.down.weight.abs().max() > 0


def test_what_leaves_each_block_can_be_observed():
    model, states = tiny_transformer(), {}
    hidden = hidden_of(model, observe=states.__setitem__)
    assert list(states) == [0, 1]
    assert torch.equal(states[1][:, -hidden.shape[1] :], hidden)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"dropout": 1.0}, "dropout must be less than 1"),
        ({"value_residual": True, "depth": 1}, "depth must be 2"),
    ],
)
def test_impossible_settings_are_told(settings, word):
    with pytest.raises(UserError, match=word):
        tiny_transformer(**settings)
