"""Steps whose loss or gradient is NaN or infinite are skipped, and a run that only skips ends."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from openhart.errors import UserError
from openhart.training.run.distributed import on_every_process

NAMED_SAMPLES = 4


class NonFiniteGuard:
    """Skips steps whose loss or gradient is not finite, and counts them.

    Args:
        max_consecutive: number of consecutive skipped steps at which the run ends with an error.
    """

    def __init__(self, max_consecutive: int) -> None:
        self.max_consecutive = max_consecutive
        self.total = self.consecutive = 0

    def allows(
        self, accelerator: Accelerator, step: int, loss: Tensor, norm: Any, names: Sequence[str]
    ) -> bool:
        """Whether the step may be taken; the same answer on every process. Collective.

        A gradient scaler (fp16) skips infinite gradients itself, and must see them to lower its scale.

        Args:
            accelerator: the run's.
            step: number of the step, for the error.
            loss: scalar.
            norm: of the gradient, scalar.
            names: of the step's samples, for the error.

        Raises:
            UserError: if this was the last of ``max_consecutive`` consecutive skipped steps.
        """
        finite = bool(torch.as_tensor(loss).isfinite().all())
        good = finite and (accelerator.scaler is not None or bool(torch.as_tensor(norm).isfinite().all()))
        if on_every_process(accelerator, good):
            self.consecutive = 0
            return True
        self.total += 1
        self.consecutive += 1
        if self.consecutive < self.max_consecutive:
            return False
        shown = ", ".join(names[:NAMED_SAMPLES]) + (" …" if len(names) > NAMED_SAMPLES else "")
        raise UserError(
            f"the loss was not finite in {self.consecutive} steps in a row, the last of them step {step} "
            f"with {shown}; the last checkpoint is from before: lower the learning rate or look at the data"
        )

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint stores."""
        return {"total": self.total, "in_a_row": self.consecutive}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the counts."""
        self.total, self.consecutive = state["total"], state["in_a_row"]
