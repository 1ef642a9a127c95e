"""Base classes of image tokenizers: image ↔ features, and features ↔ codes (VQGAN, arXiv 2012.09841, section
3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.scales import Scales
from openhart.tokenizer.autoencoder import Decoder, Encoder
from openhart.tokenizer.quantizer import MultiScaleQuantizer, Quantized

CODES = "codes only"
COMPLETE = "complete features"


@dataclass
class TokenizerOutput(BaseOutput):
    """Output of an image tokenizer.

    Attributes:
        sample: (B, 3, H, W), the reconstructed image in [−1, 1].
    """

    sample: Tensor


class ImageTokenizer(CheckedLoading, ModelMixin, ConfigMixin):
    """Encoder and decoder of an image tokenizer of any family; a subclass builds them from its settings.

    A subclass names ``ModelMixin`` among its bases again: diffusers looks it up in the subclass's module.

    Images of another size than :attr:`image_size` are accepted everywhere.
    """

    _no_split_modules = ("ResidualBlock", "SpatialAttention", "Upsample", "Downsample")

    encoder: Encoder
    decoder: Decoder
    quant_conv: nn.Conv2d
    post_quant_conv: nn.Conv2d
    downsample_factor: int

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images for which the model is configured."""
        raise NotImplementedError

    def versions(self, image: Tensor) -> Mapping[str, Tensor]:
        """What :meth:`decode` may decode an image from, by name, from the least to the most information.

        Args:
            image: (B, 3, H, W) in [−1, 1].

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        raise NotImplementedError

    def feature_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the features of images of this height and width in pixels.

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        factor = self.downsample_factor
        if any(side < factor or side % factor for side in size):
            raise UserError(f"image sides must be multiples of {factor}, got {size[0]}×{size[1]}")
        return size[0] // factor, size[1] // factor

    def decode(self, features: Tensor) -> Tensor:
        """One of :meth:`versions` or what a generator made, (B, z, h, w) → image (B, 3, h·f, w·f) in
        [−1, 1]."""
        image: Tensor = self.decode_unclamped(features)
        return image.clamp(-1, 1)

    @apply_forward_hook
    def decode_unclamped(self, features: Tensor) -> Tensor:
        """As :meth:`decode`, without limiting the values to [−1, 1], for training losses."""
        image: Tensor = self.decoder(self.post_quant_conv(features.to(self.dtype)))
        return image


class CodeTokenizer(ImageTokenizer, ModelMixin, ConfigMixin):
    """Encoder, quantizer and decoder of an image tokenizer with codes.

    Images of another size than :attr:`image_size` have the configured scales in proportion.
    """

    _group_offload_block_modules = (
        "encoder", "decoder", "quantizer", "codebook", "projection", "quant_conv", "post_quant_conv",
    )  # fmt: skip

    quantizer: MultiScaleQuantizer

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images for which the scales are configured."""
        height, width = self.quantizer.size
        return height * self.downsample_factor, width * self.downsample_factor

    def scales_for_image(self, size: tuple[int, int]) -> Scales:
        """Scales of images of this height and width in pixels; the last one is the size of their features.

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        return self.quantizer.scales_for(self.feature_size(size))

    def versions(self, image: Tensor) -> Mapping[str, Tensor]:
        """``codes only``, the sum of the codes of all scales, (B, z, H/f, W/f).

        Args:
            image: (B, 3, H, W) in [−1, 1].

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        return {CODES: self.quantize(self.encode(image)).f_hats[-1]}

    @apply_forward_hook
    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [−1, 1] → features (B, z, H/f, W/f).

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        self.feature_size((image.shape[-2], image.shape[-1]))
        features: Tensor = self.quant_conv(self.encoder(image.to(self.dtype)))
        return features

    @apply_forward_hook
    def quantize(self, features: Tensor) -> Quantized:
        """Features (B, z, h, w) → codes of every scale and the continuous target of the last one."""
        quantized: Quantized = self.quantizer.quantize(features)
        return quantized

    def decode_codes(self, codes: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Codes of every scale → image without residual, (B, 3, H, W) in [−1, 1], with φ at every scale.

        Args:
            codes: one tensor per scale, (B, h_k·w_k), row-major.
            size: height and width of the image in pixels; None for :attr:`image_size`.

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        return self.decode(self.quantizer.decode(codes, self.scales_for_image(size or self.image_size)[-1]))

    def forward(
        self, image: Tensor, discrete: bool = False, return_dict: bool = True
    ) -> TokenizerOutput | tuple[Tensor]:
        """Reconstruct an image.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            discrete: reconstruct the image from its codes only, instead of its unquantized features.
            return_dict: return a :class:`TokenizerOutput`, otherwise a tuple.
        """
        features = self.encode(image)
        sample = self.decode(self.quantize(features).f_hats[-1] if discrete else features)
        return TokenizerOutput(sample) if return_dict else (sample,)
