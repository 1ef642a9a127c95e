"""A transformer goes on at another resolution with all that its scales share."""

import torch

from openhart.transformer.resize import with_scales
from tests.tiny import CONTEXT, random_context, tiny_transformer

SMALL, LARGE = [1, 2, 3, 4], [1, 2, 4, 6]


def inputs(scales, seed=3):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(side * side for side in scales[1:])
    return torch.randn(2, tokens, 8, generator=generator)


@torch.no_grad()
def test_shared_weights_carry_over_and_give_the_same_hidden_states():
    before = tiny_transformer()
    after = with_scales(before, LARGE).eval()
    assert after.scales[-1] == (6, 6)
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name])
    context, mask = random_context(2)
    x = inputs(SMALL)
    old = before(x, context, mask)[0]
    new = after(torch.cat([x[:, :4], torch.randn(2, 52, 8)], dim=1), context, mask)[0]
    torch.testing.assert_close(new[:, 0], old[:, 0])  # the context and the first code
    back = with_scales(after, SMALL).eval()
    assert torch.equal(back(x, context, mask)[0], old)


@torch.no_grad()
def test_learned_tables_keep_the_rows_of_scales_that_both_have():
    before = tiny_transformer(positions="learned", levels="learned")
    after = with_scales(before, LARGE).eval()
    levels, new_levels = before.level_embed.weight, after.level_embed.weight
    assert torch.equal(new_levels[:3], levels[[0, 1, 3]])  # sides 1, 2 and 4
    starts = {side: CONTEXT[0] + place for side, place in ((2, 0), (3, 4), (4, 13))}
    places, new_places = before.position_embed, after.position_embed
    context = CONTEXT[0]
    assert torch.equal(new_places[: context + 4], places[: context + 4])
    assert torch.equal(new_places[context + 4 : context + 20], places[starts[4] : starts[4] + 16])
    assert 0 < new_places[context + 20 :].std() < 0.05
    assert new_places.shape[0] == context + 4 + 16 + 36
    words, mask = random_context(2)
    x, more = inputs(SMALL), torch.randn(2, 52, 8)
    old, new = before(x, words, mask)[0], after(torch.cat([x[:, :4], more], dim=1), words, mask)[0]
    torch.testing.assert_close(new[:, :5], old[:, :5])  # scales 1 and 2 see no others


def test_the_same_scales_are_the_same_transformer():
    transformer = tiny_transformer()
    assert with_scales(transformer, SMALL) is transformer
