"""Weights of eight bits, by torchao: a quarter of the memory of float32 (docs/speed.md states the cost)."""

from torch import nn

from openhart.errors import UserError, require

CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def quantize_weights(module: nn.Module, kind: str) -> None:
    """Store the weights of a module's linear maps in eight bits; matrix products keep the module's dtype.

    Args:
        module: the module, changed in place.
        kind: ``int8``, with one scale factor per row of a matrix, or ``fp8`` (e4m3).

    Raises:
        UserError: if ``kind`` is unknown, or if torchao is not installed.
    """
    if kind not in CONFIGS:
        raise UserError(f"weights can be quantized to {' or '.join(CONFIGS)}, got {kind!r}")
    require("torchao", extra="quantize")
    from torchao import quantization

    quantization.quantize_(module, getattr(quantization, CONFIGS[kind])())
