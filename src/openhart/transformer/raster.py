"""The transformer that predicts one code after the other, in raster order (VQGAN, arXiv 2012.09841, 3.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from pydantic import Field
from torch import Tensor, nn

from openhart.checks import Below1, Count, Depth, Flag, Number, Width, checked
from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.scales import ScaleList, Scales, parse_scales
from openhart.transformer.attention import Attend, KVCache, attend_causal
from openhart.transformer.block import build_vit_block


@dataclass
class RasterTransformerOutput(BaseOutput):
    """Output of :class:`RasterTransformer`.

    Attributes:
        logits: (B, n, V), float32 scores of every code at the next place of each position that has one.
        hidden_states: (B, n, C), states after the last norm of the same positions.
    """

    logits: Tensor
    hidden_states: Tensor


class RasterTransformer(CheckedLoading, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts the codes of one map, row by row from left to right, from T context tokens before them.

    Position i attends to itself and to the positions before it. The last context position predicts the first
    code, and each code the one after it, so that p(codes) = Π p(codeᵢ | context, codes before i)
    (equation 8).
    The context is one vector of a class, the tokens of a text, or another map of codes, embedded by the same
    table as the codes (:meth:`embed`).

    Args:
        depth: number of blocks.
        width: C.
        num_heads: attention heads.
        scales: one entry: side or ``[height, width]`` of the code map.
        codebook_size: V.
        context_dim: D, channels of a context token.
        context_tokens: T, context positions.
        context_projection: map the context to C channels linearly; without it, D must be C.
        mlp_ratio: hidden width over outer width of the MLP.
        norm_eps: ε of the norms.
        dropout: probability with which an element of the embedded tokens, and of what attention and MLP add,
            is dropped in training mode.

    Raises:
        UserError: if the settings cannot be built.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _repeated_blocks = ("Block",)
    _group_offload_block_modules = ("context_embed", "code_embed", "norm", "head")

    @register_to_config
    @checked
    def __init__(
        self,
        depth: Depth = 24,
        width: Width = 1024,
        num_heads: Depth = 16,
        scales: ScaleList = (16,),
        codebook_size: Annotated[Count, Field(ge=2, le=2**24)] = 1024,
        context_dim: Width = 1024,
        context_tokens: Width = 1,
        context_projection: Flag = True,
        mlp_ratio: Annotated[Number, Field(gt=0, le=64)] = 4.0,
        norm_eps: Annotated[Number, Field(gt=0, le=1)] = 1e-5,
        dropout: Below1 = 0.0,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise UserError(f"width must be a multiple of num_heads ({num_heads}), got {width}")
        if round(width * mlp_ratio) < 1:
            raise UserError(f"mlp_ratio must give the MLP a channel, got {mlp_ratio} of width {width}")
        if not context_projection and context_dim != width:
            raise UserError(
                f"without context_projection, context_dim must be the width {width}, got {context_dim}"
            )
        self.scales = parse_scales(scales)
        if len(self.scales) != 1:
            raise UserError(f"scales of this transformer must have one entry, got {list(scales)}")
        self.gradient_checkpointing = False
        self.context_embed = nn.Linear(context_dim, width) if context_projection else nn.Identity()
        self.code_embed = nn.Embedding(codebook_size, width)
        self.position_embed = nn.Parameter(torch.zeros(self.max_positions, width))
        self.input_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            build_vit_block(width, num_heads, mlp_ratio, norm_eps, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.head = nn.Linear(width, codebook_size, bias=False)
        self._initialise()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the code map."""
        return self.scales[0]

    @property
    def max_positions(self) -> int:
        """Positions of a complete sequence: the context and all codes but the last."""
        height, width = self.size
        tokens: int = self.config.context_tokens
        return tokens + height * width - 1

    @apply_forward_hook
    def embed(self, codes: Tensor) -> Tensor:
        """Rows of the codes' table, (B, …) → (B, …, C), as context of a model conditioned on codes."""
        rows: Tensor = self.code_embed(codes)
        return rows

    def forward(
        self,
        codes: Tensor | None = None,
        context: Tensor | None = None,
        cache: KVCache | None = None,
        return_dict: bool = True,
    ) -> RasterTransformerOutput | tuple[Any, ...]:
        """Run codes, and the context before them.

        - ``model(codes, context)``: teacher forcing. ``codes`` are those of the places 0 … n − 1, usually all
          but the last; the output has the n + 1 positions that predict the places 0 … n.
        - ``model(codes, context, cache)`` with an empty cache: the same, and the cache is filled. The output
          has the last position only.
        - ``model(codes, cache=cache)``: one further code (B, 1), after everything in the cache.

        Args:
            codes: (B, n), in raster order; None for no code yet.
            context: (B, T, D).
            cache: from :meth:`allocate_cache`; the new positions are added.
            return_dict: return a :class:`RasterTransformerOutput`; else a tuple of its fields.

        Raises:
            UserError: if the context has another shape than the transformer was built for, or if there are
                more positions than it has.
        """
        start = 0 if cache is None else cache.length
        x = self._inputs(codes, context, start)
        x = self.input_dropout(x + self.position_embed[start : start + x.shape[1]])
        for index in range(len(self.blocks)):
            x = self._run_block(index, x, self._attention(index, x.shape[1], cache))
        if cache is not None:
            cache.advance(x.shape[1])
            x = x[:, -1:]
        else:
            x = x[:, self.config.context_tokens - 1 :]
        x = self.norm(x)
        output = RasterTransformerOutput(self.head(x).float(), x)
        return output if return_dict else output.to_tuple()

    def allocate_cache(self, batch: int, device: torch.device | None = None) -> KVCache:
        """Allocate a cache for the positions of some complete sequences, in the dtype of attention.

        Args:
            batch: number of sequences.
            device: of the cache; None for the transformer's.
        """
        heads, device, dtype = self.config.num_heads, device or self.device, self.dtype
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        shape = (len(self.blocks), 2, batch, heads, self.max_positions, self.config.width // heads)
        return KVCache(shape, self.scales, device, dtype)

    def check_scales(self, scales: Scales) -> Scales:
        """The scales, if the transformer can predict them in one sequence: only its own.

        Raises:
            UserError: if they differ.
        """
        if scales != self.scales:
            sizes = [f"{height}×{width}" for height, width in (self.size, scales[-1])]
            raise UserError(f"this transformer predicts maps of {sizes[0]} codes, got {sizes[1]}")
        return scales

    def _inputs(self, codes: Tensor | None, context: Tensor | None, start: int) -> Tensor:
        """Embedded context and codes, (B, n, C), of the positions from ``start`` on."""
        parts = []
        if context is not None:
            expected = (self.config.context_tokens, self.config.context_dim)
            if context.ndim != 3 or tuple(context.shape[1:]) != expected:
                raise UserError(
                    f"context must be (batch, {expected[0]}, {expected[1]}), got {tuple(context.shape)}"
                )
            parts.append(self.context_embed(context.to(self.dtype)))
        if codes is not None:
            parts.append(self.code_embed(codes))
        if bool(start) == (context is not None) or not parts:
            raise UserError("the context comes first and once: with an empty cache or without one")
        x = torch.cat(parts, dim=1)
        if start + x.shape[1] > self.max_positions:
            raise UserError(
                f"the transformer has {self.max_positions} positions, got {start + x.shape[1]}: "
                "the last code is not an input"
            )
        return x

    def _attention(self, block_index: int, positions: int, cache: KVCache | None) -> Attend:
        if cache is None:
            return attend_causal
        if positions == 1:
            return cache.attend(block_index)
        return cache.attend(block_index, attend_causal)

    def _run_block(self, index: int, x: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        block = self.blocks[index]
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            recomputed: Tensor = self._gradient_checkpointing_func(block, x, None, None, attend)
            return recomputed
        output: Tensor = block(x, None, None, attend)
        return output

    @torch.no_grad()
    def _initialise(self) -> None:
        """Normal weights of standard deviation 0.02 in linear maps and tables, zeros elsewhere (GPT-2).

        Positions must not start at zero: the empty condition is zero too, and the gradients of layer norms at
        zero grow beyond all bounds from block to block.
        """
        nn.init.normal_(self.position_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
