"""The part of a pipeline that makes it faster or smaller: levels of optimization, and quantized weights."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline

from openhart.acceleration.levels import COMMON_LEVELS, Level, find_level, speed_up
from openhart.acceleration.quantized import quantize_weights
from openhart.arithmetic import fastest_dtype
from openhart.errors import UserError


class AcceleratedPipeline(DiffusionPipeline):
    """Replaces modules and weights by faster or smaller ones.

    Attributes:
        levels: the levels of :meth:`optimize`.
        head_name: the part that generates tokens or residuals by diffusion; None for a family without one.
    """

    image_tokenizer: Any
    transformer: Any
    levels: ClassVar[Mapping[str, Level]] = COMMON_LEVELS
    head_name: ClassVar[str | None] = None
    _optimized = False
    _quantized = False
    _level_sampling: dict[str, Any] = {}  # noqa: RUF012 — replaced, never changed in place

    def optimize(self, level: str = "exact") -> Self:
        """Replace modules by faster versions for the current device, in place.

        Afterwards the pipeline only generates: it cannot be trained, quantized or take a LoRA.

        Args:
            level: ``exact`` computes the same images up to rounding. ``fast`` computes in bfloat16 where
                that is faster than float32. In next-scale prediction, ``fast`` also computes the last scale
                without guidance, and ``fastest`` the last three. ``docs/speed.md`` has the gain and cost of
                each.

        Returns:
            the pipeline itself.

        Raises:
            UserError: no such level, or the weights are quantized.
        """
        chosen = find_level(level, self.levels)
        if self._quantized:
            raise UserError("a pipeline with quantized weights cannot be optimized: choose one of the two")
        if chosen.low_precision and fastest_dtype(self.device) == torch.bfloat16:
            self.to(dtype=torch.bfloat16)
        self._level_sampling = dict(chosen.sampling)
        speed_up(self.image_tokenizer, self.transformer, self._head())
        self._optimized = True
        return self

    def quantize(self, kind: str = "int8") -> Self:
        """Store the weights of the transformer and of a diffusion head in eight bits, in place.

        Afterwards the pipeline only generates: it cannot be trained, optimized or take a LoRA.

        Args:
            kind: ``int8`` or ``fp8``. What each costs is measured in ``docs/speed.md``.

        Returns:
            the pipeline itself.

        Raises:
            UserError: no such kind, torchao is not installed, or the pipeline is optimized.
        """
        if self._optimized:
            raise UserError("an optimized pipeline cannot be quantized: choose one of the two")
        for part in (self.transformer, self._head()):
            if part is not None:
                quantize_weights(part, kind)
        self._quantized = True
        return self

    def _head(self) -> Any:
        """The part that generates by diffusion, or None."""
        return self.head_name and getattr(self, self.head_name)
