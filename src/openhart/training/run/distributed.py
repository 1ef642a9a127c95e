"""What several processes must agree on: when gradients meet, what is averaged, whether a step counts."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from openhart.errors import UserError
from openhart.interrupts import PendingStop

NAMED_SAMPLES = 4


@contextlib.contextmanager
def syncing(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Let gradients meet only in the last of a step's accumulated parts."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
        return
    with contextlib.nullcontext() if last else accelerator.no_sync(model):
        yield


def mean_over_processes(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient."""
    mean: Tensor = accelerator.reduce(value.detach().clone(), reduction="mean")
    return mean


def on_every_process(accelerator: Accelerator, holds: bool) -> bool:
    """Whether something holds on all processes: the same answer on each."""
    votes = accelerator.reduce(torch.tensor(float(holds), device=accelerator.device), reduction="sum")
    return bool(round(float(votes)) == accelerator.num_processes)


def signal_on_any_process(accelerator: Accelerator, stop: PendingStop) -> int:
    """The signal that asked a process to stop, or 0: the same answer on each."""
    numbers = accelerator.gather(torch.tensor([stop.number or 0], device=accelerator.device))
    return int(numbers.max())


def average_gradients(accelerator: Accelerator, module: nn.Module) -> None:
    """Average the gradients of a module that no wrapper watches."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.copy_(mean_over_processes(accelerator, parameter.grad))


class Skips:
    """Steps left out because their loss or gradient was not finite.

    Args:
        most_in_a_row: how many are borne one after the other.
    """

    def __init__(self, most_in_a_row: int) -> None:
        self.most_in_a_row = most_in_a_row
        self.total = self.in_a_row = 0

    def allows(
        self, accelerator: Accelerator, step: int, loss: Tensor, norm: Any, names: Sequence[str]
    ) -> bool:
        """Whether the step may be taken: the same answer on every process.

        A gradient scaler (fp16) leaves out infinite gradients itself, and must see them to scale less.

        Raises:
            UserError: too many steps in a row may not.
        """
        finite = bool(torch.as_tensor(loss).isfinite().all())
        good = finite and (accelerator.scaler is not None or bool(torch.as_tensor(norm).isfinite().all()))
        if on_every_process(accelerator, good):
            self.in_a_row = 0
            return True
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row < self.most_in_a_row:
            return False
        shown = ", ".join(names[:NAMED_SAMPLES]) + (" …" if len(names) > NAMED_SAMPLES else "")
        raise UserError(
            f"the loss was not finite in {self.in_a_row} steps in a row, the last of them step {step} "
            f"with {shown}; the last checkpoint is from before: lower the learning rate or look at the data"
        )

    def state_dict(self) -> dict[str, int]:
        """What must survive a restart."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the counts."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]
