import pytest
import torch
from torch import nn

from openhart.training.muon import orthogonalize, split_for_muon
from openhart.training.optimizer import build_optimizer, rate_factor, set_rates
from openhart.training.run.settings import OptimizerSettings

SHAPES = [(64, 64), (64, 576), (320, 64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthogonalized_matrix_keeps_its_directions_and_evens_their_lengths(shape):
    matrix = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    update = orthogonalize(matrix)
    lengths = left.transpose(1, 2) @ update @ right.transpose(1, 2)
    assert ((lengths.diagonal(dim1=1, dim2=2) - 1).abs() < 0.45).float().mean() > 0.95
    assert (lengths - torch.diag_embed(lengths.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_muon_is_the_same_for_a_convolution_and_for_its_flattened_kernel():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(64, 64, 3, bias=False), nn.Linear(576, 64, bias=False)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
    settings = OptimizerSettings(kind="muon", learning_rate=1e-3)
    optimizers = [build_optimizer([part], settings) for part in (conv, linear)]
    for seed in range(3):
        gradient = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(seed))
        conv.weight.grad, linear.weight.grad = gradient, gradient.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(conv.weight.flatten(1), linear.weight)


def test_what_muon_leaves_to_adamw_moves_as_adamw_moves_it():
    torch.manual_seed(0)
    parts = [nn.ModuleList([nn.Embedding(70, 64), nn.Linear(8, 64), nn.LayerNorm(64)]) for _ in range(2)]
    parts[1].load_state_dict(parts[0].state_dict())
    values = {"learning_rate": 1e-2, "weight_decay": 0.1}
    optimizers = [
        build_optimizer([part], OptimizerSettings(kind=kind, **values))
        for part, kind in zip(parts, ("muon", "adamw"), strict=True)
    ]
    for seed in range(3):
        for part, optimizer in zip(parts, optimizers, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for parameter in part.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for one, other in zip(parts[0].parameters(), parts[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_output_layer_of_a_transformer_is_left_to_adamw():
    model = nn.ModuleDict({"hidden": nn.Linear(64, 64), "head": nn.Linear(64, 128)})
    hidden, others = split_for_muon([model])
    assert [weight.shape for weight in hidden] == [(64, 64)]
    assert any(weight is model["head"].weight for weight in others)


def test_wsd_holds_its_peak_and_then_falls_in_a_straight_line():
    settings = OptimizerSettings(
        learning_rate=1.0, schedule="wsd", decay_share=0.5, final_ratio=0.2, warmup_steps=10
    )
    factors = [rate_factor(step, 100, settings) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:51] == pytest.approx([1.0] * 41)
    assert factors[75] == pytest.approx(0.6)
    assert factors[99] == pytest.approx(0.2 + 0.8 / 50)


def test_both_methods_follow_the_schedule_from_their_own_peaks():
    settings = OptimizerSettings(kind="muon", learning_rate=1e-3, muon_learning_rate=0.05)
    optimizer = build_optimizer([nn.Linear(64, 64)], settings)
    set_rates(optimizer, 0.5, settings)
    assert {group["method"]: group["lr"] for group in optimizer.param_groups} == {
        "muon": 0.025,
        "adamw": 5e-4,
    }
