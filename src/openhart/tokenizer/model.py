"""The hybrid image tokenizer: image ↔ features ↔ codes + residual (HART, section 3.1)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from pydantic import Field
from torch import Tensor, nn

from openhart.checks import Count, Depth, Flag, Share, Width, checked
from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.scales import ScaleList, fit_scales
from openhart.tokenizer.autoencoder import GROUPS, Decoder, Encoder
from openhart.tokenizer.quantizer import MultiScaleQuantizer, Quantized


@dataclass
class HybridTokenizerOutput(BaseOutput):
    """Output of :class:`HybridTokenizer`.

    Attributes:
        sample: (B, 3, H, W), the reconstructed image in [−1, 1].
    """

    sample: Tensor


class HybridTokenizer(CheckedLoading, ModelMixin, ConfigMixin):
    """Image ↔ features, and features ↔ a pyramid of codes plus a continuous residual.

    One scale and ``hybrid=False`` make it a plain VQGAN tokenizer; many scales and ``hybrid=False``
    make it VAR's.

    Args:
        in_channels: the image's channels.
        base_channels: width of the first convolution; a multiple of 32.
        channel_multipliers: width of each level, fine to coarse, in units of ``base_channels``;
            every level but the first halves the sides.
        encoder_blocks: residual blocks a level in the encoder.
        decoder_blocks: residual blocks a level in the decoder.
        patch_size: side of the pixel blocks folded into channels first; 1 for none.
        attention: attend over all places at the coarsest level.
        code_dim: features' channels z.
        codebook_size: number of codes V.
        scales: sides or ``[height, width]`` of the code maps, coarse to fine.
        phi_count: φ convolutions shared by the scales; 0 for one a scale.
        phi_ratio: weight of the convolution in φ; 0 leaves φ out.
        normalize_codes: nearest code by cosine similarity.
        quant_kernel: kernel of the convolutions on either side of the quantizer; odd.
        hybrid: the last scale's codes are completed by a continuous residual, so they skip φ.

    Raises:
        UserError: for settings that cannot be built.
    """

    _no_split_modules = ("ResidualBlock", "SpatialAttention", "Upsample", "Downsample")
    _group_offload_block_modules = (
        "encoder", "decoder", "quantizer", "codebook", "quant_conv", "post_quant_conv",
    )  # fmt: skip

    @register_to_config
    @checked
    def __init__(
        self,
        in_channels: Annotated[int, Field(ge=3, le=3)] = 3,
        base_channels: Annotated[Width, Field(multiple_of=GROUPS)] = 160,
        channel_multipliers: Annotated[Sequence[Depth], Field(min_length=1, max_length=12)] = (1, 1, 2, 2, 4),
        encoder_blocks: Depth = 2,
        decoder_blocks: Depth = 3,
        patch_size: Annotated[Depth, Field(le=64)] = 1,
        attention: Flag = True,
        code_dim: Width = 32,
        codebook_size: Annotated[Count, Field(ge=2, le=2**24)] = 4096,
        scales: ScaleList = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        phi_count: Annotated[int, Field(strict=True, ge=0, le=2**10)] = 4,
        phi_ratio: Share = 0.5,
        normalize_codes: Flag = False,
        quant_kernel: Annotated[Depth, Field(le=31)] = 3,
        hybrid: Flag = True,
    ) -> None:
        super().__init__()
        if quant_kernel % 2 == 0:
            raise UserError(f"quant_kernel must be odd, or maps change their size, got {quant_kernel}")
        shape = (base_channels, channel_multipliers)
        self.encoder = Encoder(in_channels, *shape, encoder_blocks, code_dim, patch_size, attention)
        self.decoder = Decoder(in_channels, *shape, decoder_blocks, code_dim, patch_size, attention)
        self.quantizer = MultiScaleQuantizer(
            scales, codebook_size, code_dim, phi_count, phi_ratio, normalize_codes
        )
        padding = quant_kernel // 2
        self.quant_conv = nn.Conv2d(code_dim, code_dim, quant_kernel, padding=padding)
        self.post_quant_conv = nn.Conv2d(code_dim, code_dim, quant_kernel, padding=padding)
        self.downsample_factor = patch_size * 2 ** (len(channel_multipliers) - 1)

    @property
    def hybrid(self) -> bool:
        """Whether a residual completes the last scale's codes."""
        return self.config.hybrid

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images whose features fit the scales."""
        height, width = self.quantizer.size
        return height * self.downsample_factor, width * self.downsample_factor

    def at(self, size: tuple[int, int]) -> "HybridTokenizer":
        """The same tokenizer for images of another height and width; weights are shared.

        Raises:
            UserError: sides that the down-sampling does not divide.
        """
        if tuple(size) == self.image_size:
            return self
        factor = self.downsample_factor
        if any(side < factor or side % factor for side in size):
            raise UserError(f"image sides must be multiples of {factor}, got {size[0]}×{size[1]}")
        other = copy.copy(self)
        scales = fit_scales(self.quantizer.scales, (size[0] // factor, size[1] // factor))
        other._modules = self._modules | {"quantizer": self.quantizer.at(scales)}
        return other

    @apply_forward_hook
    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [−1, 1] → features (B, z, H/f, W/f).

        Raises:
            UserError: sides that the down-sampling does not divide.
        """
        if any(side % self.downsample_factor for side in image.shape[-2:]):
            raise UserError(
                f"image sides must be multiples of {self.downsample_factor}, "
                f"got {image.shape[-2]}×{image.shape[-1]}"
            )
        return self.quant_conv(self.encoder(image.to(self.dtype)))

    @apply_forward_hook
    def quantize(self, features: Tensor) -> Quantized:
        """Features (B, z, P, P) → codes of every scale and what they leave unsaid."""
        return self.quantizer.quantize(features)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, z, h, w), discrete or complete → image (B, 3, h·f, w·f) in [−1, 1]."""
        return self.decode_unclamped(features).clamp(-1, 1)

    @apply_forward_hook
    def decode_unclamped(self, features: Tensor) -> Tensor:
        """As :meth:`decode`, values left as they come: what training losses look at."""
        image: Tensor = self.decoder(self.post_quant_conv(features.to(self.dtype)))
        return image

    def decode_codes(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes of every scale → the discrete image (B, 3, H, W) in [−1, 1], φ at every scale."""
        return self.decode(self.quantizer.decode(codes))

    def forward(
        self, image: Tensor, discrete: bool = False, return_dict: bool = True
    ) -> HybridTokenizerOutput | tuple[Tensor]:
        """Reconstruct an image.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            discrete: reconstruct it from its codes alone instead of its complete features.
            return_dict: return a :class:`HybridTokenizerOutput`; else a tuple.
        """
        features = self.encode(image)
        sample = self.decode(self.quantize(features).f_hats[-1] if discrete else features)
        return HybridTokenizerOutput(sample) if return_dict else (sample,)
