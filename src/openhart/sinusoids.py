"""Embedding of numbers as vectors: sinusoids of geometric frequencies, then two linear maps.

The transformer embeds the index of a scale this way, and the residual head embeds its diffusion step.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SINUSOIDS = 256
PERIOD = 10_000.0


class SinusoidalEmbedding(nn.Module):
    """Sinusoidal embedding: cosines and sines → linear → SiLU → linear, (…) → (…, width).

    Args:
        width: size of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(SINUSOIDS, width)
        self.second = nn.Linear(width, width)

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """(…) → (…, width).

        Args:
            values: numbers to embed.
            dtype: dtype of the inputs of the linear maps; stored (quantized) weights may have another one.
        """
        half = SINUSOIDS // 2
        steps = torch.arange(half, dtype=torch.float32, device=values.device)
        angles = values.float()[..., None] * torch.exp(-math.log(PERIOD) * steps / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        embedding: Tensor = self.second(F.silu(self.first(waves.to(dtype))))
        return embedding
