"""A continuous image tokenizer: a VQGAN autoencoder whose bottleneck is normally distributed.

The bottleneck is that of a variational autoencoder (arXiv 1312.6114) with a small weight of the KL term
(latent diffusion, arXiv 2112.10752, section 3.1). MAR generates its latents (arXiv 2406.11838, section 4.1).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from pydantic import Field
from torch import Tensor, nn

from openhart.checks import Depth, Flag, Positive, Width, checked
from openhart.tokenizer.autoencoder import GROUPS, Decoder, Encoder
from openhart.tokenizer.base import ImageTokenizer, TokenizerOutput

MEAN = "mean of the latents"


class KLAutoencoder(ImageTokenizer, ModelMixin, ConfigMixin):
    """Encodes images as the mean and variance of latents, and decodes latents.

    The defaults are the autoencoder of the released MAR models (KL-16): down-sampling by 16, 16 channels, and
    attention at the coarsest level of the encoder only. Both sides attend in the middle.

    Args:
        in_channels: channels of the image.
        base_channels: width of the first convolution; a multiple of 32.
        channel_multipliers: width of each level, fine to coarse, in units of ``base_channels``;
            every level but the first halves the sides.
        encoder_blocks: residual blocks per level in the encoder.
        decoder_blocks: residual blocks per level in the decoder.
        patch_size: side of the pixel blocks that are folded into channels first; 1 for no folding.
        latent_channels: channels z of the latents.
        latent_scale: what sampled latents are multiplied by, so that their standard deviation is about 1.
        decoder_attention: attend over all positions at the decoder's coarsest level too.
        image_size: height and width in pixels of the images for which the model is trained.

    Raises:
        UserError: if a setting has the wrong type or range.
    """

    _group_offload_block_modules = ("encoder", "decoder", "quant_conv", "post_quant_conv")

    @register_to_config
    @checked
    def __init__(
        self,
        in_channels: Annotated[int, Field(ge=3, le=3)] = 3,
        base_channels: Annotated[Width, Field(multiple_of=GROUPS)] = 128,
        channel_multipliers: Annotated[Sequence[Depth], Field(min_length=1, max_length=12)] = (1, 1, 2, 2, 4),
        encoder_blocks: Depth = 2,
        decoder_blocks: Depth = 3,
        patch_size: Annotated[Depth, Field(le=64)] = 1,
        latent_channels: Width = 16,
        latent_scale: Positive = 0.2325,
        decoder_attention: Flag = False,
        image_size: Annotated[Sequence[Width], Field(min_length=2, max_length=2)] = (256, 256),
    ) -> None:
        super().__init__()
        coarsest = len(channel_multipliers) - 1
        shape = (in_channels, base_channels, channel_multipliers)
        attending = (coarsest,) if decoder_attention else ()
        moments = 2 * latent_channels
        self.encoder = Encoder(*shape, encoder_blocks, moments, patch_size, (coarsest,), True)
        self.decoder = Decoder(*shape, decoder_blocks, latent_channels, patch_size, attending, True)
        self.quant_conv = nn.Conv2d(moments, moments, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.downsample_factor: int = patch_size * 2**coarsest

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images for which the model is trained."""
        height, width = self.config.image_size
        return height, width

    def versions(self, image: Tensor) -> Mapping[str, Tensor]:
        """``mean of the latents``, (B, z, H/f, W/f), scaled.

        Args:
            image: (B, 3, H, W) in [−1, 1].

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        return {MEAN: self.scaled(self.encode(image).latent_dist.mean)}

    @apply_forward_hook
    def encode(self, image: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[Any]:
        """Image (B, 3, H, W) in [−1, 1] → the distribution of its unscaled latents (B, z, H/f, W/f).

        Args:
            image: both sides are multiples of the down-sampling factor f.
            return_dict: return diffusers' ``AutoencoderKLOutput``; else a tuple.

        Returns:
            ``latent_dist`` with ``mean``, ``logvar`` (between −30 and 20), ``sample(generator)`` and
            ``kl()``, the divergence from the standard normal distribution in nats per image, (B,).
            :meth:`scaled` turns a sample into latents.

        Raises:
            UserError: if a side is no multiple of the down-sampling factor.
        """
        self.feature_size((image.shape[-2], image.shape[-1]))
        moments: Tensor = self.quant_conv(self.encoder(image.to(self.dtype)))
        distribution = DiagonalGaussianDistribution(moments.float())
        return AutoencoderKLOutput(distribution) if return_dict else (distribution,)

    def scaled(self, sample: Tensor) -> Tensor:
        """A sample of :meth:`encode`, (B, z, h, w) → latents, of the same shape."""
        scale: float = self.config.latent_scale
        return sample * scale

    def decode_unclamped(self, features: Tensor) -> Tensor:
        """Latents (B, z, h, w) → image (B, 3, h·f, w·f), not limited to [−1, 1], for training losses."""
        scale: float = self.config.latent_scale
        image: Tensor = super().decode_unclamped(features / scale)
        return image

    def forward(self, image: Tensor, return_dict: bool = True) -> TokenizerOutput | tuple[Tensor]:
        """Reconstruct an image from the mean of its latents.

        Args:
            image: (B, 3, H, W) in [−1, 1].
            return_dict: return a :class:`TokenizerOutput`; else a tuple.
        """
        sample = self.decode(self.versions(image)[MEAN])
        return TokenizerOutput(sample) if return_dict else (sample,)
