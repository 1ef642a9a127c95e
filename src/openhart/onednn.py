"""oneDNN's matrix product on a CPU with weights in its own layout.

Torch has no public interface to these operators. This is the only file that uses them; it was tried with
torch 2.13.
"""

from functools import cache

import torch
from torch import Tensor

operators = torch.ops.mkldnn

ROWS = 1024  # oneDNN selects the layout for this number of rows; the result is valid for any number


def pack_weight(weight: Tensor) -> Tensor:
    """Convert a weight (out, in) to the layout of oneDNN's matrix product."""
    packed: Tensor = operators._reorder_linear_weight(weight.contiguous(), ROWS)  # noqa: SLF001
    return packed


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is available and packs weights of a dtype on this CPU."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        pack_weight(torch.zeros(16, 16, dtype=dtype))
    except RuntimeError:  # torch has no public function that answers this
        return False
    return True


def linear(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """A linear map followed by an activation, in one pass over the output.

    Args:
        x: (…, in).
        packed: from :func:`pack_weight`.
        bias: (out,) or None.
        activation: ``none``, ``swish``, ``gelu`` or ``gelu_tanh`` (its approximation).

    Returns:
        (…, out).
    """
    activation, _, algorithm = activation.partition("_")
    if activation == "gelu":
        algorithm = algorithm or "none"
    mapped: Tensor = operators._linear_pointwise(x, packed, bias, activation, [], algorithm)  # noqa: SLF001
    return mapped


def linear_times(x: Tensor, factor: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map, multiplied element-wise by ``factor``, in one pass over the output.

    Args:
        x: (…, in).
        factor: (…, out).
        packed: from :func:`pack_weight`.
        bias: (out,) or None.

    Returns:
        (…, out).
    """
    product: Tensor = operators._linear_pointwise.binary(x, factor, packed, bias, "mul")  # noqa: SLF001
    return product
