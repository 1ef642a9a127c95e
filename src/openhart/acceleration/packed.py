"""Linear maps whose weights lie as oneDNN's matrix product on a CPU wants them.

Torch's own path repacks a bfloat16 weight with each call, and sends float32 to a library that is slow on some
processors. A packed layer gives the same numbers up to rounding, and only forward.
"""

from typing import Any

import torch
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.transformer.attention import Attention
from openhart.transformer.layers import SwiGLU

ROWS = 1024  # for which oneDNN picks a layout; it serves every number of rows


class PackedLinear(nn.Module):
    """A linear map, (…, in) → (…, out), for inference on a CPU.

    Args:
        weight: (out, in).
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = _pack(weight.detach())
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """(…, in) → (…, out), through ``none``, ``swish`` or ``gelu`` (by tanh) on the way out."""
        algorithm = "tanh" if activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], algorithm)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The map of x, multiplied by ``factor`` (…, out) on the way out."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, factor, self.weight, self.bias, "mul")

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedLinear":
        weight = fn(self.weight.to_dense())
        if weight.device.type != "cpu":
            raise UserError("an optimized pipeline stays on the CPU: load it again to move it")
        if not _packs(weight.dtype):
            raise UserError(f"an optimized pipeline cannot be {weight.dtype} on this CPU: load it again so")
        self.weight = _pack(weight)
        self.bias = None if self.bias is None else fn(self.bias)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight.to_dense()
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias


class PackedSwiGLU(nn.Module):
    """:class:`SwiGLU` with its activation and product done as the matrix products write."""

    def __init__(self, mlp: SwiGLU) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            PackedLinear(part.weight, None) for part in (mlp.gate, mlp.up, mlp.down)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        return self.down(self.up.times(x, self.gate(x, "swish")))


class PackedGELU(nn.Sequential):
    """Linear map, GELU, linear map, with the activation done as the first product writes."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        return self[2](self[0](x, "gelu"))


class PackedAttention(Attention):
    """:class:`Attention` with packed projections."""

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.q_bias, self.v_bias = attention.q_bias, attention.v_bias
        self.log_temperature = attention.log_temperature
        self.qkv = PackedLinear(attention.qkv.weight, None)  # type: ignore[assignment]
        self.proj = PackedLinear(attention.proj.weight, attention.proj.bias)  # type: ignore[assignment]

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (B, N, C) → (B, N, 3C)."""
        return self.qkv(x) + self.qkv_bias


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)


def _packed_linear(linear: nn.Linear) -> PackedLinear:
    return PackedLinear(linear.weight, linear.bias)


def _packed_sequence(parts: nn.Sequential) -> nn.Sequential:
    is_gelu_mlp = [type(part) for part in parts] == [nn.Linear, nn.GELU, nn.Linear]
    pack(parts)
    return PackedGELU(*parts) if is_gelu_mlp and parts[1].approximate == "tanh" else parts


REPLACEMENTS: dict[type, Any] = {
    nn.Linear: _packed_linear,
    nn.Sequential: _packed_sequence,
    SwiGLU: PackedSwiGLU,
    Attention: PackedAttention,
}


def can_pack(module: nn.Module) -> bool:
    """Whether oneDNN is there and takes the module's weights."""
    weight = next(module.parameters())
    return weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and _packs(weight.dtype)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products of this dtype for this processor."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


def pack(module: nn.Module) -> None:
    """Replace, in place, every linear map, SwiGLU and attention below a module by its packed form."""
    for name, child in module.named_children():
        replacement = REPLACEMENTS.get(type(child))
        if replacement is None:
            pack(child)
        else:
            setattr(module, name, replacement(child))
