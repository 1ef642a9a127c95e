"""The hybrid image tokenizer: image ↔ features ↔ codes + residual (HART, section 3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from pydantic import Field
from torch import Tensor, nn

from openhart.checks import Count, Depth, Flag, Share, Width, checked
from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.scales import ScaleList, Scales
from openhart.tokenizer.autoencoder import GROUPS, Decoder, Encoder
from openhart.tokenizer.quantizer import MultiScaleQuantizer, PhiRule, Quantized


@dataclass
class HybridTokenizerOutput(BaseOutput):
    """Output of :class:`HybridTokenizer`.

    Attributes:
        sample: (B, 3, H, W), the reconstructed image in [−1, 1].
    """

    sample: Tensor


class HybridTokenizer(CheckedLoading, ModelMixin, ConfigMixin):
    """Encodes images as features, and features as codes of several scales plus a continuous residual.

    One scale and ``hybrid=False`` make a plain VQGAN tokenizer; several scales and ``hybrid=False`` make
    VAR's tokenizer. Images of another size than :attr:`image_size` are accepted everywhere; their scales are
    the configured ones in proportion.

    Args:
        in_channels: channels of the image.
        base_channels: width of the first convolution; a multiple of 32.
        channel_multipliers: width of each level, fine to coarse, in units of ``base_channels``;
            every level but the first halves the sides.
        encoder_blocks: residual blocks per level in the encoder.
        decoder_blocks: residual blocks per level in the decoder.
        patch_size: side of the pixel blocks folded into channels first; 1 for none.
        attention: apply self-attention over all positions at the coarsest level and in the middle.
        code_dim: channels z of the features.
        codebook_size: number of codes V.
        scales: sides or ``[height, width]`` of the code maps, coarse to fine.
        phi_count: φ convolutions shared by the scales; 0 for one per scale.
        phi_ratio: weight of the convolution in φ; 0 omits φ.
        normalize_codes: choose the nearest code by cosine similarity.
        quant_kernel: kernel size of the convolutions before and after the quantizer; odd.
        hybrid: a continuous residual may complete the codes of the last scale.
        phi_at_last_scale: when the last scale of a generated image passes through φ: ``without_residual``
            (unless a residual is added to it), ``never`` (HART's rule, with or without a residual) or
            ``without_head`` (unless the model has a residual head; models saved before this setting existed
            behave so).

    Raises:
        UserError: the settings cannot be built.
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
        phi_at_last_scale: PhiRule = "without_residual",
    ) -> None:
        super().__init__()
        if quant_kernel % 2 == 0:
            raise UserError(f"quant_kernel must be odd (an even one changes the size), got {quant_kernel}")
        shape = (base_channels, channel_multipliers)
        coarsest = (len(channel_multipliers) - 1,) if attention else ()
        attending = (coarsest, attention)
        self.encoder = Encoder(in_channels, *shape, encoder_blocks, code_dim, patch_size, *attending)
        self.decoder = Decoder(in_channels, *shape, decoder_blocks, code_dim, patch_size, *attending)
        self.quantizer = MultiScaleQuantizer(
            scales, codebook_size, code_dim, phi_count, phi_ratio, normalize_codes, phi_at_last_scale
        )
        padding = quant_kernel // 2
        self.quant_conv = nn.Conv2d(code_dim, code_dim, quant_kernel, padding=padding)
        self.post_quant_conv = nn.Conv2d(code_dim, code_dim, quant_kernel, padding=padding)
        self.downsample_factor = patch_size * 2 ** (len(channel_multipliers) - 1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """See diffusers. A config that was saved before ``phi_at_last_scale`` existed keeps its behaviour."""
        return super().from_config({"phi_at_last_scale": "without_head", **config}, *args, **kwargs)

    @property
    def hybrid(self) -> bool:
        """Whether a residual may complete the codes of the last scale."""
        return self.config.hybrid

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images for which the scales are configured."""
        height, width = self.quantizer.size
        return height * self.downsample_factor, width * self.downsample_factor

    def scales_for_image(self, size: tuple[int, int]) -> Scales:
        """Scales of images of this height and width in pixels; the last one is the size of their features.

        Raises:
            UserError: a side is no multiple of the down-sampling factor.
        """
        factor = self.downsample_factor
        if any(side < factor or side % factor for side in size):
            raise UserError(f"image sides must be multiples of {factor}, got {size[0]}×{size[1]}")
        return self.quantizer.scales_for((size[0] // factor, size[1] // factor))

    @apply_forward_hook
    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [−1, 1] → features (B, z, H/f, W/f).

        Raises:
            UserError: a side is no multiple of the down-sampling factor.
        """
        self.scales_for_image((image.shape[-2], image.shape[-1]))
        return self.quant_conv(self.encoder(image.to(self.dtype)))

    @apply_forward_hook
    def quantize(self, features: Tensor) -> Quantized:
        """Features (B, z, h, w) → codes of every scale and the continuous target of the last one."""
        return self.quantizer.quantize(features)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, z, h, w), discrete or complete → image (B, 3, h·f, w·f) in [−1, 1]."""
        return self.decode_unclamped(features).clamp(-1, 1)

    @apply_forward_hook
    def decode_unclamped(self, features: Tensor) -> Tensor:
        """As :meth:`decode`, without limiting the values to [−1, 1], for training losses."""
        image: Tensor = self.decoder(self.post_quant_conv(features.to(self.dtype)))
        return image

    def decode_codes(self, codes: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Codes of every scale → the discrete image (B, 3, H, W) in [−1, 1], φ at every scale.

        Args:
            codes: one tensor per scale, (B, h_k·w_k), row-major.
            size: height and width of the image in pixels; None for :attr:`image_size`.

        Raises:
            UserError: a side is no multiple of the down-sampling factor.
        """
        return self.decode(self.quantizer.decode(codes, self.scales_for_image(size or self.image_size)[-1]))

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
