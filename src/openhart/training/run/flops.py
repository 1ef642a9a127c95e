"""Counting the FLOPs and the memory of a pass on tensors that have shapes but no storage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

FLOAT = 4  # bytes; weights, gradients, moments and averages are float32


@dataclass(frozen=True)
class Cost:
    """Of one forward and backward pass on one GPU.

    Attributes:
        flops: of matrix products and convolutions, a multiplication and an addition counted as two.
        kept: bytes that the forward pass leaves for the backward one, weights' low-precision copies included.
    """

    flops: int = 0
    kept: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.kept + other.kept)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.flops * times, self.kept * times)


def stack_cost(block: Cost, depth: int, entrance: int, checkpointing: bool) -> Cost:
    """Equal blocks one after the other.

    Args:
        block: one of them.
        depth: their number.
        entrance: bytes of a block's input, which is all that is kept of a block that is recomputed.
        checkpointing: recompute blocks in the backward pass.
    """
    if not checkpointing:
        return block * depth
    return Cost(block.flops * depth + block.flops * depth // 3, block.kept + depth * entrance)


def cost_of_stacks(
    count: Callable[..., Cost], depths: Sequence[int], entrances: Sequence[int], checkpointing: bool
) -> Cost:
    """A model with several stacks of equal blocks, from models whose stacks have one or two blocks.

    Args:
        count: the cost of a model with these numbers of blocks, none of them recomputed.
        depths: number of blocks of each stack.
        entrances: bytes of a block's input, of each stack.
        checkpointing: recompute blocks in the backward pass.
    """
    ones = [1] * len(depths)
    total = shallow = count(*ones)
    for index, (depth, entrance) in enumerate(zip(depths, entrances, strict=True)):
        block = count(*ones[:index], 2, *ones[index + 1 :]) + shallow * -1
        total += stack_cost(block, depth, entrance, checkpointing) + block * -1
    return total


class Counter:
    """Runs modules without storage and counts.

    Args:
        precision: ``bf16`` or ``fp16`` for autocast, ``no`` for float32.
    """

    def __init__(self, precision: str) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.bytes = FLOAT if self.half is None else self.half.itemsize

    def tensor(self, *shape: int, needs_gradient: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor without storage."""
        with self.mode:
            return torch.empty(shape, dtype=dtype, requires_grad=needs_gradient)

    def count(self, module: nn.Module, run: Callable[[], Tensor]) -> Cost:
        """Cost of ``run``, which calls a module that was built on the meta device.

        Attention is spelled out for its operations, and fused, as it will be, for what it keeps.
        """
        if next(module.parameters()).is_meta:
            with self.mode:
                module.to_empty(device="cpu")
        with self._pass([SDPBackend.MATH]), FlopCounterMode(display=False) as counter:
            run().float().sum().backward()
        return Cost(counter.get_total_flops(), self._kept(module, run))

    def _kept(self, module: nn.Module, run: Callable[[], Tensor]) -> int:
        weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
        found: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage()._cdata not in weights:
                found[tensor.untyped_storage()._cdata] = tensor
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with self._pass([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]), hooks:
            run()
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    @contextmanager
    def _pass(self, attention: list[SDPBackend]) -> Iterator[None]:
        autocast = torch.autocast("cpu", self.half, enabled=self.half is not None)
        with self.mode, sdpa_kernel(attention), autocast:
            yield
