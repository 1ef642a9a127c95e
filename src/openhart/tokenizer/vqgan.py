"""The image tokenizer of VQGAN (arXiv 2012.09841, section 3.1) and of VQ-VAE (arXiv 1711.00937)."""

from collections.abc import Sequence
from typing import Annotated, Literal

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from pydantic import Field
from torch import nn

from openhart.checks import Count, Depth, Flag, Natural, Width, checked
from openhart.errors import UserError
from openhart.scales import ScaleList, parse_scales
from openhart.tokenizer.autoencoder import GROUPS, Decoder, Encoder
from openhart.tokenizer.base import CodeTokenizer
from openhart.tokenizer.gumbel import GumbelQuantizer
from openhart.tokenizer.quantizer import MultiScaleQuantizer


class VqganTokenizer(CodeTokenizer, ModelMixin, ConfigMixin):
    """Encodes an image as one map of codes, and decodes code maps to images.

    Without attention the model is a VQ-VAE, which differs from VQGAN only in its losses.

    Args:
        in_channels: channels of the image; other than 3 for maps that serve as conditions, such as one
            channel per class of a segmentation.
        base_channels: width of the first convolution; a multiple of 32.
        channel_multipliers: width of each level, fine to coarse, in units of ``base_channels``;
            every level but the first halves the sides.
        encoder_blocks: residual blocks per level in the encoder.
        decoder_blocks: residual blocks per level in the decoder.
        patch_size: side of the pixel blocks that are folded into channels first; 1 for no folding.
        attention_levels: levels, counted from 0 at the finest, that attend over all positions after each of
            their residual blocks.
        middle_attention: attend between the two residual blocks beyond the coarsest level.
        feature_channels: channels of the encoder's output and the decoder's input.
        code_dim: channels z of the vectors of codes; a 1×1 convolution before and one after the quantizer
            convert between ``feature_channels`` and ``code_dim``.
        codebook_size: number of codes V.
        scales: one entry: side or ``[height, width]`` of the code map for which the model is configured.
        quantizer_kind: ``nearest`` chooses the nearest code in Euclidean distance; ``gumbel`` chooses the
            code with the highest of V linear scores.

    Raises:
        UserError: if a setting has the wrong type or range, if there is more than one scale, or if an
            attention level does not exist.
    """

    @register_to_config
    @checked
    def __init__(
        self,
        in_channels: Annotated[Depth, Field(le=1024)] = 3,
        base_channels: Annotated[Width, Field(multiple_of=GROUPS)] = 128,
        channel_multipliers: Annotated[Sequence[Depth], Field(min_length=1, max_length=12)] = (1, 1, 2, 2, 4),
        encoder_blocks: Depth = 2,
        decoder_blocks: Depth = 3,
        patch_size: Annotated[Depth, Field(le=64)] = 1,
        attention_levels: Annotated[Sequence[Natural], Field(max_length=12)] = (4,),
        middle_attention: Flag = True,
        feature_channels: Width = 256,
        code_dim: Width = 256,
        codebook_size: Annotated[Count, Field(ge=2, le=2**24)] = 1024,
        scales: ScaleList = (16,),
        quantizer_kind: Literal["nearest", "gumbel"] = "nearest",
    ) -> None:
        super().__init__()
        if len(parse_scales(scales)) != 1:
            raise UserError(f"scales of this tokenizer must have one entry, got {list(scales)}")
        if absent := [level for level in attention_levels if level >= len(channel_multipliers)]:
            levels = len(channel_multipliers)
            raise UserError(
                f"attention_levels must be among the {levels} levels 0 … {levels - 1}, got {absent}"
            )
        shape = (base_channels, channel_multipliers)
        attending = (attention_levels, middle_attention)
        self.encoder = Encoder(in_channels, *shape, encoder_blocks, feature_channels, patch_size, *attending)
        self.decoder = Decoder(in_channels, *shape, decoder_blocks, feature_channels, patch_size, *attending)
        if quantizer_kind == "gumbel":
            self.quantizer = GumbelQuantizer(scales, codebook_size, code_dim)
        else:
            self.quantizer = MultiScaleQuantizer(scales, codebook_size, code_dim, phi_ratio=0.0)
            nn.init.uniform_(self.quantizer.codebook.weight, -1 / codebook_size, 1 / codebook_size)
        self.quant_conv = nn.Conv2d(feature_channels, code_dim, 1)
        self.post_quant_conv = nn.Conv2d(code_dim, feature_channels, 1)
        self.downsample_factor = patch_size * 2 ** (len(channel_multipliers) - 1)
