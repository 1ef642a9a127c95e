"""Networks that predict the noise in the residual, told by the transformer what each token is."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from openhart.checks import Depth, Positive, Width, checked
from openhart.errors import UserError
from openhart.loading import CheckedLoading
from openhart.sinusoids import SinusoidalEmbedding

NEIGHBOURHOOD = 5


class TokenBlock(nn.Module):
    """MLP behind AdaLN, (B, N, W) → (B, N, W); the block of MAR's head (arXiv 2406.11838, section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, told: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, W) and what is known of each token, (B, N, W) → (B, N, W)."""
        shift, scale, gate = self.modulation(F.silu(told)).chunk(3, dim=-1)
        h = self.norm(x) * (1 + scale) + shift
        return x + gate * self.second(F.silu(self.first(h)))


class WideBlock(TokenBlock):
    """A :class:`TokenBlock` that first looks at neighbouring tokens of the map.

    The depthwise convolution starts at zero, so that the block begins as the per-token one.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.neighbours = nn.Conv2d(width, width, NEIGHBOURHOOD, padding=NEIGHBOURHOOD // 2, groups=width)

    def forward(self, x: Tensor, told: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, W), row-major on a map of ``size`` → (B, N, W).

        Raises:
            UserError: the tokens do not fill the map.
        """
        if x.shape[1] != size[0] * size[1]:
            raise UserError(
                f"the wide head needs all {size[0] * size[1]} tokens of the map, got {x.shape[1]}"
            )
        places = (self.norm(x) + told).transpose(1, 2).unflatten(2, size)
        return super().forward(x + self.neighbours(places).flatten(2).transpose(1, 2), told, size)


class TokenResidualHead(CheckedLoading, ModelMixin, ConfigMixin):
    """HART's residual network: an MLP that sees one token at a time (HART, section 3.2).

    Args:
        code_dim: channels z of the residual.
        condition_dim: channels C of what the transformer says of a token.
        width: W.
        depth: number of blocks.
        residual_scale: residuals are divided by it before diffusion, and sampled ones multiplied; one number,
            or one for each channel.
        limit: largest magnitude of a sampled residual in these units; the sampler clamps there.
    """

    block = TokenBlock
    _supports_gradient_checkpointing = False

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
        """Largest magnitude of a sampled residual, in the head's units."""
        return self.config.limit

    def to_units(self, residual: Tensor) -> Tensor:
        """Residual (B, N, z) in the features' units → what diffusion works on."""
        return residual / self._scale(residual)

    def from_units(self, x: Tensor) -> Tensor:
        """What diffusion works on, (B, N, z) → residual in the features' units."""
        return x * self._scale(x)

    def _scale(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.residual_scale, dtype=like.dtype, device=like.device)

    @apply_forward_hook
    def embed_condition(self, condition: Tensor) -> Tensor:
        """What the transformer says of each token, once for all steps: (B, N, C) → (B, N, W)."""
        return self.condition(condition.to(self.condition.weight.dtype))

    def forward(self, x: Tensor, t: Tensor, embedded: Tensor, size: tuple[int, int]) -> Tensor:
        """Predict noise and variance.

        Args:
            x: noisy residual, (B, N, z).
            t: steps of the training schedule, (B, N), or (B, 1) for one a sample.
            embedded: (B, N, W), from :meth:`embed_condition`.
            size: height and width of the map.

        Returns:
            noise and variance, (B, N, 2z).
        """
        told = embedded + self.time(t)
        x = self.input(x.to(self.input.weight.dtype))
        for block in self.blocks:
            x = block(x, told, size)
        shift, scale = self.final_modulation(F.silu(told)).chunk(2, dim=-1)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return self.output(x)


class WideResidualHead(TokenResidualHead):
    """The same interface, with blocks that also look at the tokens around each one.

    Neighbouring residuals of the per-token head cannot agree beyond what the transformer says of them.
    """

    block = WideBlock
