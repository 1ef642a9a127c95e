"""Multinomial logistic regression on fixed features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 80


def fit_linear(features: Tensor, labels: Tensor, classes: int, decay: float) -> nn.Linear:
    """The linear layer that minimizes the cross-entropy plus ``decay`` · |weight|²; deterministic.

    Args:
        features: (N, D).
        labels: (N,) in 0 … classes − 1.
        classes: number of classes.
        decay: weight decay.
    """
    layer = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(features), labels) + decay * layer.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return layer.requires_grad_(False)
