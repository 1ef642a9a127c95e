"""Levels of optimization, and the replacement of modules by faster equivalents."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from openhart.acceleration.chunked import chunk_blocks
from openhart.acceleration.decoder import speed_up_decoder
from openhart.acceleration.packed import can_pack, pack
from openhart.checks import listed
from openhart.errors import UserError
from openhart.lora import merge_adapters
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.base import ImageTokenizer
from openhart.transformer.families import AnyTransformer


@dataclass(frozen=True)
class Level:
    """A level of optimization.

    Attributes:
        low_precision: cast the weights to bfloat16 if the device computes faster in it.
        sampling: sampling settings that replace the defaults of the model.
    """

    low_precision: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)


COMMON_LEVELS = {"exact": Level(), "fast": Level(True)}
"""The levels of any family."""
LEVELS = {
    "exact": Level(),
    "fast": Level(True, {"unguided_scales": 1}),
    "fastest": Level(True, {"unguided_scales": 3}),
}
"""The levels of next-scale prediction, where guidance can be omitted at the last scales."""


def find_level(name: str, levels: Mapping[str, Level] = LEVELS) -> Level:
    """Find a level by its name.

    Raises:
        UserError: if no level has this name.
    """
    if name not in levels:
        raise UserError(f"the level must be {listed(levels)}, got {name!r}")
    return levels[name]


def speed_up(
    image_tokenizer: ImageTokenizer,
    transformer: AnyTransformer,
    head: TokenResidualHead | None = None,
) -> None:
    """Replace, in place, the modules that have a faster equivalent on their current device.

    The equivalents are for inference only. Adapters are merged into the weights that they adapt.

    Args:
        image_tokenizer: its decoder is changed in place.
        transformer: changed in place.
        head: changed in place; or None.
    """
    merge_adapters(transformer)
    if _can_fuse(transformer):
        from openhart.acceleration.fused import fuse_blocks

        fuse_blocks(transformer)
    for model in (transformer, head):
        if model is not None and can_pack(model):
            pack(model)
    if transformer.device.type == "cpu":
        if hasattr(transformer, "blocks"):
            chunk_blocks(transformer.blocks)
        speed_up_decoder(image_tokenizer.decoder)
        image_tokenizer.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _can_fuse(transformer: nn.Module) -> bool:
    modulated = getattr(transformer, "modulations", None) is not None
    return modulated and transformer.device.type == "cuda" and find_spec("triton") is not None
