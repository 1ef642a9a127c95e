"""The image decoder for inference on a CPU: cheaper upsampling, and fewer feature maps in memory."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openhart.tokenizer.autoencoder import ResidualBlock, Upsample


class InPlaceResidualBlock(nn.Module):
    """:class:`ResidualBlock` that overwrites its intermediate maps, (B, in, h, w) → (B, out, h, w)."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.skip = block.skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) → (B, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        out: Tensor = self.conv2(F.silu(self.norm2(h), inplace=True)).add_(self.skip(x))
        return out


class TransposedUpsample(nn.Module):
    """:class:`Upsample` as one transposed convolution, (B, C, h, w) → (B, C, 2h, 2w).

    Each output depends on 2×2 inputs, on some of them through several elements of the 3×3 kernel. Adding
    these elements beforehand reduces the multiplications to 4/9.
    """

    kernel: Tensor

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.conv = upsample.conv
        kernel = transposed_kernel(upsample.conv.weight.detach().float()).to(upsample.conv.weight.dtype)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, 2h, 2w)."""
        return F.conv_transpose2d(x, self.kernel, self.conv.bias, stride=2, padding=1)


def transposed_kernel(weight: Tensor) -> Tensor:
    """Kernel of an upsampling, (out, in, 3, 3) → kernel of the transposed convolution, (in, out, 4, 4)."""
    flipped = weight.flip(2, 3).flatten(0, 1)[:, None]
    spread = F.conv2d(flipped, torch.ones(1, 1, 2, 2, dtype=weight.dtype, device=weight.device), padding=1)
    kernel: Tensor = spread.unflatten(0, weight.shape[:2])[:, :, 0].transpose(0, 1).contiguous()
    return kernel


REPLACEMENTS: dict[type, Any] = {ResidualBlock: InPlaceResidualBlock, Upsample: TransposedUpsample}


def speed_up_decoder(module: nn.Module) -> None:
    """Replace residual blocks and upsamplings within a module by their faster equivalents, in place."""
    for name, child in module.named_children():
        replacement = REPLACEMENTS.get(type(child))
        if replacement is None:
            speed_up_decoder(child)
        else:
            setattr(module, name, replacement(child))
