"""Random weights of a new transformer."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from openhart.transformer.modulation import LinearModulation, OffsetModulation, TableModulation

if TYPE_CHECKING:
    from openhart.transformer.model import HartTransformer

OUTPUTS = ("attention.proj.weight", "mlp.down.weight", "mlp.2.weight")


@torch.no_grad()
def initialise(transformer: "HartTransformer") -> None:
    """Small linear maps, smaller ones where a block adds its outputs, and open gates."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    _initialise_outputs(transformer)
    for module in transformer.modules():
        if isinstance(module, LinearModulation):
            module.linear.weight.zero_()
    for modulation in transformer.modulations or []:
        _open_gates(modulation, transformer.config.width)
    if transformer.position_embed is not None:
        nn.init.trunc_normal_(transformer.position_embed, std=0.02)


def _initialise_outputs(transformer: "HartTransformer") -> None:
    """The last maps of attention, MLP and codes."""
    zero_outputs, depth = transformer.config.zero_outputs, transformer.config.depth
    for name, parameter in transformer.named_parameters():
        if name.endswith(OUTPUTS):
            nn.init.trunc_normal_(parameter, std=0.02 / (2 * depth) ** 0.5)
            if zero_outputs:
                nn.init.zeros_(parameter)
    if zero_outputs:
        nn.init.zeros_(transformer.head.weight)


def _open_gates(modulation: nn.Module, width: int) -> None:
    """Start both gates of a block at 1."""
    if isinstance(modulation, TableModulation):
        modulation.table[:2] = 1.0
    elif isinstance(modulation, OffsetModulation):
        modulation.offset[:2] = 1.0
    elif isinstance(modulation, LinearModulation):
        modulation.linear.bias[: 2 * width] = 1.0
