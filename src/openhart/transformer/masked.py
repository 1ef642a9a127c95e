"""The masked encoder and decoder of MAR (arXiv 2406.11838, section 3.3, after MAE, arXiv 2111.06377)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from pydantic import Field
from torch import Tensor, nn

from openhart.checks import Below1, Depth, Flag, Number, Width, checked
from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.transformer.attention import Attend, attend_all
from openhart.transformer.block import build_vit_block


@dataclass
class MaskedTransformerOutput(BaseOutput):
    """Output of :class:`MaskedTransformer`.

    Attributes:
        hidden_states: (B, n, C), the condition of the diffusion head for each token asked for.
        encoded: (B, b + known tokens, C), states after the encoder.
    """

    hidden_states: Tensor
    encoded: Tensor = None  # type: ignore[assignment]  # accelerate rebuilds outputs from one dict


class MaskedTransformer(CheckedLoading, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Turns some known tokens and a condition into a condition for every token.

    The encoder sees b condition tokens and the known tokens, the decoder all tokens, with a learned token in
    place of each unknown one. Attention is never masked. Sizes of the released models (encoder and decoder
    have half of the blocks each): MAR-B width 768, 12 + 12 blocks, 12 heads; MAR-L 1024, 16 + 16, 16;
    MAR-H 1280, 20 + 20, 16.

    Args:
        encoder_depth: blocks of the encoder.
        decoder_depth: blocks of the decoder.
        width: C.
        num_heads: attention heads.
        size: height and width of the latents.
        latent_channels: channels z of the latents.
        patch_size: side p of the latents' blocks that are one token of c = z·p² channels.
        buffer_tokens: b, number of condition tokens in front of the others.
        context_dim: D, channels of a context token.
        context_tokens: T, tokens of the context: 1, which all condition tokens repeat, or b.
        context_projection: map the context to C channels linearly; without it, D must be C.
        mlp_ratio: hidden width over outer width of the MLP.
        norm_eps: ε of the norms.
        dropout: probability of dropping attention weights, hidden channels of the MLP, and elements of what
            attention and MLP add, in training mode.

    Raises:
        UserError: if the settings cannot be built.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _repeated_blocks = ("Block",)
    _group_offload_block_modules = (
        "context_embed", "token_embed", "token_norm", "encoder_norm", "decoder_embed", "decoder_norm",
    )  # fmt: skip

    @register_to_config
    @checked
    def __init__(
        self,
        encoder_depth: Depth = 12,
        decoder_depth: Depth = 12,
        width: Width = 768,
        num_heads: Depth = 12,
        size: Annotated[Sequence[Depth], Field(min_length=2, max_length=2)] = (16, 16),
        latent_channels: Width = 16,
        patch_size: Annotated[Depth, Field(le=64)] = 1,
        buffer_tokens: Width = 64,
        context_dim: Width = 768,
        context_tokens: Width = 1,
        context_projection: Flag = False,
        mlp_ratio: Annotated[Number, Field(gt=0, le=64)] = 4.0,
        norm_eps: Annotated[Number, Field(gt=0, le=1)] = 1e-6,
        dropout: Below1 = 0.1,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise UserError(f"width must be a multiple of num_heads ({num_heads}), got {width}")
        if any(side % patch_size for side in size):
            raise UserError(f"the sides of size must be multiples of patch_size ({patch_size}), got {size}")
        if context_tokens not in (1, buffer_tokens):
            raise UserError(
                f"context_tokens must be 1 or buffer_tokens ({buffer_tokens}), got {context_tokens}"
            )
        if not context_projection and context_dim != width:
            raise UserError(
                f"without context_projection, context_dim must be the width {width}, got {context_dim}"
            )
        self.gradient_checkpointing = False
        self.token_channels = latent_channels * patch_size**2
        self.num_tokens = (size[0] // patch_size) * (size[1] // patch_size)
        positions, norm = buffer_tokens + self.num_tokens, partial(nn.LayerNorm, width, eps=norm_eps)
        self.context_embed = nn.Linear(context_dim, width) if context_projection else nn.Identity()
        self.token_embed = nn.Linear(self.token_channels, width)
        self.encoder_positions = nn.Parameter(torch.zeros(positions, width))
        self.token_norm = norm()
        self.encoder_blocks = nn.ModuleList(
            build_vit_block(width, num_heads, mlp_ratio, norm_eps, dropout) for _ in range(encoder_depth)
        )
        self.encoder_norm = norm()
        self.decoder_embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder_positions = nn.Parameter(torch.zeros(positions, width))
        self.decoder_blocks = nn.ModuleList(
            build_vit_block(width, num_heads, mlp_ratio, norm_eps, dropout) for _ in range(decoder_depth)
        )
        self.decoder_norm = norm()
        self.output_positions = nn.Parameter(torch.zeros(self.num_tokens, width))
        self._initialise()

    def _initialise(self) -> None:
        """Xavier-uniform linear maps; the mask token and the tables normal, of deviation 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        tables = (self.encoder_positions, self.decoder_positions, self.output_positions)
        for table in (self.mask_token, *tables):
            nn.init.normal_(table, std=0.02)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.config.size
        return height, width

    def patchify(self, latents: Tensor) -> Tensor:
        """Latents (B, z, h, w) → tokens (B, L, c), row by row; a token's channels are z, row, column."""
        return F.pixel_unshuffle(latents, self.config.patch_size).flatten(2).transpose(1, 2)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`patchify`, (B, L, c) → (B, z, h, w)."""
        patch, (height, width) = self.config.patch_size, self.size
        grid = tokens.transpose(1, 2).unflatten(2, (height // patch, width // patch))
        return F.pixel_shuffle(grid, patch)

    def forward(
        self,
        tokens: Tensor,
        known: Tensor,
        context: Tensor,
        context_mask: Tensor,
        wanted: Tensor | None = None,
        return_dict: bool = True,
    ) -> MaskedTransformerOutput | tuple[Any, ...]:
        """Compute the condition of the diffusion head.

        Args:
            tokens: (B, L, c); those that are not known have no influence.
            known: places of the known tokens, (B, m), each once; m may be 0.
            context: (B, T, D), or (B, 1, D), one token that stands at all T positions.
            context_mask: (B, T) or (B, 1) bool; context tokens where it is false count as zeros.
            wanted: places (B, n) for which the condition is computed, which saves work in the last block;
                None for all L places.
            return_dict: return a :class:`MaskedTransformerOutput`; else a tuple.

        Raises:
            UserError: if the context has another shape than the transformer was built for.
        """
        encoded = self._encode(tokens, known, self._buffer(context, context_mask))
        output = MaskedTransformerOutput(self._decode(encoded, known, wanted), encoded)
        return output if return_dict else output.to_tuple()

    def _buffer(self, context: Tensor, mask: Tensor) -> Tensor:
        """The b condition tokens, (B, b, C)."""
        config = self.config
        if context.ndim != 3 or context.shape[1] not in (1, config.context_tokens):
            expected = (config.context_tokens, config.context_dim)
            raise UserError(
                f"context must be (batch, {expected[0]}, {expected[1]}), got {tuple(context.shape)}"
            )
        embedded: Tensor = self.context_embed((context * mask[..., None]).to(self.dtype))
        return embedded.expand(-1, config.buffer_tokens, -1)

    def _encode(self, tokens: Tensor, known: Tensor, buffer: Tensor) -> Tensor:
        """Condition tokens and known tokens, (B, b + m, C)."""
        count = buffer.shape[1]
        visible = self.token_embed(_take(tokens, known).to(self.dtype))
        positions = self.encoder_positions
        x = torch.cat([buffer + positions[:count], visible + positions[count:][known]], dim=1)
        x, attend = self.token_norm(x), self._attend()
        for block in self.encoder_blocks:
            x = self._run(block, x, attend)
        encoded: Tensor = self.encoder_norm(x)
        return encoded

    def _decode(self, encoded: Tensor, known: Tensor, wanted: Tensor | None) -> Tensor:
        """Conditions of the wanted tokens, (B, n, C)."""
        count = self.config.buffer_tokens
        embedded = self.decoder_embed(encoded)
        places = self.mask_token.to(embedded.dtype).expand(len(embedded), self.num_tokens, -1)
        places = places.scatter(1, known[..., None].expand(-1, -1, embedded.shape[2]), embedded[:, count:])
        x = torch.cat([embedded[:, :count], places], dim=1) + self.decoder_positions
        attend = self._attend()
        *blocks, last = self.decoder_blocks
        for block in blocks:
            x = self._run(block, x, attend)
        if wanted is None:
            x = self._run(last, x, attend)[:, count:]
        else:
            x = last(x, None, None, attend, count + wanted)
        hidden: Tensor = self.decoder_norm(x)
        return hidden + (self.output_positions if wanted is None else self.output_positions[wanted])

    def _attend(self) -> Attend:
        if self.training and self.config.dropout:
            return partial(_attend_with_dropout, self.config.dropout)
        return attend_all

    def _run(self, block: nn.Module, x: Tensor, attend: Attend) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            recomputed: Tensor = self._gradient_checkpointing_func(block, x, None, None, attend)
            return recomputed
        output: Tensor = block(x, None, None, attend)
        return output


def places_of(mask: Tensor) -> Tensor:
    """Places where a mask (B, L) is true, as many in each row, (B, n), ascending."""
    places: Tensor = mask.nonzero()[:, 1].unflatten(0, (len(mask), -1))
    return places


def _take(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, L, c) at some places (B, n) → (B, n, c)."""
    return tokens.take_along_dim(places[..., None], dim=1)


def _attend_with_dropout(dropout: float, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
