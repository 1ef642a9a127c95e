"""Levels of optimization, and the replacement of modules by faster equivalents."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from openhart.acceleration.chunked import chunk_blocks
from openhart.acceleration.decoder import speed_up_decoder
from openhart.acceleration.packed import can_pack, pack
from openhart.checks import listed
from openhart.errors import UserError
from openhart.lora import merge_adapters
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.model import HybridTokenizer
from openhart.transformer.model import HartTransformer


@dataclass(frozen=True)
class Level:
    """A level of optimization.

    Attributes:
        low_precision: cast the weights to bfloat16 if the device computes faster in it.
        sampling: sampling settings that replace the defaults of the model.
    """

    low_precision: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)


LEVELS = {
    "exact": Level(),
    "fast": Level(True, {"unguided_scales": 1}),
    "fastest": Level(True, {"unguided_scales": 3}),
}


def find_level(name: str) -> Level:
    """Find a level by its name.

    Raises:
        UserError: if no level has this name.
    """
    if name not in LEVELS:
        raise UserError(f"the level must be {listed(LEVELS)}, got {name!r}")
    return LEVELS[name]


def speed_up(
    image_tokenizer: HybridTokenizer, transformer: HartTransformer, residual_head: TokenResidualHead | None
) -> None:
    """Replace, in place, the modules that have a faster equivalent on their current device.

    The equivalents are for inference only. Adapters are merged into the weights that they adapt.

    Args:
        image_tokenizer: its decoder is changed in place.
        transformer: changed in place.
        residual_head: changed in place; or None.
    """
    merge_adapters(transformer)
    if _can_fuse(transformer):
        from openhart.acceleration.fused import fuse_blocks

        fuse_blocks(transformer)
    for model in (transformer, residual_head):
        if model is not None and can_pack(model):
            pack(model)
    if transformer.device.type == "cpu":
        chunk_blocks(transformer)
        speed_up_decoder(image_tokenizer.decoder)
    if transformer.device.type in ("cpu", "cuda"):
        image_tokenizer.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _can_fuse(transformer: HartTransformer) -> bool:
    modulated = transformer.modulations is not None
    return modulated and transformer.device.type == "cuda" and find_spec("triton") is not None
