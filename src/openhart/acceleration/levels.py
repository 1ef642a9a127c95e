"""Levels of speed: the one place that chooses what a pipeline is made faster by."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from openhart.acceleration.chunked import chunk
from openhart.acceleration.decoder import speed_up_decoder
from openhart.acceleration.packed import can_pack, pack
from openhart.errors import UserError
from openhart.lora import merge_adapters
from openhart.residual.heads import TokenResidualHead
from openhart.tokenizer.model import HybridTokenizer
from openhart.transformer.model import HartTransformer


@dataclass(frozen=True)
class Level:
    """A level of speed.

    Attributes:
        low_precision: weights are cast to bfloat16 where the device is faster in it.
        sampling: sampling defaults that take the place of the model's.
    """

    low_precision: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)


LEVELS = {
    "exact": Level(),
    "fast": Level(True, {"unguided_scales": 1}),
    "fastest": Level(True, {"unguided_scales": 3}),
}


def find_level(name: str) -> Level:
    """A level by its name.

    Raises:
        UserError: there is none.
    """
    if name not in LEVELS:
        raise UserError(f"a level of speed is one of {', '.join(LEVELS)}, got {name!r}")
    return LEVELS[name]


def speed_up(
    image_tokenizer: HybridTokenizer, transformer: HartTransformer, residual_head: TokenResidualHead | None
) -> None:
    """Replace, in place, what has a faster form with the same result on the device the parts are on.

    Adapters become part of the weights they adapt.
    """
    merge_adapters(transformer)
    if _can_fuse(transformer):
        from openhart.acceleration.fused import fuse

        fuse(transformer)
    for part in (transformer, residual_head):
        if part is not None and can_pack(part):
            pack(part)
    if transformer.device.type == "cpu":
        chunk(transformer)
        speed_up_decoder(image_tokenizer.decoder)
    if transformer.device.type in ("cpu", "cuda"):
        image_tokenizer.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _can_fuse(transformer: HartTransformer) -> bool:
    modulated = transformer.modulations is not None
    return modulated and transformer.device.type == "cuda" and find_spec("triton") is not None
