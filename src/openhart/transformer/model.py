"""The transformer that predicts each scale's codes from context and coarser scales (HART, 3.2)."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from openhart.errors import UserError
from openhart.scales import Scales, count_tokens, parse_scales, split_by_scale
from openhart.sinusoids import SinusoidalEmbedding
from openhart.transformer.attention import (
    Attend,
    Attention,
    KVCache,
    Rotation,
    block_causal,
    context_angles,
    scale_angles,
)
from openhart.transformer.layers import (
    LinearModulation,
    OffsetModulation,
    RMSNorm,
    TableModulation,
    build_mlp,
    build_norm,
    modulate,
    pool_context,
)
from openhart.transformer.value_residual import START, ValueResidual

CHOICES = {
    "modulation": ("table", "per_block", "shared", "none"),
    "pooling": ("mean", "max"),
    "levels": ("sinusoidal", "learned"),
    "positions": ("rope", "learned"),
}

ADDING_TO_THE_STREAM = ("attention.proj.weight", "mlp.down.weight", "mlp.2.weight")

Observe = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Conditioning:
    """What a context means to every scale, worked out once.

    Attributes:
        tokens: (B, T, C), embedded context.
        modulations: a tensor a block, (B, 6, C), or None: gates, scales and shifts of both halves.
        head: (B, 2, C), scale and shift before the logits.
        levels: (K, C), embedding of each scale's index; the context's is the first.
        rotations: cosines and sines of the context, (B, 1, T, d), and of scales 2 … K,
            (B, 1, h_k·w_k, d); or None.
    """

    tokens: Tensor
    modulations: list[Tensor] | None
    head: Tensor
    levels: Tensor
    rotations: list[Rotation] | None

    def rows(self, count: int) -> "Conditioning":
        """The first ``count`` samples alone."""
        return Conditioning(
            self.tokens[:count],
            self.modulations and [part[:count] for part in self.modulations],
            self.head[:count],
            self.levels,
            self.rotations and [(cos[:count], sin[:count]) for cos, sin in self.rotations],
        )

    def beside(self, other: "Conditioning") -> "Conditioning":
        """These samples, then as many of another conditioning, which may be one sample and one token."""

        def join(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat([mine, theirs.expand_as(mine)])

        modulations, rotations = self.modulations, self.rotations
        if modulations is not None and other.modulations is not None:
            modulations = [join(*pair) for pair in zip(modulations, other.modulations, strict=True)]
        if rotations is not None and other.rotations is not None:
            pairs = zip(rotations, other.rotations, strict=True)
            rotations = [(join(mine[0], theirs[0]), join(mine[1], theirs[1])) for mine, theirs in pairs]
        tokens, head = join(self.tokens, other.tokens), join(self.head, other.head)
        return Conditioning(tokens, modulations, head, self.levels, rotations)


class Block(nn.Module):
    """Attention and MLP, each behind one shared norm and its part of the modulation.

    A modulation (B, 6, C) holds gate₁ gate₂ scale₁ scale₂ shift₁ shift₂. In training, dropout acts on what
    attention and MLP add.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp: str,
        mlp_ratio: float,
        norm: nn.Module,
        unit: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.attention = Attention(width, num_heads, unit)
        self.mlp = build_mlp(mlp, width, mlp_ratio)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None, attend: Attend
    ) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        q, k, v = self.before(x, modulation, rotation)
        return self.after(x, attend(q, k, v, self.attention.scale), modulation)

    def before(
        self, x: Tensor, modulation: Tensor | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, N, d) each; every token by itself."""
        return self.attention.heads(self._norm(x, modulation, 0), rotation)

    def after(self, x: Tensor, mixed: Tensor, modulation: Tensor | None) -> Tensor:
        """Take in what attention found, (B, H, N, d), then the MLP; every token by itself."""
        found = self.dropout(self.attention.merge(mixed))
        if modulation is None:
            x = x + found
            return x + self.dropout(self.mlp(self.norm(x)))
        x = x + modulation[:, 0, None] * found
        return x + modulation[:, 1, None] * self.dropout(self.mlp(self._norm(x, modulation, 1)))

    def _norm(self, x: Tensor, modulation: Tensor | None, half: int) -> Tensor:
        if modulation is None:
            return self.norm(x)
        return modulate(self.norm, x, modulation[:, 2 + half, None], modulation[:, 4 + half, None])


class HartTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
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
    def __init__(
        self,
        depth: int = 24,
        width: int = 1536,
        num_heads: int = 24,
        scales: Sequence[int | Sequence[int]] = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
        codebook_size: int = 4096,
        code_dim: int = 32,
        context_dim: int = 1536,
        context_tokens: int = 300,
        mlp_ratio: float = 4.0,
        norm: str = "rms",
        norm_eps: float = 1e-6,
        mlp: str = "swiglu",
        modulation: str = "table",
        pooling: str = "mean",
        levels: str = "sinusoidal",
        positions: str = "rope",
        normalize_attention: bool = False,
        context_norm: bool = True,
        context_projection: bool = True,
        value_residual: bool = False,
        zero_outputs: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        given = {
            "modulation": modulation, "pooling": pooling, "levels": levels, "positions": positions
        }  # fmt: skip
        _check_choices(given)
        _check_shape(depth, width, num_heads, context_tokens, positions)
        if not context_projection and context_dim != width:
            raise UserError(
                f"without context_projection, context_dim must be the width {width}, got {context_dim}"
            )
        _check_training(depth, value_residual, dropout)
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

    def at(self, scales: Scales) -> "HartTransformer":
        """The same transformer for another list of as many scales; weights are shared.

        Raises:
            UserError: learned positions or levels, which belong to their scales.
        """
        if scales == self.scales:
            return self
        if self.position_embed is not None:
            raise UserError("a transformer with learned positions takes no other sizes: use positions: rope")
        if len(scales) != len(self.scales) or scales[0] != (1, 1):
            raise UserError(f"scales must be {len(self.scales)}, the first 1×1, got {scales}")
        other = copy.copy(self)
        other.scales = scales
        return other

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

    def prepare(self, context: Tensor, mask: Tensor) -> Conditioning:
        """Work out once what every scale needs of a context.

        Args:
            context: (B, T, D); or (B, 1, D), a token that stands in all T places, at position 0.
            mask: (B, T) or (B, 1) bool, real positions. Attention does not mask the others; pooling does.

        Raises:
            UserError: the context has another shape than the transformer was built for.
        """
        expected = (self.config.context_tokens, self.config.context_dim)
        if context.ndim != 3 or context.shape[1] not in (1, expected[0]) or context.shape[2] != expected[1]:
            raise UserError(
                f"context must be (batch, {expected[0]}, {expected[1]}), got {tuple(context.shape)}"
            )
        tokens = self.context_embed(self.context_rms(context.to(self.word_embed.weight.dtype)))
        pooled = pool_context(tokens, mask, self.config.pooling)
        if self.shared_modulation is not None:
            pooled = self.shared_modulation(pooled)
        modulations = None
        if self.modulations is not None:
            modulations = [part(pooled) for part in self.modulations]
        levels = self.level_embed(torch.arange(len(self.scales), device=tokens.device))
        head = self.head_modulation(tokens.amax(dim=1))
        return Conditioning(tokens, modulations, head, levels, self._rotations(mask))

    def _rotations(self, mask: Tensor) -> list[Rotation] | None:
        if self.position_embed is not None:
            return None
        head_dim = self.config.width // self.config.num_heads
        ids = mask.cumsum(dim=1) - 1
        parts = [context_angles(ids, head_dim)]
        if len(self.scales) > 1:
            angles = scale_angles(self.scales[1:], ids[:, -1], head_dim)
            parts += split_by_scale(angles, self.scales[1:])
        return [(part[:, None].cos(), part[:, None].sin()) for part in parts]

    def forward(
        self,
        scale_inputs: Tensor,
        context: Tensor,
        mask: Tensor,
        keep: Tensor | None = None,
        observe: Observe | None = None,
    ) -> Tensor:
        """Hidden states of all scales at once, each position seeing its scale and coarser ones.

        Args:
            scale_inputs: (B, Σ_{k≥2} h_k·w_k, z), features so far at scales 2 … K.
            context: (B, T, D).
            mask: (B, T) bool.
            keep: (B, h_K·w_K) bool, tokens of the last scale that take part, as many in each row;
                None for all.
            observe: called with each block's index and what leaves it, (B, T + L − 1, C).

        Returns:
            (B, L, C): the last context position, then scales 2 … K (the last one thinned by ``keep``).
        """
        return self.forward_scales(scale_inputs, self.prepare(context, mask), keep, observe)

    def forward_scales(
        self,
        scale_inputs: Tensor,
        conditioning: Conditioning,
        keep: Tensor | None = None,
        observe: Observe | None = None,
    ) -> Tensor:
        """As :meth:`forward`, of a context that :meth:`prepare` has seen."""
        x, lengths = self._inputs(scale_inputs, conditioning)
        rotation = None if conditioning.rotations is None else _join_rotations(conditioning.rotations)
        if keep is not None:
            stay = torch.cat([keep.new_ones(len(x), x.shape[1] - keep.shape[1]), keep], dim=1)
            x = x[stay].unflatten(0, (len(x), -1))
            if rotation is not None:
                rotation = (_keep_positions(rotation[0], stay), _keep_positions(rotation[1], stay))
            lengths[-1] = x.shape[1] - sum(lengths[:-1])
        attend = block_causal(lengths, x.device)
        x = self._through_blocks(x, conditioning, rotation, lambda _: attend, observe)
        return x[:, self.config.context_tokens - 1 :]

    def _through_blocks(
        self,
        x: Tensor,
        conditioning: Conditioning,
        rotation: Rotation | None,
        attend: Callable[[int], Attend],
        observe: Observe | None = None,
    ) -> Tensor:
        """Run all blocks, (B, N, C) → (B, N, C); ``attend`` gives each block's attention."""
        values = None if self.value_shares is None else ValueResidual(self.value_shares)
        for index, block in enumerate(self.blocks):
            modulation = conditioning.modulations and conditioning.modulations[index]
            seen = attend(index) if values is None else values.around(index, attend(index))
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, modulation, rotation, seen)
            else:
                x = block(x, modulation, rotation, seen)
            if observe is not None:
                observe(index, x)
        return x

    def _inputs(self, scale_inputs: Tensor, conditioning: Conditioning) -> tuple[Tensor, list[int]]:
        lengths = [self.config.context_tokens, *(h * w for h, w in self.scales[1:])]
        words = self.word_embed(scale_inputs.to(self.word_embed.weight.dtype))
        repeats = torch.tensor(lengths, device=words.device)
        x = torch.cat([conditioning.tokens, words.to(conditioning.tokens.dtype)], dim=1)
        x = x + conditioning.levels.repeat_interleave(repeats, dim=0, output_size=sum(lengths))
        if self.position_embed is not None:
            x = x + self.position_embed
        return x, lengths

    def allocate_cache(self, batch: int) -> KVCache:
        """A cache for all positions of ``batch`` sequences, in the weights' dtype and place."""
        heads = self.config.num_heads
        positions = self.config.context_tokens + count_tokens(self.scales) - 1
        shape = (len(self.blocks), 2, batch, heads, positions, self.config.width // heads)
        weight = self.word_embed.weight
        return KVCache(shape, weight.device, weight.dtype)

    def forward_context(
        self, conditioning: Conditioning, cache: KVCache, empty: Conditioning | None = None
    ) -> Tensor:
        """Let contexts be seen.

        Args:
            conditioning: of B samples.
            cache: of as many sequences, or of twice as many with ``empty``.
            empty: of the empty context, (1, 1, D), alike for all samples and in all places: what it
                means is worked out for one token, and kept in the cache for each.

        Returns:
            hidden states of the last position, (B, 1, C) or (2B, 1, C).
        """
        batch = len(conditioning.tokens)
        if empty is not None and self.config.context_tokens == 1:  # one pass reads the weights once
            conditioning, empty, batch = conditioning.beside(empty), None, 2 * batch
        last = self._see_context(conditioning, cache, slice(0, batch))
        if empty is not None:
            nothing = self._see_context(empty, cache, slice(batch, 2 * batch))
            last = torch.cat([last, nothing.expand_as(last)])
        cache.advance(self.config.context_tokens)
        return last

    def _see_context(self, conditioning: Conditioning, cache: KVCache, rows: slice) -> Tensor:
        positions = self.config.context_tokens
        x = conditioning.tokens + conditioning.levels[0]
        if self.position_embed is not None:
            x = x + self.position_embed[:positions]
        rotation = None if conditioning.rotations is None else conditioning.rotations[0]

        def attend(index: int) -> Attend:
            return cache.attend_context(index, rows, positions)

        return self._through_blocks(x, conditioning, rotation, attend)[:, -1:]

    def forward_scale(
        self,
        scale_index: int,
        scale_input: Tensor,
        conditioning: Conditioning,
        cache: KVCache,
        places: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of one scale, the context and coarser scales being in the cache.

        Args:
            scale_index: k, from 1; the context stands in place of scale 0.
            scale_input: (B, n, z), features so far at this scale.
            conditioning: what :meth:`prepare` made of the context.
            cache: holds what was seen; the new positions are added.
            places: (B, n), which of the scale's tokens these are; None for all.

        Returns:
            (B, n, C).
        """
        x = self.word_embed(scale_input.to(self.word_embed.weight.dtype)) + conditioning.levels[scale_index]
        rotation = None if conditioning.rotations is None else conditioning.rotations[scale_index]
        if rotation is not None and places is not None:
            rotation = (_take_places(rotation[0], places), _take_places(rotation[1], places))
        if self.position_embed is not None:
            start, count = self._scale_start(scale_index), math.prod(self.scales[scale_index])
            embedded = self.position_embed[start : start + count]
            x = x + (embedded if places is None else embedded[places])
        x = self._through_blocks(x, conditioning, rotation, cache.attend)
        cache.advance(x.shape[1])
        return x

    def _scale_start(self, scale_index: int) -> int:
        """Position of a scale's first token among context and scales 2 … K."""
        return self.config.context_tokens + sum(h * w for h, w in self.scales[1:scale_index])

    def logits(self, hidden: Tensor, conditioning: Conditioning) -> Tensor:
        """Scores of every code, (B, N, C) → (B, N, V), in float32."""
        scale, shift = conditioning.head[:, :, None].unbind(1)
        x = self.head_norm(hidden.float()).to(hidden.dtype) * (1 + scale) + shift
        return self.head(x.to(self.head.weight.dtype)).float()

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


def _take_places(part: Tensor, places: Tensor) -> Tensor:
    """Cosines or sines (B, 1, N, d) of the places (B, n), (B, 1, n, d)."""
    return part.expand(len(places), -1, -1, -1).take_along_dim(places[:, None, :, None], dim=2)


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


def _check_choices(given: dict[str, str]) -> None:
    for name, value in given.items():
        if value not in CHOICES[name]:
            raise UserError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}")


def _check_shape(depth: int, width: int, num_heads: int, context_tokens: int, positions: str) -> None:
    if min(depth, width, num_heads, context_tokens) < 1:
        raise UserError("depth, width, num_heads and context_tokens must be positive")
    step = 4 if positions == "rope" else 1
    if width % (num_heads * step):
        raise UserError(f"width must be a multiple of {step} times num_heads ({num_heads}), got {width}")


def _check_training(depth: int, value_residual: bool, dropout: float) -> None:
    if value_residual and depth < 2:
        raise UserError(f"value_residual needs a block after the first: depth must be 2 or more, got {depth}")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout must lie in [0, 1), got {dropout}")
