"""The part of a pipeline that makes it faster or smaller: levels of optimization, and quantized weights."""

from typing import Any, Self, Unpack

import torch
from diffusers import DiffusionPipeline

from openhart.acceleration.levels import find_level, speed_up
from openhart.acceleration.quantized import quantize_weights
from openhart.arithmetic import fastest_dtype
from openhart.errors import UserError
from openhart.generation.settings import (
    SAMPLING,
    SamplingOptions,
    SamplingSettings,
    given_overrides,
    values_of,
)
from openhart.tokenizer.model import HybridTokenizer
from openhart.transformer.model import HartTransformer


class AcceleratedPipeline(DiffusionPipeline):
    """Replaces modules and weights by faster or smaller ones, and changes the sampling defaults with them."""

    image_tokenizer: HybridTokenizer
    transformer: HartTransformer
    residual_head: Any
    _optimized = False
    _quantized = False
    _level_sampling: dict[str, Any] = {}  # noqa: RUF012 — replaced, never changed in place

    def optimize(self, level: str = "exact") -> Self:
        """Replace modules by faster versions for the current device, in place.

        Afterwards the pipeline only generates: it cannot be trained, quantized or take a LoRA.

        Args:
            level: ``exact`` computes the same images up to rounding. ``fast`` computes in bfloat16 where
                that is faster than float32, and the last scale without guidance. ``fastest`` also computes
                the last three scales without guidance. ``docs/speed.md`` has the gain and cost of each.

        Returns:
            the pipeline itself.

        Raises:
            UserError: no such level, or the weights are quantized.
        """
        chosen = find_level(level)
        if self._quantized:
            raise UserError("a pipeline with quantized weights cannot be optimized: choose one of the two")
        if chosen.low_precision and fastest_dtype(self.device) == torch.bfloat16:
            self.to(dtype=torch.bfloat16)
        self._level_sampling = dict(chosen.sampling)
        speed_up(self.image_tokenizer, self.transformer, self.residual_head)
        self._optimized = True
        return self

    def quantize(self, kind: str = "int8") -> Self:
        """Store the weights of transformer and residual head in eight bits, in place.

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
        for part in (self.transformer, self.residual_head):
            if part is not None:
                quantize_weights(part, kind)
        self._quantized = True
        return self

    def sampling_settings(
        self, sampling: SamplingSettings | None = None, **overrides: Unpack[SamplingOptions]
    ) -> SamplingSettings:
        """Sampling settings of a call.

        Args:
            sampling: complete settings; None for the model's defaults, changed by :meth:`optimize`.
            overrides: single settings that replace theirs; None replaces nothing. A new ``top_k`` holds for
                every scale, unless ``late_top_k`` is given too.

        Raises:
            UserError: there is no such setting, or a value is outside its range.
        """
        defaults = {**self.config.sampling, **self._level_sampling}
        values, given = values_of(SamplingSettings, sampling, defaults), given_overrides(overrides, SAMPLING)
        if "top_k" in given:
            values.pop("late_top_k", None)
        return SamplingSettings(**(values | given))
