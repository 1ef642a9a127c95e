"""Weights in eight bits, by torchao: a quarter of float32's memory, at a cost in quality (docs/speed.md)."""

from typing import Any

from torch import nn

from openhart.errors import UserError

CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def quantize_weights(module: nn.Module, kind: str) -> None:
    """Keep the weights of a module's linear maps in eight bits, in place; products stay in its dtype.

    Args:
        module: what to change.
        kind: ``int8``, a scale for each row of a matrix, or ``fp8`` (e4m3).

    Raises:
        UserError: no such kind, or torchao is not installed.
    """
    if kind not in CONFIGS:
        raise UserError(f"weights are quantized to {' or '.join(CONFIGS)}, got {kind!r}")
    quantization = _torchao()
    quantization.quantize_(module, getattr(quantization, CONFIGS[kind])())


def _torchao() -> Any:
    try:
        import torchao.quantization
    except ImportError as error:
        raise UserError("quantized weights need another package: pip install 'openhart[quantize]'") from error
    return torchao.quantization
