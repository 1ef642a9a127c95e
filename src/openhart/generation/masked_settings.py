"""The sampling settings of MAR, declared as those of :mod:`openhart.generation.settings`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from openhart.checks import Number, checked_dataclass
from openhart.generation.settings import (
    RESIDUAL_SOLVERS,
    Setting,
    Whole,
    declarations,
    setting,
    with_documented_fields,
)

GUIDANCE_SCHEDULES = ("linear", "constant")


@with_documented_fields
@checked_dataclass("sampling")
@dataclass(frozen=True)
class MaskedSamplingSettings:
    """How tokens are sampled in random order (MAR, arXiv 2406.11838, section 3.3 and appendix).

    The guidance scale follows diffusers: noise = uncond + w_k · (cond − uncond) in step k.

    Raises:
        UserError: if a value has the wrong type or is outside its range.
    """

    guidance_scale: Number = field(
        default=3.0,
        metadata=setting(
            "Guidance scale w, in uncond + w · (cond − uncond). Values up to 1 turn guidance off.",
            metavar="W",
            least=0,
            most=1000,
        ),
    )
    guidance_schedule: str = field(
        default="linear",
        metadata=setting(
            "linear: guidance grows from 1 to w with the fraction of tokens that are known after a step; "
            "constant: it is w in every step.",
            choices=GUIDANCE_SCHEDULES,
        ),
    )
    num_inference_steps: Whole = field(
        default=64,
        metadata=setting(
            "Number of steps in which tokens are generated. A step that has no token left is omitted.",
            least=1,
            most=10_000,
            flag="steps",
        ),
    )
    temperature: Number = field(
        default=1.0,
        metadata=setting(
            "Factor of the noise that each diffusion step adds; values below 1 favour likely tokens.",
            metavar="T",
            least=0,
            most=10,
        ),
    )
    diffusion_steps: Whole = field(
        default=100,
        metadata=setting("Number of diffusion steps of each token.", least=2, most=1000),
    )
    diffusion_solver: str = field(
        default="ddpm",
        metadata=setting(
            "Solver of the tokens' diffusion: ddpm, as MAR; dpm++, deterministic, which needs fewer steps; "
            "or mean, which is dpm++ from zero noise.",
            choices=RESIDUAL_SOLVERS,
        ),
    )

    def __post_init__(self) -> None:
        for name, declared in MASKED_SAMPLING.items():
            declared.check(name, getattr(self, name))


MASKED_SAMPLING: Mapping[str, Setting] = declarations(MaskedSamplingSettings)


class MaskedSamplingOptions(TypedDict, total=False):
    """Sampling settings as keyword arguments; None keeps the model's default.

    The names are those of :class:`MaskedSamplingSettings`, which documents them.
    """

    guidance_scale: float | None
    guidance_schedule: str | None
    num_inference_steps: int | None
    temperature: float | None
    diffusion_steps: int | None
    diffusion_solver: str | None
