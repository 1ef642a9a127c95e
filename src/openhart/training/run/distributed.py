"""Several processes: what they exchange, and a model whose weights, gradients and optimizer state are sharded
over them (FSDP2, torch's ``fully_shard``).

Functions marked "collective" must be called on every rank at the same time, or the processes wait forever.
Checkpoints hold full tensors, so that a run resumes on another number of processes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from openhart.interrupts import PendingStop
from openhart.transformer.block import Block

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


@contextlib.contextmanager
def syncing(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Let processes average their gradients only in the last of a step's accumulated passes."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
        return
    with contextlib.nullcontext() if last else accelerator.no_sync(model):
        yield


def mean_over_processes(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient. Collective."""
    mean: Tensor = accelerator.reduce(value.detach().clone(), reduction="mean")
    return mean


def on_every_process(accelerator: Accelerator, holds: bool) -> bool:
    """Whether ``holds`` is true on all processes; the same answer on each. Collective."""
    votes = accelerator.reduce(torch.tensor(float(holds), device=accelerator.device), reduction="sum")
    return bool(round(float(votes)) == accelerator.num_processes)


def signal_on_any_process(accelerator: Accelerator, stop: PendingStop) -> int:
    """The signal that requested any process to stop, or 0; the same answer on each. Collective."""
    numbers = accelerator.gather(torch.tensor([stop.number or 0], device=accelerator.device))
    return int(numbers.max())


def average_gradients(accelerator: Accelerator, module: nn.Module) -> None:
    """Average the gradients of a module that no wrapper such as DDP synchronizes. Collective."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.copy_(mean_over_processes(accelerator, parameter.grad))


def shard(accelerator: Accelerator, model: nn.Module) -> None:
    """Shard a model in place, each transformer block by itself; master weights stay float32. Collective."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    low = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor, gathered from all ranks if it is sharded. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor, or the tensor itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class ShardedState:
    """A sharded model and its optimizer, as a checkpoint keeps them."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Full tensors, on the first rank. Collective."""
        model, optimizer = get_state_dict(self.model, self.optimizer, options=FULL)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore this rank's shards from full tensors. Collective."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=FULL,
        )


class FullTensorEMA:
    """Averaged weights (EMA), sharded or not, as a checkpoint keeps them."""

    def __init__(self, ema: EMAModel) -> None:
        self.ema = ema

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`EMAModel.state_dict`, with full tensors. Collective."""
        state: dict[str, Any] = self.ema.state_dict() | {
            "shadow_params": [full_tensor(part) for part in self.ema.shadow_params]
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore this rank's shards from full tensors. Collective."""
        now = self.ema.shadow_params
        self.ema.load_state_dict(state)
        self.ema.shadow_params = [
            distribute_tensor(part, old.device_mesh, old.placements) if isinstance(old, DTensor) else part
            for part, old in zip(self.ema.shadow_params, now, strict=True)
        ]
