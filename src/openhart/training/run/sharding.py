"""A model whose weights, gradients and optimizer are spread over processes (FSDP2, torch's ``fully_shard``).

Checkpoints hold whole tensors, so that a run resumes on another number of processes.
"""

from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from openhart.transformer.block import Block

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(accelerator: Accelerator, model: nn.Module) -> None:
    """Spread a model in place, each transformer block by itself; master weights stay float32."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    low = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class ShardedState:
    """A spread model and its optimizer, as a checkpoint keeps them."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors, on the first process; every process must ask."""
        model, optimizer = get_state_dict(self.model, self.optimizer, options=WHOLE)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take each process's part of whole tensors."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=WHOLE,
        )


class WholeAverages:
    """Averaged weights, spread or not, as a checkpoint keeps them."""

    def __init__(self, ema: EMAModel) -> None:
        self.ema = ema

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`EMAModel.state_dict`, of whole tensors; every process must ask."""
        state: dict[str, Any] = self.ema.state_dict() | {
            "shadow_params": [whole(part) for part in self.ema.shadow_params]
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take each process's part of whole tensors."""
        now = self.ema.shadow_params
        self.ema.load_state_dict(state)
        self.ema.shadow_params = [
            distribute_tensor(part, old.device_mesh, old.placements) if isinstance(old, DTensor) else part
            for part, old in zip(self.ema.shadow_params, now, strict=True)
        ]
