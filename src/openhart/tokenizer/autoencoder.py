"""The convolutional encoder and decoder of VQGAN (arXiv 2012.09841, appendix, table 7)."""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
EPSILON = 1e-6


class GroupNorm(nn.GroupNorm):
    """Group normalization (arXiv 1803.08494) that also accepts a map with a single position in training."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(GROUPS, channels, eps=EPSILON)


class ResidualBlock(nn.Module):
    """Two GroupNorm → SiLU → 3×3 convolutions around a skip, (B, in, h, w) → (B, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) → (B, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        return out


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of a map, (B, C, h, w) → (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.proj = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        batch, channels, height, width = x.shape
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)
        q, k, v = (third.unsqueeze(1) for third in tokens.chunk(3, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        out: Tensor = x + self.proj(mixed.transpose(1, 2).reshape(batch, channels, height, width))
        return out


class Downsample(nn.Module):
    """Stride-2 convolution after padding right and bottom by one, (B, C, h, w) → (B, C, h/2, w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h/2, w/2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution, (B, C, h, w) → (B, C, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, 2h, 2w)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def _level(in_channels: int, out_channels: int, blocks: int, attention: bool) -> nn.Sequential:
    """Residual blocks of one resolution, each followed by attention if ``attention``."""
    layers: list[nn.Module] = []
    for index in range(blocks):
        layers.append(ResidualBlock(in_channels if index == 0 else out_channels, out_channels))
        if attention:
            layers.append(SpatialAttention(out_channels))
    return nn.Sequential(*layers)


def _middle(channels: int, attention: bool) -> nn.Sequential:
    layers: list[nn.Module] = [ResidualBlock(channels, channels)]
    if attention:
        layers.append(SpatialAttention(channels))
    return nn.Sequential(*layers, ResidualBlock(channels, channels))


class Encoder(nn.Module):
    """Image (B, 3, H, W) → features (B, z, H/f, W/f), f = patch_size · 2^(levels − 1).

    Args:
        in_channels: channels of the image.
        base_channels: width of the first convolution.
        channel_multipliers: width of each level, fine to coarse, in units of ``base_channels``.
        blocks: number of residual blocks per level.
        code_dim: channels z of the features.
        patch_size: side of the pixel blocks that are folded into channels before the first convolution.
        attention_levels: levels, counted from 0 at the finest, that attend over all positions after each of
            their residual blocks.
        middle_attention: attend between the two residual blocks after the coarsest level.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        blocks: int,
        code_dim: int,
        patch_size: int,
        attention_levels: Collection[int],
        middle_attention: bool,
    ) -> None:
        super().__init__()
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        self.fold = nn.PixelUnshuffle(patch_size)
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, base_channels, 3, padding=1)
        levels: list[nn.Module] = []
        for index, width in enumerate(widths):
            before, last = ([base_channels, *widths][index], index == len(widths) - 1)
            levels.append(_level(before, width, blocks, index in attention_levels))
            if not last:
                levels.append(Downsample(width))
        self.levels = nn.ModuleList(levels)
        self.middle = _middle(widths[-1], middle_attention)
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], code_dim, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, z, H/f, W/f)."""
        h = self.conv_in(self.fold(image))
        for level in self.levels:
            h = level(h)
        features: Tensor = self.conv_out(F.silu(self.norm_out(self.middle(h))))
        return features


class Decoder(nn.Module):
    """Features (B, z, h, w) → image (B, 3, h·f, w·f); :class:`Encoder` in reverse order.

    Args:
        out_channels: channels of the image.
        base_channels: as for the encoder.
        channel_multipliers: as for the encoder, fine to coarse.
        blocks: number of residual blocks per level.
        code_dim: channels z of the features.
        patch_size: side of the pixel blocks that are unfolded from channels after the last convolution.
        attention_levels: as for the encoder; level 0 is the finest.
        middle_attention: attend between the two residual blocks before the coarsest level.
    """

    def __init__(
        self,
        out_channels: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        blocks: int,
        code_dim: int,
        patch_size: int,
        attention_levels: Collection[int],
        middle_attention: bool,
    ) -> None:
        super().__init__()
        widths = [base_channels * multiplier for multiplier in reversed(channel_multipliers)]
        self.conv_in = nn.Conv2d(code_dim, widths[0], 3, padding=1)
        self.middle = _middle(widths[0], middle_attention)
        levels: list[nn.Module] = []
        for index, width in enumerate(widths):
            before, last = ([widths[0], *widths][index], index == len(widths) - 1)
            levels.append(_level(before, width, blocks, len(widths) - 1 - index in attention_levels))
            if not last:
                levels.append(Upsample(width))
        self.levels = nn.ModuleList(levels)
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels * patch_size**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(patch_size)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last convolution, whose gradients determine the adaptive adversarial weight."""
        return self.conv_out.weight

    def forward(self, features: Tensor) -> Tensor:
        """(B, z, h, w) → (B, 3, h·f, w·f)."""
        return self.fine(self.coarse(features))

    def coarse(self, features: Tensor) -> Tensor:
        """The layers at the resolution of the features, (B, z, h, w) → (B, C, h, w)."""
        maps: Tensor = self.levels[0](self.middle(self.conv_in(features)))
        return maps

    def fine(self, h: Tensor) -> Tensor:
        """The remaining layers, (B, C, h, w) → (B, 3, h·f, w·f)."""
        for level in self.levels[1:]:
            h = level(h)
        image: Tensor = self.unfold(self.conv_out(F.silu(self.norm_out(h))))
        return image
