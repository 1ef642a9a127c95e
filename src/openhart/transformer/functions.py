"""Elementwise operations of a block with explicit derivatives, for float32.

Automatic differentiation gives the same gradients in about twice as many passes over memory, which on a CPU
is a measurable fraction of a small model's training step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ScaledRMSNorm(torch.autograd.Function):
    """x/√(mean x² + ε)·gain + shift over the last dimension, (B, N, C) with gain and shift (B, 1, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean.add_(eps).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, gain)
        return torch.addcmul(shift, unit, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of x, gain and shift."""
        unit, inverse, gain = ctx.saved_tensors
        of_gain = gradient * unit
        along = (of_gain @ gain.transpose(1, 2)).div_(unit.shape[-1])
        of_x = (gradient * gain).addcmul_(unit, along, value=-1).mul_(inverse)
        return of_x, of_gain.sum(dim=1, keepdim=True), gradient.sum(dim=1, keepdim=True), None


class Rotate(torch.autograd.Function):
    """Rotate pairs (e, e + d/2), (B, H, N, d) by (B, 1, N, d); the angles have no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, H, N, d) → (B, H, N, d)."""
        ctx.save_for_backward(cos, sin)
        (x1, x2), (sin1, sin2), out = x.chunk(2, dim=-1), sin.chunk(2, dim=-1), x * cos
        out1, out2 = _halves(out)
        out1.addcmul_(x2, sin1, value=-1)
        out2.addcmul_(x1, sin2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of x: the transposed map."""
        cos, sin = ctx.saved_tensors
        (g1, g2), (sin1, sin2), out = gradient.chunk(2, dim=-1), sin.chunk(2, dim=-1), gradient * cos
        out1, out2 = _halves(out)
        out1.addcmul_(g2, sin2)
        out2.addcmul_(g1, sin1, value=-1)
        return out, None, None


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of the last dimension as views that may be written to, which those of ``chunk`` may not."""
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
