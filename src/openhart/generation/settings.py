"""Settings of generation."""

from collections.abc import Sequence
from dataclasses import dataclass

from openhart.checks import Flag, Natural, Number, checked_dataclass, listed
from openhart.errors import UserError
from openhart.residual.solvers import SOLVERS


@checked_dataclass("sampling")
@dataclass(frozen=True)
class SamplingSettings:
    """How codes and residual are drawn.

    Args:
        guidance_scale: guidance of the last scale, growing linearly from 0; 0 turns it off.
        top_k: codes that may be drawn, the likeliest; 0 for all. 1 is greedy.
        late_top_k: the same from the eighth scale on; None for ``top_k``. HART: 600, then 300.
        top_p: share of probability that may be drawn; 0 or 1 for all.
        temperature: divides the scores.
        smooth: embed each token by a Gumbel-softmax mixture of codes instead of one code.
        last_scale_holds_back: the last scale is guided as the one before it, as HART does.
        last_scale_steps: steps in which the last scale is decoded, in random order (MaskGIT).
        use_residual: add the residual; without it the picture is the codes' alone.
        residual_steps: diffusion steps of the residual.
        residual_solver: how they are taken: ``ddpm``, as HART does; ``dpm++``, good in fewer; or ``mean``, as
            ``dpm++`` from zero noise: the residual to be expected, the same for every seed.
        residual_strength: share λ of the sampled residual that is added, from 0 (none) to 1.
        unguided_scales: how many of the last scales go without guidance, at half the work.
        kept_tokens: share of the tokens worked out at each of the last scales, the last one last; the
            others take the state of the scale before.

    Raises:
        UserError: a value that cannot be.
    """

    guidance_scale: Number = 4.0
    top_k: Natural = 600
    late_top_k: Natural | None = None
    top_p: Number = 0.0
    temperature: Number = 1.0
    smooth: Flag = False
    last_scale_holds_back: Flag = True
    last_scale_steps: Natural = 1
    use_residual: Flag = True
    residual_steps: Natural = 8
    residual_solver: str = "ddpm"
    residual_strength: Number = 1.0
    unguided_scales: Natural = 0
    kept_tokens: Sequence[Number] = ()

    def __post_init__(self) -> None:
        ranges = (
            ("guidance_scale", 0, 1000),
            ("top_p", 0, 1),
            ("temperature", 1e-3, 1000),
            ("last_scale_steps", 1, 10_000),
            ("residual_steps", 1, 1000),
            ("residual_strength", 0, 1),
        )
        for name, least, most in ranges:
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} must lie in {least} … {most}, got {getattr(self, name)}")
        if self.residual_solver not in SOLVERS:
            raise UserError(f"residual_solver must be {listed(SOLVERS)}, got {self.residual_solver!r}")
        if not all(0 < share <= 1 for share in self.kept_tokens):
            raise UserError(f"kept_tokens must lie in (0, 1], got {list(self.kept_tokens)}")
        if self.last_scale_steps > 1 and self.kept_tokens:
            raise UserError("kept_tokens cannot be combined with last_scale_steps")
