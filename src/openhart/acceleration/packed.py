"""Linear maps whose weights are stored in the layout of oneDNN's matrix product on a CPU.

By default, torch packs a bfloat16 weight again in every call, and computes float32 with a library that is
slow on some processors. A packed layer computes the same values up to rounding, and has no backward pass.
"""

from typing import Any

from torch import Tensor, nn

from openhart.errors import UserError
from openhart.onednn import linear, linear_times, pack_weight, packs
from openhart.transformer.layers import SwiGLU


class PackedLinear(nn.Module):
    """A linear map, (…, in) → (…, out), for inference on a CPU.

    Args:
        weight: (out, in).
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = pack_weight(weight.detach())
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """(…, in) → (…, out), followed by the activation ``none``, ``swish``, ``gelu`` or ``gelu_tanh``."""
        return linear(x, self.weight, self.bias, activation)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The linear map of ``x`` (…, in), multiplied by ``factor`` (…, out) in the same pass, (…, out)."""
        return linear_times(x, factor, self.weight, self.bias)

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedLinear":
        weight = fn(self.weight.to_dense())
        if weight.device.type != "cpu":
            raise UserError("an optimized pipeline stays on the CPU: load it again to use another device")
        if not packs(weight.dtype):
            raise UserError(
                f"an optimized pipeline cannot become {weight.dtype} on this CPU: "
                "load it in that dtype, then optimize"
            )
        self.weight = pack_weight(weight)
        self.bias = None if self.bias is None else fn(self.bias)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight.to_dense()
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias


class PackedSwiGLU(nn.Module):
    """:class:`SwiGLU` whose activation and element-wise product are fused with the matrix products."""

    def __init__(self, mlp: SwiGLU) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            PackedLinear(layer.weight, None) for layer in (mlp.gate, mlp.up, mlp.down)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        mapped: Tensor = self.down(self.up.times(x, self.gate(x, "swish")))
        return mapped


class PackedGELU(nn.Sequential):
    """Linear map, GELU, linear map; the activation is fused with the first matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        tanh = _gelu_of(self[1]).approximate == "tanh"
        mapped: Tensor = self[2](self[0](x, "gelu_tanh" if tanh else "gelu"))
        return mapped


def _gelu_of(activation: nn.Module) -> Any:
    """The activation itself, or that in front of a dropout, which does nothing in inference."""
    return activation[0] if isinstance(activation, nn.Sequential) else activation


def _packed_linear(module: nn.Linear) -> PackedLinear:
    return PackedLinear(module.weight, module.bias)


def _packed_sequence(layers: nn.Sequential) -> nn.Sequential:
    kinds = [type(_gelu_of(layer)) for layer in layers]
    pack(layers)
    return PackedGELU(*layers) if kinds == [nn.Linear, nn.GELU, nn.Linear] else layers


REPLACEMENTS: dict[type, Any] = {
    nn.Linear: _packed_linear,
    nn.Sequential: _packed_sequence,
    SwiGLU: PackedSwiGLU,
}


def can_pack(module: nn.Module) -> bool:
    """Whether a module is on the CPU and oneDNN can pack weights of its dtype."""
    weight = next(module.parameters())
    return weight.device.type == "cpu" and packs(weight.dtype)


def pack(module: nn.Module) -> None:
    """Replace every linear map, SwiGLU and GELU MLP within a module by its packed form, in place."""
    for name, child in module.named_children():
        replacement = REPLACEMENTS.get(type(child))
        if replacement is None:
            pack(child)
        else:
            setattr(module, name, replacement(child))
