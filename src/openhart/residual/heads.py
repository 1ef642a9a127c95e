"""Networks that predict the noise in the residual, conditioned on each token's hidden state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from openhart.checks import Depth, Flag, Positive, Width, checked
from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.sinusoids import SinusoidalEmbedding

NEIGHBOURHOOD = 5


@dataclass
class ResidualHeadOutput(BaseOutput):
    """Output of a residual head.

    Attributes:
        prediction: (B, N, 2z), the predicted noise (first z channels) and variance (last z channels).
    """

    prediction: Tensor


class StepConditions:
    """The conditions of tokens at some diffusion steps, and what the layers of a head have made of them.

    The part of a head that depends on the condition and the step alone is most of its work. A sampler that
    knows its steps has each layer compute it for several of them in one product, which reads the layer's
    weights once. The caller owns this object, and uses it for one set of conditions.

    Args:
        conditions: (S, B, N, W), of S steps.
    """

    def __init__(self, conditions: Tensor) -> None:
        self.conditions, self.active, self.step = conditions, F.silu(conditions), 0
        self.made: list[Tensor] = []

    @property
    def present(self) -> Tensor:
        """The conditions of the present step, (B, N, W)."""
        return self.conditions[self.step]

    def through(self, layer: nn.Module, slot: int) -> Tensor:
        """What a layer makes of the activated conditions of the present step, (B, N, W) → (B, N, …).

        Args:
            layer: the layer; it runs for all steps when it is first used.
            slot: the layer's index in the order of first use, from 0.
        """
        if slot == len(self.made):
            self.made.append(layer(self.active))
        return self.made[slot][self.step]


class TokenBlock(nn.Module):
    """MLP behind AdaLN, (B, N, W) → (B, N, W); the block of MAR's head (arXiv 2406.11838, section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, cond: StepConditions, slot: int, size: tuple[int, int]) -> Tensor:
        """Tokens (B, N, W) and their conditions → (B, N, W)."""
        return self.mix(x, cond, slot)

    def mix(self, x: Tensor, cond: StepConditions, slot: int) -> Tensor:
        """The gated MLP of each token by itself, (B, N, W) → (B, N, W)."""
        shift, scale, gate = cond.through(self.modulation, slot).chunk(3, dim=-1)
        h = self.norm(x) * (1 + scale) + shift
        mixed: Tensor = x + gate * self.second(F.silu(self.first(h)))
        return mixed


class WideBlock(TokenBlock):
    """A :class:`TokenBlock` that first adds a depthwise convolution over the map of tokens.

    The convolution starts at zero, so that a new block equals the per-token one.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.neighbours = nn.Conv2d(width, width, NEIGHBOURHOOD, padding=NEIGHBOURHOOD // 2, groups=width)

    def forward(self, x: Tensor, cond: StepConditions, slot: int, size: tuple[int, int]) -> Tensor:
        """(B, N, W), row-major on a map of ``size`` → (B, N, W).

        Raises:
            UserError: the tokens do not fill the map.
        """
        if x.shape[1] != size[0] * size[1]:
            raise UserError(
                f"the wide head needs all {size[0] * size[1]} tokens of the map, got {x.shape[1]}"
            )
        grid = (self.norm(x) + cond.present).transpose(1, 2).unflatten(2, size)
        return self.mix(x + self.neighbours(grid).flatten(2).transpose(1, 2), cond, slot)


class TokenResidualHead(CheckedLoading, ModelMixin, ConfigMixin):
    """HART's residual network: an MLP that processes each token by itself (HART, section 3.2).

    Args:
        code_dim: channels z of the residual.
        condition_dim: channels C of the transformer's hidden states.
        width: W.
        depth: number of blocks.
        residual_scale: residuals are divided by it before diffusion, and sampled ones multiplied by it; one
            number, or one per channel.
        limit: largest magnitude of a residual in these units.
        clamp: clamp what is sampled to ± ``limit``, as HART does; MAR does not.

    Raises:
        UserError: for settings that cannot be built.
    """

    block = TokenBlock
    _supports_gradient_checkpointing = False
    _no_split_modules = ("TokenBlock", "WideBlock")
    _repeated_blocks = ("TokenBlock", "WideBlock")
    _group_offload_block_modules = ("condition", "time")

    @register_to_config
    @checked
    def __init__(
        self,
        code_dim: Width = 32,
        condition_dim: Width = 1536,
        width: Width = 1024,
        depth: Depth = 6,
        residual_scale: Positive | Sequence[Positive] = 0.6,
        limit: Positive = 1.0,
        clamp: Flag = True,
    ) -> None:
        super().__init__()
        scales = [residual_scale] if isinstance(residual_scale, int | float) else residual_scale
        if len(scales) not in (1, code_dim):
            raise UserError(
                f"residual_scale must be one number or one for each of {code_dim} channels, got {len(scales)}"
            )
        self.input = nn.Linear(code_dim, width)
        self.time = SinusoidalEmbedding(width)
        self.condition = nn.Linear(condition_dim, width)
        self.blocks = nn.ModuleList(self.block(width) for _ in range(depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, 2 * code_dim)
        self._initialise()

    def _initialise(self) -> None:
        """Start as the identity (AdaLN-Zero, DiT, section 3.2), predicting no noise."""
        zeros: list[nn.Linear | nn.Conv2d] = [self.final_modulation, self.output]
        for module in self.modules():
            if isinstance(module, TokenBlock):
                zeros.append(module.modulation)
            if isinstance(module, WideBlock):
                zeros.append(module.neighbours)
        for layer in zeros:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def limit(self) -> float:
        """Largest magnitude of a residual, in the head's units."""
        return float(self.config.limit)

    @property
    def clamp(self) -> bool:
        """Whether a sampler clamps its estimates to this magnitude."""
        return bool(self.config.clamp)

    def to_units(self, residual: Tensor) -> Tensor:
        """Residual (B, N, z) in the features' units → the head's units, in which diffusion runs."""
        return residual / self._scale(residual)

    def from_units(self, x: Tensor) -> Tensor:
        """The head's units, (B, N, z) → residual in the features' units."""
        return x * self._scale(x)

    def _scale(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.residual_scale, dtype=like.dtype, device=like.device)

    @apply_forward_hook
    def embed_condition(self, condition: Tensor) -> Tensor:
        """Embed the transformer's condition once for all steps, (B, N, C) → (B, N, W)."""
        embedded: Tensor = self.condition(condition.to(self.dtype))
        return embedded

    @apply_forward_hook
    def at_steps(self, embedded: Tensor, timesteps: Tensor) -> StepConditions:
        """The conditions of tokens at several steps.

        Args:
            embedded: (B, N, W), from :meth:`embed_condition`.
            timesteps: steps of the training schedule, (S,).
        """
        return StepConditions(embedded + self.time(timesteps, embedded.dtype)[:, None, None])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        embedded: Tensor,
        size: tuple[int, int],
        return_dict: bool = True,
        conditions: StepConditions | None = None,
    ) -> ResidualHeadOutput | tuple[Any, ...]:
        """Predict noise and variance.

        Args:
            x: noisy residual, (B, N, z).
            t: steps of the training schedule, (B, N), or (B, 1) for one per sample.
            embedded: (B, N, W), from :meth:`embed_condition`.
            size: height and width of the map.
            return_dict: return a :class:`ResidualHeadOutput`; else a tuple.
            conditions: from :meth:`at_steps`, whose present step is t; None to compute those of t.
        """
        if conditions is None:
            conditions = StepConditions((embedded + self.time(t, embedded.dtype))[None])
        x = self.input(x.to(embedded.dtype))
        for slot, block in enumerate(self.blocks):
            x = block(x, conditions, slot, size)
        shift, scale = conditions.through(self.final_modulation, len(self.blocks)).chunk(2, dim=-1)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        output = ResidualHeadOutput(self.output(x))
        return output if return_dict else output.to_tuple()


class WideResidualHead(TokenResidualHead):
    """The same interface, with blocks that also process the tokens around each token.

    With the per-token head, neighbouring residuals are sampled independently given the hidden states.
    """

    block = WideBlock
