"""The sampling settings of generation in raster order; this module imports no torch either."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from openhart.checks import Number, checked_dataclass
from openhart.generation.settings import (
    MANY,
    SAMPLING,
    Setting,
    Whole,
    declarations,
    setting,
    with_documented_fields,
)


@with_documented_fields
@checked_dataclass("sampling")
@dataclass(frozen=True)
class RasterSampling:
    """How codes are sampled one after the other.

    Raises:
        UserError: if a value has the wrong type or is outside its range.
    """

    guidance_scale: Number = field(
        default=1.0,
        metadata=setting(
            "Guidance scale w in uncond + w · (cond − uncond). Values up to 1 turn guidance off; others need "
            "a model that was trained with an empty condition, which no released VQGAN was.",
            metavar="W",
            least=0,
            most=1000,
        ),
    )
    top_k: Whole = field(
        default=250,
        metadata=setting(
            "Number of most likely codes that may be drawn; 0 permits all codes, 1 is greedy choice.",
            metavar="K",
            least=0,
            most=MANY,
        ),
    )
    top_p: Number = field(default=0.0, metadata={"setting": SAMPLING["top_p"]})
    temperature: Number = field(default=1.0, metadata={"setting": SAMPLING["temperature"]})

    def __post_init__(self) -> None:
        for name, declared in declarations(type(self)).items():
            declared.check(name, getattr(self, name))


RASTER_SAMPLING: Mapping[str, Setting] = declarations(RasterSampling)


class RasterOptions(TypedDict, total=False):
    """Sampling settings as keyword arguments; None keeps the model's default.

    The names are those of :class:`RasterSampling`, which documents them.
    """

    guidance_scale: float | None
    top_k: int | None
    top_p: float | None
    temperature: float | None
