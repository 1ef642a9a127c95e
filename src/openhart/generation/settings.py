"""The sampling settings, each declared once: default, range and help text.

The options of ``openhart generate``, the recipe's ``sampling`` section, the pipeline's keyword arguments and
the table in ``docs/generation.md`` are all derived from :class:`SamplingSettings`. This module imports no
torch, so that the command line starts quickly.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict, TypeVar

from pydantic import Field

from openhart.checks import Flag, Number, checked_dataclass, listed
from openhart.errors import UserError

MANY = 10**8
RESIDUAL_SOLVERS = ("ddpm", "dpm++", "mean")

T = TypeVar("T")
Whole = Annotated[int, Field(strict=True)]


@dataclass(frozen=True)
class Setting:
    """The declaration of one sampling setting, kept in the metadata of its field.

    Attributes:
        help: one or two full sentences.
        metavar: the placeholder of its value on the command line.
        least: smallest value, or None.
        most: largest value, or None.
        above: a value that must be exceeded, or None.
        choices: the permitted words, if it is a word.
        flag: the option on the command line, without hyphens, if it differs from the setting's name.
    """

    help: str
    metavar: str = "N"
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    flag: str | None = None

    @property
    def range(self) -> str:
        """The permitted values in words; empty where every value of the type is permitted."""
        if self.choices:
            return f"one of {listed(self.choices)}"
        if self.above is not None:
            return f"greater than {self.above:g} and at most {self.most:g}"
        if self.least is None:
            return ""
        if self.most is None or self.most == MANY:
            return f"at least {self.least:g}"
        return f"between {self.least:g} and {self.most:g}"

    def check(self, name: str, value: Any) -> None:
        """Compare a value, or each entry of a list, with the range.

        Raises:
            UserError: a value is outside the range.
        """
        entries = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if not all(each is None or self._permits(each) for each in entries):
            shown = value if entries[0] is value else list(entries)
            raise UserError(f"{name} must be {self.range}, got {shown!r}")

    def _permits(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
        )


def setting(text: str, **declared: Any) -> dict[str, Setting]:
    """Metadata of a dataclass field: its :class:`Setting`, with a help text."""
    return {"setting": Setting(text, **declared)}


def declarations(kind: type) -> dict[str, Setting]:
    """The settings that the fields of a dataclass declare, by name."""
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(kind)}


def values_of(kind: type, sampling: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Complete settings by name, or defaults if ``sampling`` is None.

    Raises:
        UserError: if ``sampling`` is no object of ``kind``.
    """
    if sampling is None:
        return dict(defaults)
    if not isinstance(sampling, kind):
        raise UserError(f"sampling must be {kind.__name__}, got {sampling!r:.60}")
    return dataclasses.asdict(sampling)  # type: ignore[call-overload, no-any-return]


def given_overrides(overrides: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The settings among keyword arguments that are not None.

    Raises:
        UserError: if there is no such setting.
    """
    if unknown := [name for name in overrides if name not in known]:
        raise UserError(f"there is no argument {unknown[0]}; sampling has {', '.join(known)}")
    return {name: value for name, value in overrides.items() if value is not None}


def with_documented_fields(kind: type[T]) -> type[T]:
    """Complete the docstring of a dataclass by the help text of each of its settings."""
    lines = [f"        {name}: {declared.help}" for name, declared in declarations(kind).items()]
    kind.__doc__ = (kind.__doc__ or "").replace(
        "    Raises:", "\n".join(["    Args:", *lines, "", "    Raises:"])
    )
    return kind


@with_documented_fields
@checked_dataclass("sampling")
@dataclass(frozen=True)
class SamplingSettings:
    """How codes and the residual are sampled.

    The guidance scale follows diffusers: with w_k the value at scale k of K, counted from 0,
    logits = uncond + w_k · (cond − uncond), where w_k = 1 + (w − 1) · k / (K − 1). Guidance therefore grows
    linearly from none at the first scale (HART and VAR).

    Raises:
        UserError: a value has the wrong type or is outside its range, or two values exclude each other.
    """

    guidance_scale: Number = field(
        default=5.0,
        metadata=setting(
            "Guidance scale w of the last scale, in uncond + w · (cond − uncond); it grows linearly from 1 "
            "at the first scale. Values up to 1 turn guidance off.",
            metavar="W",
            least=0,
            most=1000,
        ),
    )
    top_k: Whole = field(
        default=600,
        metadata=setting(
            "Number of most likely codes that may be drawn; 0 permits all codes, 1 is greedy choice.",
            metavar="K",
            least=0,
            most=MANY,
        ),
    )
    late_top_k: Whole | None = field(
        default=None,
        metadata=setting(
            "The same from the eighth scale on; without it, top_k holds for every scale. HART uses 600 "
            "and then 300.",
            metavar="K",
            least=0,
            most=MANY,
        ),
    )
    top_p: Number = field(
        default=0.0,
        metadata=setting(
            "Probability mass of the most likely codes that may be drawn (nucleus sampling); 0 and 1 "
            "permit all codes.",
            metavar="P",
            least=0,
            most=1,
        ),
    )
    temperature: Number = field(
        default=1.0,
        metadata=setting(
            "Divisor of the logits; values below 1 make likely codes more likely.",
            metavar="T",
            least=1e-3,
            most=1000,
        ),
    )
    gumbel_smoothing: Flag = field(
        default=False,
        metadata=setting(
            "Embed each token as a Gumbel-softmax mixture of codes instead of one code, as HART's demo does: "
            "images look smoother and metrics get worse.",
        ),
    )
    hold_last_guidance: Flag = field(
        default=True,
        metadata=setting(
            "Guide the last scale as the scale before it, as HART does; VAR does not.",
        ),
    )
    last_scale_steps: Whole = field(
        default=1,
        metadata=setting(
            "Number of steps in which the last scale is decoded, in random order (MaskGIT).",
            least=1,
            most=10_000,
        ),
    )
    use_residual: Flag = field(
        default=True,
        metadata=setting(
            "Add the residual to the last scale; without it, the image is made of the codes alone.",
            flag="residual",
        ),
    )
    residual_steps: Whole = field(
        default=8, metadata=setting("Number of diffusion steps of the residual.", least=1, most=1000)
    )
    residual_solver: str = field(
        default="ddpm",
        metadata=setting(
            "Solver of the residual's diffusion: ddpm, as HART; dpm++, deterministic, which needs fewer "
            "steps; or mean, which is dpm++ from zero noise and therefore the same for every seed.",
            choices=RESIDUAL_SOLVERS,
        ),
    )
    residual_strength: Number = field(
        default=1.0,
        metadata=setting(
            "Factor of the sampled residual before it is added; at 0 the residual head does not run.",
            metavar="FACTOR",
            least=0,
            most=1,
        ),
    )
    unguided_scales: Whole = field(
        default=0,
        metadata=setting(
            "Number of last scales without guidance, which halves their work. It must not exceed the "
            "number of scales.",
            least=0,
            most=MANY,
        ),
    )
    keep_ratios: Sequence[Number] = field(
        default=(),
        metadata=setting(
            "Fraction of tokens that are computed at each of the last scales (token pruning, FastVAR), "
            "the last scale last; the other tokens take the hidden state of the scale before.",
            metavar="RATIO",
            above=0,
            most=1,
        ),
    )

    def __post_init__(self) -> None:
        for name, declared in declarations(type(self)).items():
            declared.check(name, getattr(self, name))
        if self.last_scale_steps > 1 and self.keep_ratios:
            raise UserError("keep_ratios cannot be combined with last_scale_steps greater than 1")


SAMPLING: Mapping[str, Setting] = declarations(SamplingSettings)


class SamplingOptions(TypedDict, total=False):
    """Sampling settings as keyword arguments; None keeps the model's default.

    The names are those of :class:`SamplingSettings`, which documents them.
    """

    guidance_scale: float | None
    top_k: int | None
    late_top_k: int | None
    top_p: float | None
    temperature: float | None
    gumbel_smoothing: bool | None
    hold_last_guidance: bool | None
    last_scale_steps: int | None
    use_residual: bool | None
    residual_steps: int | None
    residual_solver: str | None
    residual_strength: float | None
    unguided_scales: int | None
    keep_ratios: Sequence[float] | None
