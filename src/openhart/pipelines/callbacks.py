"""Callbacks of a call: diffusers' ``callback_on_step_end`` and ours, ``callback_on_scale_end``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from openhart.errors import UserError
from openhart.generation.states import State

TENSOR_INPUTS = ["latents"]
StepCallback = Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor] | None]
ScaleCallback = Callable[[Any, int, Any], Any]


@dataclass(frozen=True)
class Callbacks:
    """The callbacks of one call.

    Args:
        on_scale_end: called with the pipeline, the scale's index and the state; False ends the call.
        on_step_end: called with the pipeline, the index of the step, the number of steps that remain as
            timestep, and the tensors by name; ``latents`` that it returns replace the features.
        tensor_inputs: names of the tensors that ``on_step_end`` gets.

    Raises:
        UserError: something that cannot be called, or an unknown tensor.
    """

    on_scale_end: ScaleCallback | None
    on_step_end: StepCallback | None
    tensor_inputs: Sequence[str]

    def __post_init__(self) -> None:
        named = {"callback_on_scale_end": self.on_scale_end, "callback_on_step_end": self.on_step_end}
        for name, callback in named.items():
            if callback is not None and not callable(callback):
                raise UserError(f"{name} must be a function, got {callback!r:.60}")
        if unknown := [name for name in self.tensor_inputs if name not in TENSOR_INPUTS]:
            raise UserError(
                f"callback_on_step_end_tensor_inputs must be among {', '.join(TENSOR_INPUTS)}, "
                f"got {unknown[0]!r}"
            )

    def call(self, pipeline: Any, state: State) -> bool:
        """Call them after a step; latents that one returns are written into the features of the state.

        Args:
            pipeline: the pipeline that generates.
            state: the state of generation after the step.

        Returns:
            whether generation goes on.
        """
        if self.on_step_end is not None:
            names = getattr(self.on_step_end, "tensor_inputs", self.tensor_inputs)
            tensors, remaining = dict.fromkeys(names, state.features), state.count - 1 - state.index
            returned = (self.on_step_end(pipeline, state.index, remaining, tensors) or {}).get("latents")
            if returned is not None and returned is not state.features:
                state.features.copy_(returned)
        if self.on_scale_end is None:
            return True
        return self.on_scale_end(pipeline, state.index, state) is not False
