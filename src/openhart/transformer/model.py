"""The transformer that predicts each scale's codes from context and coarser scales (HART, 3.2)."""

from typing import Annotated, Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from pydantic import Field
from torch import Tensor, nn

from openhart.checks import Below1, Count, Depth, Flag, Number, Width, checked
from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.presets import PUBLISHED_SCALES
from openhart.scales import ScaleList, Scales, count_tokens, parse_scales
from openhart.sinusoids import SinusoidalEmbedding
from openhart.transformer import passes
from openhart.transformer.attention import KVCache
from openhart.transformer.block import build_block
from openhart.transformer.context import PreparedContext, ScaleContext
from openhart.transformer.initialise import initialise
from openhart.transformer.layers import RMSNorm, build_norm
from openhart.transformer.modulation import LinearModulation, build_modulations
from openhart.transformer.output import HartTransformerOutput
from openhart.transformer.prepare import prepare_context
from openhart.transformer.value_residual import START


class HartTransformer(CheckedLoading, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts the codes of each scale, all at once, from context tokens and coarser scales.

    The T context positions stand in place of scale 1; the last of them predicts scale 1's code. With
    ``norm="layer"``, ``mlp="gelu"``, ``positions="learned"``, ``levels="learned"``, one context token
    and ``context_projection=False`` this is VAR's transformer.

    Args:
        depth: number of blocks.
        width: C.
        num_heads: attention heads.
        scales: sides or ``[height, width]`` of the code maps; the first must be 1.
        codebook_size: V.
        code_dim: z.
        context_dim: D, channels of a context token.
        context_tokens: T, context positions.
        mlp_ratio: hidden width over outer width of the MLP, before SwiGLU's rounding.
        norm: ``rms`` or ``layer``.
        norm_eps: ε of the norms.
        mlp: ``swiglu`` or ``gelu``.
        modulation: ``table``, ``per_block``, ``shared`` or ``none``.
        pooling: how modulation pools the context, ``mean`` or ``max``.
        levels: ``sinusoidal`` or ``learned`` embedding of the scale's index.
        positions: ``rope`` or ``learned``.
        normalize_attention: cosine attention with a learned temperature per head.
        context_norm: RMSNorm on the context before anything else.
        context_projection: map the context to C channels linearly; without it, D must be C.
        value_residual: later blocks attend to a learned mixture of their values and the first block's.
        zero_outputs: initialise the last maps of attention, MLP and codes with zeros, so that blocks begin as
            the identity and all codes as equally likely.
        dropout: probability with which an element of what attention and MLP add is dropped in training mode.

    Raises:
        UserError: for settings that cannot be built.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _repeated_blocks = ("Block",)
    _group_offload_block_modules = (
        "context_rms", "context_embed", "word_embed", "level_embed", "shared_modulation", "head_norm",
        "head_modulation", "head", "residual_norm",
    )  # fmt: skip

    @register_to_config
    @checked
    def __init__(
        self,
        depth: Depth = 24,
        width: Width = 1536,
        num_heads: Depth = 24,
        scales: ScaleList = PUBLISHED_SCALES[1024],
        codebook_size: Annotated[Count, Field(ge=2, le=2**24)] = 4096,
        code_dim: Width = 32,
        context_dim: Width = 1536,
        context_tokens: Width = 300,
        mlp_ratio: Annotated[Number, Field(gt=0, le=64)] = 4.0,
        norm: Literal["rms", "layer"] = "rms",
        norm_eps: Annotated[Number, Field(gt=0, le=1)] = 1e-6,
        mlp: Literal["swiglu", "gelu"] = "swiglu",
        modulation: Literal["table", "per_block", "shared", "none"] = "table",
        pooling: Literal["mean", "max"] = "mean",
        levels: Literal["sinusoidal", "learned"] = "sinusoidal",
        positions: Literal["rope", "learned"] = "rope",
        normalize_attention: Flag = False,
        context_norm: Flag = True,
        context_projection: Flag = True,
        value_residual: Flag = False,
        zero_outputs: Flag = False,
        dropout: Below1 = 0.0,
    ) -> None:
        super().__init__()
        step = 4 if positions == "rope" else 1
        if width % (num_heads * step):
            raise UserError(f"width must be a multiple of {step} times num_heads ({num_heads}), got {width}")
        if mlp == "gelu" and round(width * mlp_ratio) < 1:
            raise UserError(f"mlp_ratio must give the MLP a channel, got {mlp_ratio} of width {width}")
        if not context_projection and context_dim != width:
            raise UserError(
                f"without context_projection, context_dim must be the width {width}, got {context_dim}"
            )
        if value_residual and depth < 2:
            raise UserError(f"value_residual needs a second block: depth must be 2 or more, got {depth}")
        self.scales = parse_scales(scales)
        if self.scales[0] != (1, 1):
            raise UserError(f"the first scale must be 1×1, got {self.scales[0]}")
        self.gradient_checkpointing = False
        self.context_rms = RMSNorm(context_dim, eps=norm_eps) if context_norm else nn.Identity()
        self.context_embed = nn.Linear(context_dim, width) if context_projection else nn.Identity()
        self.word_embed = nn.Linear(code_dim, width)
        self.level_embed = (
            SinusoidalEmbedding(width) if levels == "sinusoidal" else nn.Embedding(len(self.scales), width)
        )
        learned = positions == "learned"
        length = context_tokens + count_tokens(self.scales) - 1
        self.position_embed = nn.Parameter(torch.zeros(length, width)) if learned else None
        self.blocks = nn.ModuleList(
            build_block(
                width, num_heads, mlp, mlp_ratio,
                build_norm(norm, width, norm_eps), normalize_attention, dropout,
            )
            for _ in range(depth)
        )  # fmt: skip
        self.value_shares = nn.Parameter(torch.full((depth - 1,), START)) if value_residual else None
        self.modulations = build_modulations(modulation, depth, width)
        self.shared_modulation = LinearModulation(width, 6) if modulation == "shared" else None
        self.head_norm = build_norm(norm, width, norm_eps)
        self.head_modulation = LinearModulation(width, 2)
        self.head = nn.Linear(width, codebook_size)
        self.residual_norm = (
            RMSNorm(width, eps=norm_eps) if norm == "rms" else nn.LayerNorm(width, eps=norm_eps)
        )
        initialise(self)

    def check_scales(self, scales: Scales | None) -> Scales:
        """Scales that the transformer can predict: its own if None, or as many of other sizes.

        Raises:
            UserError: another number of scales, or learned positions, which fit only their own scales.
        """
        if scales is None or scales == self.scales:
            return self.scales
        if self.position_embed is not None:
            raise UserError("a transformer with learned positions takes no other sizes: use positions: rope")
        if len(scales) != len(self.scales) or scales[0] != (1, 1):
            raise UserError(f"scales must be {len(self.scales)}, the first 1×1, got {scales}")
        return scales

    @apply_forward_hook
    def prepare(self, context: Tensor, mask: Tensor, scales: Scales | None = None) -> PreparedContext:
        """Compute what all scales derive from a context.

        Args:
            context: (B, T, D); or (B, 1, D), one token that stands at all T positions, with position 0.
            mask: (B, T) or (B, 1) bool, true at real positions. Attention does not mask the others; pooling
                by mean does.
            scales: of the code maps; None for the transformer's own.

        Raises:
            UserError: the context has another shape than the transformer was built for, or the transformer
                cannot predict the scales.
        """
        return prepare_context(self, context, mask, scales)

    def forward(
        self,
        scale_inputs: Tensor | None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        keep: Tensor | None = None,
        scales: Scales | None = None,
        empty: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        scale_context: ScaleContext | None = None,
        prepared: PreparedContext | None = None,
        observe: passes.Observe | None = None,
        return_dict: bool = True,
    ) -> HartTransformerOutput | tuple[Any, ...]:
        """Run all scales at once, or, with a cache, the context or one scale.

        Every pass through the blocks is a call of the module, so that hooks and compilation apply to it.

        - ``model(scale_inputs, context, mask, keep, scales)``, or with ``prepared`` in place of context and
          mask: all scales under teacher forcing; each position attends to its own scale and to coarser ones.
          The hidden states (B, L, C) are those of the last context position, then of scales 2 … K (the last
          one restricted to ``keep``).
        - ``model(None, context, mask, empty=…, cache=cache)``: prefill: run the context through all blocks
          and fill the key-value cache. The output has the hidden states of the last context position,
          (B, 1, C) or (2B, 1, C), its logits, and the :class:`PreparedContext`.
        - ``model(scale_input, cache=cache, scale_context=…)``: the next scale, with the context and all
          coarser scales in the cache. The output has hidden states (B, n, C) and logits (B, n, V).

        Args:
            scale_inputs: features accumulated so far at scales 2 … K, (B, Σ_{k≥2} h_k·w_k, z), or at one
                scale, (B, n, z).
            context: (B, T, D).
            mask: (B, T) bool, true at real positions.
            keep: (B, h_K·w_K) bool, tokens of the last scale to run, as many in each row; None for all.
            scales: of the code maps; None for the transformer's own.
            empty: context (1, 1, D) and mask (1, 1) of the empty condition, for guidance. All its positions
                are identical, so it is computed for one token and broadcast; its B samples follow the others.
            cache: of B sequences, or of 2B with ``empty``; new positions are added.
            scale_context: from :meth:`PreparedContext.at_scale`.
            prepared: from :meth:`prepare`, for all scales at once.
            observe: called with each block's index and its output, (B, T + L − 1, C), for all scales at once.
            return_dict: return a :class:`HartTransformerOutput`; else a tuple of its fields except None.

        Raises:
            UserError: as :meth:`prepare`.
        """
        if cache is not None and scale_context is not None:
            assert scale_inputs is not None
            output = passes.next_scale(self, scale_inputs, cache, scale_context)
        elif cache is not None:
            assert context is not None
            assert mask is not None
            output = passes.prefill(self, (context, mask), empty, cache)
        else:
            scales = self.check_scales(scales)
            if prepared is None:
                assert context is not None
                assert mask is not None
                prepared = prepare_context(self, context, mask, scales)
            assert scale_inputs is not None
            hidden = passes.all_scales(self, scale_inputs, prepared, keep, scales, observe)
            output = HartTransformerOutput(hidden)
        return output if return_dict else output.to_tuple()

    def run_block(self, index: int, x: Tensor, *conditions: Any) -> Tensor:
        """Call one block, (B, N, C) → (B, N, C), under gradient checkpointing where that is enabled."""
        block = self.blocks[index]
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            recomputed: Tensor = self._gradient_checkpointing_func(block, x, *conditions)
            return recomputed
        output: Tensor = block(x, *conditions)
        return output

    def allocate_cache(
        self, batch: int, scales: Scales | None = None, device: torch.device | None = None
    ) -> KVCache:
        """Allocate a cache for all positions of some sequences, in the dtype in which attention computes.

        Args:
            batch: number of sequences.
            scales: of the code maps; None for the transformer's own.
            device: of the cache; None for the transformer's.

        Raises:
            UserError: scales that the transformer cannot predict.
        """
        scales = self.check_scales(scales)
        heads, device, dtype = self.config.num_heads, device or self.device, self.dtype
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        positions = self.config.context_tokens + count_tokens(scales) - 1
        shape = (len(self.blocks), 2, batch, heads, positions, self.config.width // heads)
        return KVCache(shape, scales, device, dtype)

    @apply_forward_hook
    def logits(self, hidden: Tensor, context: PreparedContext | ScaleContext) -> Tensor:
        """Scores of every code, (B, N, C) → (B, N, V), in float32."""
        scale, shift = context.head[:, :, None].unbind(1)
        x = self.head_norm(hidden.float()).to(hidden.dtype) * (1 + scale) + shift
        scores: Tensor = self.head(x.to(scale.dtype)).float()
        return scores

    @apply_forward_hook
    def residual_condition(self, hidden: Tensor, code_embedding: Tensor) -> Tensor:
        """The condition of the residual head (HART, section 3.2).

        Args:
            hidden: (B, N, C), hidden states of the last scale.
            code_embedding: (B, N, z), the chosen codes' rows of the codebook.

        Returns:
            (B, N, C).
        """
        condition: Tensor = self.residual_norm(hidden + self.word_embed(code_embedding.to(hidden.dtype)))
        return condition
