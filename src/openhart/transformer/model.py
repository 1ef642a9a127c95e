"""The transformer that predicts each scale's codes from context and coarser scales (HART, 3.2)."""

from collections.abc import Callable
from dataclasses import replace
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
from openhart.scales import ScaleList, Scales, count_tokens, parse_scales, split_by_scale
from openhart.sinusoids import SinusoidalEmbedding
from openhart.transformer.attention import (
    Attend,
    KVCache,
    Rotation,
    block_causal,
    context_angles,
    scale_angles,
)
from openhart.transformer.block import Block
from openhart.transformer.conditioning import Conditioning, ScaleConditioning
from openhart.transformer.layers import (
    LinearModulation,
    OffsetModulation,
    RMSNorm,
    TableModulation,
    build_norm,
    pool_context,
)
from openhart.transformer.value_residual import START, ValueResidual

ADDING_TO_THE_STREAM = ("attention.proj.weight", "mlp.down.weight", "mlp.2.weight")

Observe = Callable[[int, Tensor], None]


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
        mlp_ratio: hidden over outer width of the MLP, before SwiGLU's rounding.
        norm: ``rms`` or ``layer``.
        norm_eps: its ε.
        mlp: ``swiglu`` or ``gelu``.
        modulation: ``table``, ``per_block``, ``shared`` or ``none``.
        pooling: how modulation pools the context, ``mean`` or ``max``.
        levels: ``sinusoidal`` or ``learned`` embedding of the scale's index.
        positions: ``rope`` or ``learned``.
        normalize_attention: cosine attention with a learned temperature a head.
        context_norm: RMSNorm on the context before anything else.
        context_projection: map context to C linearly; otherwise D must be C.
        value_residual: later blocks attend to a learned mixture of their values and the first block's.
        zero_outputs: a new model starts with zeros in the last maps of attention, MLP and codes, so that
            blocks begin as the identity and all codes as equally likely.
        dropout: probability with which what attention and MLP add is left out in training, element by
            element; never in evaluation mode.

    Raises:
        UserError: for settings that cannot be built.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _repeated_blocks = ("Block",)

    @register_to_config
    @checked
    def __init__(
        self,
        depth: Depth = 24,
        width: Width = 1536,
        num_heads: Depth = 24,
        scales: ScaleList = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
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
            raise UserError(f"mlp_ratio must leave the MLP a channel, got {mlp_ratio} of width {width}")
        if not context_projection and context_dim != width:
            raise UserError(
                f"without context_projection, context_dim must be the width {width}, got {context_dim}"
            )
        if value_residual and depth < 2:
            raise UserError(
                f"value_residual needs a block after the first: depth must be 2 or more, got {depth}"
            )
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
        places = context_tokens + count_tokens(self.scales) - 1
        self.position_embed = nn.Parameter(torch.zeros(places, width)) if learned else None
        self.blocks = nn.ModuleList(
            Block(
                width, num_heads, mlp, mlp_ratio,
                build_norm(norm, width, norm_eps), normalize_attention, dropout,
            )
            for _ in range(depth)
        )  # fmt: skip
        self.value_shares = nn.Parameter(torch.full((depth - 1,), START)) if value_residual else None
        self.modulations = _build_modulations(modulation, depth, width)
        self.shared_modulation = LinearModulation(width, 6) if modulation == "shared" else None
        self.head_norm = build_norm(norm, width, norm_eps)
        self.head_modulation = LinearModulation(width, 2)
        self.head = nn.Linear(width, codebook_size)
        self.residual_norm = (
            RMSNorm(width, eps=norm_eps) if norm == "rms" else nn.LayerNorm(width, eps=norm_eps)
        )
        self._initialise(depth)

    def check_scales(self, scales: Scales | None) -> Scales:
        """Scales that the transformer can work on: its own if None, or as many of other sizes.

        Raises:
            UserError: another number of scales, or learned positions, which belong to their scales.
        """
        if scales is None or scales == self.scales:
            return self.scales
        if self.position_embed is not None:
            raise UserError("a transformer with learned positions takes no other sizes: use positions: rope")
        if len(scales) != len(self.scales) or scales[0] != (1, 1):
            raise UserError(f"scales must be {len(self.scales)}, the first 1×1, got {scales}")
        return scales

    def _initialise(self, depth: int) -> None:
        """Small linear maps, smaller still where they add to the stream; open gates in tables."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(ADDING_TO_THE_STREAM):
                nn.init.trunc_normal_(parameter, std=0.02 / (2 * depth) ** 0.5)
                if self.config.zero_outputs:
                    nn.init.zeros_(parameter)
        if self.config.zero_outputs:
            nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, LinearModulation):
                    module.linear.weight.zero_()
            for modulation in self.modulations or []:
                if isinstance(modulation, TableModulation):
                    modulation.table[:2] = 1.0
                elif isinstance(modulation, OffsetModulation):
                    modulation.offset[:2] = 1.0
                elif isinstance(modulation, LinearModulation):
                    modulation.linear.bias[: 2 * self.config.width] = 1.0
        if self.position_embed is not None:
            nn.init.trunc_normal_(self.position_embed, std=0.02)

    def prepare(self, context: Tensor, mask: Tensor, scales: Scales | None = None) -> Conditioning:
        """Compute what all scales derive from a context.

        Args:
            context: (B, T, D); or (B, 1, D), a token that stands in all T places, at position 0.
            mask: (B, T) or (B, 1) bool, real positions. Attention does not mask the others; pooling does.
            scales: of the code maps; None for the transformer's own.

        Raises:
            UserError: the context has another shape than the transformer was built for, or it cannot take the
                scales.
        """
        expected = (self.config.context_tokens, self.config.context_dim)
        if context.ndim != 3 or context.shape[1] not in (1, expected[0]) or context.shape[2] != expected[1]:
            raise UserError(
                f"context must be (batch, {expected[0]}, {expected[1]}), got {tuple(context.shape)}"
            )
        scales = self.check_scales(scales)
        tokens = self.context_embed(self.context_rms(context.to(self.word_embed.weight.dtype)))
        pooled = pool_context(tokens, mask, self.config.pooling)
        if self.shared_modulation is not None:
            pooled = self.shared_modulation(pooled)
        modulations = None
        if self.modulations is not None:
            modulations = [part(pooled) for part in self.modulations]
        levels = self.level_embed(torch.arange(len(scales), device=tokens.device))
        head = self.head_modulation(tokens.amax(dim=1))
        return Conditioning(tokens, modulations, head, levels, self._rotations(mask, scales))

    def _rotations(self, mask: Tensor, scales: Scales) -> list[Rotation] | None:
        if self.position_embed is not None:
            return None
        head_dim = self.config.width // self.config.num_heads
        ids = mask.cumsum(dim=1) - 1
        parts = [context_angles(ids, head_dim)]
        if len(scales) > 1:
            angles = scale_angles(scales[1:], ids[:, -1], head_dim)
            parts += split_by_scale(angles, scales[1:])
        return [(part[:, None].cos(), part[:, None].sin()) for part in parts]

    def forward(
        self,
        scale_inputs: Tensor | None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        keep: Tensor | None = None,
        scales: Scales | None = None,
        empty: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        given: ScaleConditioning | None = None,
        conditioning: Conditioning | None = None,
        observe: Observe | None = None,
    ) -> Any:
        """All scales at once, or, with a cache, the context or one scale.

        Every pass of the transformer is a call of the module, so that hooks and compilation take hold of it.

        - ``model(scale_inputs, context, mask, keep, scales)``, or ``conditioning=…`` in place of context and
          mask: all scales under teacher forcing, each
          position seeing its scale and coarser ones → hidden states (B, L, C): the last context position,
          then scales 2 … K (the last one thinned by ``keep``).
        - ``model(None, context, mask, empty=…, cache=cache)``: the contexts, whose keys and values enter the
          cache → hidden states of the last position, (B, 1, C) or (2B, 1, C), its logits, and the
          :class:`Conditioning`.
        - ``model(scale_input, cache=cache, given=…)``: the next scale, the context and coarser scales being
          in the cache → hidden states (B, n, C) and logits (B, n, V).

        Args:
            scale_inputs: features so far at scales 2 … K, (B, Σ_{k≥2} h_k·w_k, z), or at one, (B, n, z).
            context: (B, T, D).
            mask: (B, T) bool.
            keep: (B, h_K·w_K) bool, tokens of the last scale that take part, as many in each row; None for
                all.
            scales: of the code maps; None for the transformer's own.
            empty: context (1, 1, D) and mask (1, 1) of the empty condition, for guidance: all its positions
                are identical, so it is computed for one token and broadcast. Its B samples follow the others.
            cache: of B sequences, or of 2B with ``empty``; new positions are added.
            given: what :meth:`Conditioning.at_scale` says of the scale's tokens.
            conditioning: what :meth:`prepare` derived from the context, for all scales at once.
            observe: called with each block's index and its output, (B, T + L − 1, C), for all scales at once.
        """
        if cache is not None and given is not None:
            assert scale_inputs is not None
            return self._next_scale(scale_inputs, cache, given)
        scales = self.check_scales(scales)
        if conditioning is None:
            assert context is not None
            assert mask is not None
            if cache is not None:
                return self._prefill((context, mask), empty, cache)
            conditioning = self.prepare(context, mask, scales)
        assert scale_inputs is not None
        return self._all_scales(scale_inputs, conditioning, keep, scales, observe)

    def _all_scales(
        self,
        scale_inputs: Tensor,
        conditioning: Conditioning,
        keep: Tensor | None,
        scales: Scales,
        observe: Observe | None,
    ) -> Tensor:
        x, lengths = self._inputs(scale_inputs, conditioning, scales)
        rotation = None if conditioning.rotations is None else _join_rotations(conditioning.rotations)
        if keep is not None:
            stay = torch.cat([keep.new_ones(len(x), x.shape[1] - keep.shape[1]), keep], dim=1)
            x = x[stay].unflatten(0, (len(x), -1))
            if rotation is not None:
                rotation = (_keep_positions(rotation[0], stay), _keep_positions(rotation[1], stay))
            lengths[-1] = x.shape[1] - sum(lengths[:-1])
        attend = block_causal(lengths, x.device)
        x = self._through_blocks(x, conditioning.modulations, rotation, lambda _: attend, observe)
        return x[:, self.config.context_tokens - 1 :]

    def _through_blocks(
        self,
        x: Tensor,
        modulations: list[Tensor] | None,
        rotation: Rotation | None,
        attend: Callable[[int], Attend],
        observe: Observe | None = None,
    ) -> Tensor:
        """Run all blocks, (B, N, C) → (B, N, C); ``attend`` gives each block's attention."""
        values = None if self.value_shares is None else ValueResidual(self.value_shares)
        for index, block in enumerate(self.blocks):
            modulation = modulations and modulations[index]
            seen = attend(index) if values is None else values.around(index, attend(index))
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, modulation, rotation, seen)
            else:
                x = block(x, modulation, rotation, seen)
            if observe is not None:
                observe(index, x)
        return x

    def _inputs(
        self, scale_inputs: Tensor, conditioning: Conditioning, scales: Scales
    ) -> tuple[Tensor, list[int]]:
        lengths = [self.config.context_tokens, *(h * w for h, w in scales[1:])]
        words = self.word_embed(scale_inputs.to(self.word_embed.weight.dtype))
        repeats = torch.tensor(lengths, device=words.device)
        x = torch.cat([conditioning.tokens, words.to(conditioning.tokens.dtype)], dim=1)
        x = x + conditioning.levels.repeat_interleave(repeats, dim=0, output_size=sum(lengths))
        if self.position_embed is not None:
            x = x + self.position_embed
        return x, lengths

    def allocate_cache(
        self, batch: int, scales: Scales | None = None, device: torch.device | None = None
    ) -> KVCache:
        """A cache for all positions of some sequences, in the dtype in which attention works.

        Args:
            batch: sequences.
            scales: of the code maps; None for the transformer's own.
            device: where it lives; None for where the weights are.

        Raises:
            UserError: scales that the transformer cannot take.
        """
        scales = self.check_scales(scales)
        weight, heads = self.word_embed.weight, self.config.num_heads
        device, dtype = device or weight.device, weight.dtype
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        positions = self.config.context_tokens + count_tokens(scales) - 1
        shape = (len(self.blocks), 2, batch, heads, positions, self.config.width // heads)
        return KVCache(shape, scales, device, dtype)

    def _prefill(
        self, context: tuple[Tensor, Tensor], empty: tuple[Tensor, Tensor] | None, cache: KVCache
    ) -> tuple[Tensor, Tensor, Conditioning]:
        """Run the contexts through all blocks and fill the cache with their keys and values."""
        batch = len(context[0])
        conditioning = self._with_positions(self.prepare(*context, cache.scales))
        if empty is None:
            last = self._see_context(conditioning, cache, slice(0, batch))
        else:
            nothing = self._with_positions(self.prepare(*empty, cache.scales))
            both = conditioning.beside(nothing)
            if self.config.context_tokens == 1:  # one pass reads the weights once
                last = self._see_context(both, cache, slice(0, 2 * batch))
            else:
                last = self._see_context(conditioning, cache, slice(0, batch))
                other = self._see_context(nothing, cache, slice(batch, 2 * batch))
                last = torch.cat([last, other.expand_as(last)])
            conditioning = both
        cache.advance(self.config.context_tokens)
        return last, self.logits(last, conditioning), conditioning

    def _with_positions(self, conditioning: Conditioning) -> Conditioning:
        if self.position_embed is None:
            return conditioning
        lengths = [self.config.context_tokens, *(h * w for h, w in self.scales[1:])]
        return replace(conditioning, positions=list(self.position_embed.split(lengths)))

    def _see_context(self, conditioning: Conditioning, cache: KVCache, rows: slice) -> Tensor:
        given = conditioning.at_scale(0, len(conditioning.tokens))
        x = conditioning.tokens + given.level
        if given.position is not None:
            x = x + given.position

        def attend(index: int) -> Attend:
            return cache.attend_context(index, rows, self.config.context_tokens)

        return self._through_blocks(x, given.modulations, given.rotation, attend)[:, -1:]

    def _next_scale(
        self, scale_input: Tensor, cache: KVCache, given: ScaleConditioning
    ) -> tuple[Tensor, Tensor]:
        x = self.word_embed(scale_input.to(self.word_embed.weight.dtype)) + given.level
        if given.position is not None:
            x = x + given.position
        x = self._through_blocks(x, given.modulations, given.rotation, cache.attend)
        cache.advance(x.shape[1])
        if given.base is not None and given.places is not None:
            x = given.base.scatter(1, given.places[..., None].expand_as(x), x)
        return x, self.logits(x, given)

    @apply_forward_hook
    def logits(self, hidden: Tensor, conditioning: Conditioning | ScaleConditioning) -> Tensor:
        """Scores of every code, (B, N, C) → (B, N, V), in float32."""
        scale, shift = conditioning.head[:, :, None].unbind(1)
        x = self.head_norm(hidden.float()).to(hidden.dtype) * (1 + scale) + shift
        return self.head(x.to(self.head.weight.dtype)).float()

    @apply_forward_hook
    def residual_condition(self, hidden: Tensor, code_embedding: Tensor) -> Tensor:
        """What the residual head is told of each token (HART, section 3.2).

        Args:
            hidden: (B, N, C), last-scale hidden states.
            code_embedding: (B, N, z), the chosen codes' rows of the codebook.

        Returns:
            (B, N, C).
        """
        words = self.word_embed(code_embedding.to(self.word_embed.weight.dtype))
        return self.residual_norm(hidden + words)


def _join_rotations(rotations: list[Rotation]) -> Rotation:
    cos, sin = zip(*rotations, strict=True)
    return torch.cat(cos, dim=2), torch.cat(sin, dim=2)


def _keep_positions(part: Tensor, stay: Tensor) -> Tensor:
    """Rows of cosines or sines (B, 1, N, d) that stay, (B, 1, n, d)."""
    return part[:, 0].expand(len(stay), -1, -1)[stay].unflatten(0, (len(stay), -1))[:, None]


def _build_modulations(kind: str, depth: int, width: int) -> nn.ModuleList | None:
    if kind == "none":
        return None
    if kind == "per_block":
        return nn.ModuleList(LinearModulation(width, 6) for _ in range(depth))
    part = TableModulation if kind == "table" else OffsetModulation
    return nn.ModuleList(part(width) for _ in range(depth))
