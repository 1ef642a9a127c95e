import pytest
import torch
import torch.nn.functional as F

from openhart.errors import UserError
from openhart.training.generator.hart.code_loss import (
    check_weights,
    cross_entropies,
    soft_targets,
    token_weights,
)
from openhart.training.generator.hart.settings import CodeLoss

SIZES = [1, 4, 9]
TABLE = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 14, 20, generator=generator), torch.randint(20, (2, 14), generator=generator)


def averaged(losses, **settings):
    return (losses * token_weights(SIZES, CodeLoss(**settings))).sum(dim=1).mean()


def test_the_default_is_the_mean_over_tokens(tokens):
    hard, soft = cross_entropies(*tokens, soft_targets(TABLE, CodeLoss()))
    expected = F.cross_entropy(tokens[0].transpose(1, 2), tokens[1])
    torch.testing.assert_close(averaged(soft), expected)
    assert torch.equal(hard, soft)


def test_scales_can_count_alike_or_as_they_are_told(tokens):
    losses, _ = cross_entropies(*tokens, None)
    means = torch.stack([part.mean() for part in losses.split(SIZES, dim=1)])
    torch.testing.assert_close(averaged(losses, scale_balance=1.0), means.mean())
    weights = torch.tensor([3.0, 0.0, 1.0])
    found = averaged(losses, scale_balance=1.0, scale_weights=weights.tolist())
    torch.testing.assert_close(found, (means * weights).sum() / 4)
    between = [float(token_weights(SIZES, CodeLoss(scale_balance=b))[0]) for b in (0, 0.5, 1)]
    assert between == pytest.approx([1 / 14, 1 / 6, 1 / 3])


@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_soft_targets_follow_the_distance_of_codes(tokens, temperature):
    settings = CodeLoss(smoothing=0.4, temperature=temperature)
    hard, found = cross_entropies(*tokens, soft_targets(TABLE, settings))
    squared = (TABLE[:, None] - TABLE[None]).square().sum(dim=-1)
    unit = (squared + 1e9 * torch.eye(20)).amin(dim=1).mean() * temperature
    shares = 0.6 * torch.eye(20) + 0.4 * (-squared / unit).softmax(dim=-1)
    expected = F.cross_entropy(tokens[0].flatten(0, 1), shares[tokens[1].flatten()], reduction="none")
    torch.testing.assert_close(found.flatten(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(hard, cross_entropies(*tokens, None)[0])


def test_of_two_equal_codes_each_is_its_own_target():
    targets = soft_targets(TABLE[:10].repeat(2, 1), CodeLoss(smoothing=0.1))
    assert torch.equal(targets.codes[:, 0], torch.arange(20))
    torch.testing.assert_close(targets.shares.sum(dim=1), torch.ones(20))
    assert targets.shares[:, 0].min() > 0.9


def test_weights_that_do_not_fit_are_told():
    check_weights(CodeLoss(scale_weights=[1, 1]), 2)
    with pytest.raises(UserError, match="each of the 3 scales, got 2"):
        check_weights(CodeLoss(scale_weights=[1, 1]), 3)
