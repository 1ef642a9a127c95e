"""The hybrid image tokenizer: image ↔ features ↔ codes + residual (HART, section 3.1)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from pydantic import Field
from torch import Tensor, nn

from openhart.checks import Count, Depth, Flag, Share, Width, checked
from openhart.errors import UserError
from openhart.presets import PUBLISHED_SCALES
from openhart.scales import ScaleList
from openhart.tokenizer.autoencoder import GROUPS, Decoder, Encoder
from openhart.tokenizer.base import CODES, COMPLETE, CodeTokenizer
from openhart.tokenizer.quantizer import MultiScaleQuantizer, PhiRule


class HybridTokenizer(CodeTokenizer, ModelMixin, ConfigMixin):
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
        patch_size: side of the pixel blocks that are folded into channels first; 1 for no folding.
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
        UserError: if a setting has the wrong type or range, if the scales are invalid, or if ``quant_kernel``
            is even.
    """

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
        scales: ScaleList = PUBLISHED_SCALES[256],
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
        """As in diffusers. Configs saved before ``phi_at_last_scale`` existed get ``without_head``."""
        return super().from_config({"phi_at_last_scale": "without_head", **config}, *args, **kwargs)

    @property
    def hybrid(self) -> bool:
        """Whether a residual may complete the codes of the last scale."""
        return bool(self.config.hybrid)

    def versions(self, image: Tensor) -> Mapping[str, Tensor]:
        """``codes only`` and, of a hybrid tokenizer, ``complete features``; each (B, z, H/f, W/f).

        Args:
            image: (B, 3, H, W) in [−1, 1].

        Raises:
            UserError: if a side is not a multiple of the down-sampling factor.
        """
        features = self.encode(image)
        codes = {CODES: self.quantize(features).f_hats[-1]}
        return codes | {COMPLETE: features} if self.hybrid else codes
