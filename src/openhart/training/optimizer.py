"""The optimizer of a recipe and its learning rate at each step."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from openhart.training.muon import MuonWithAdamW, split_for_muon
from openhart.training.run.settings import OptimizerSettings


def build_optimizer(
    modules: Iterable[nn.Module], settings: OptimizerSettings, undecayed: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """The optimizer of a recipe for all trainable parameters of some modules.

    Weight decay applies to parameters of two or more dimensions, not to biases and norms.

    Args:
        modules: all that is trained.
        settings: of the recipe.
        undecayed: further parameters without weight decay; Muon decays the matrices that it trains anyway.
    """
    modules, spared = list(modules), set(undecayed)
    if settings.kind == "muon":
        hidden, others = split_for_muon(modules)
        return MuonWithAdamW(
            hidden,
            others,
            muon_learning_rate=settings.muon_learning_rate,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
    trained = {p: None for module in modules for p in module.parameters() if p.requires_grad}
    decayed = [p for p in trained if p.ndim >= 2 and p not in spared]
    rest = [p for p in trained if p.ndim < 2 or p in spared]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def rate_factor(step: int, total: int, settings: OptimizerSettings) -> float:
    """The learning rate at a step, counted from 0, of ``total`` steps, relative to its peak.

    Linear warm-up; then a cosine down to ``final_ratio``, or, with ``schedule: wsd`` (warmup, stable, decay:
    arXiv 2404.06395, section 4), the peak until the last ``decay_share`` of the run, followed by a
    linear decay to ``final_ratio``.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "wsd":
        left = (total - step) / max(settings.decay_share * total, 1)
        fall = min(1.0, left)
    else:
        done = (step - settings.warmup_steps) / max(total - settings.warmup_steps, 1)
        fall = (1 + math.cos(math.pi * done)) / 2
    return settings.final_ratio + (1 - settings.final_ratio) * fall


def set_rates(optimizer: Optimizer, factor: float, settings: OptimizerSettings) -> None:
    """Give every parameter group its peak learning rate times ``factor``."""
    for group in optimizer.param_groups:
        peak = settings.muon_learning_rate if group.get("method") == "muon" else settings.learning_rate
        group["lr"] = peak * factor
