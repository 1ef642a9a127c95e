"""A small convolutional classifier of cut-out things, trained from nothing: no other network's features."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

WIDTHS = (20, 40, 80, 128)
BATCH = 256


class ThingClassifier(nn.Module):
    """Which of some things a crop shows, or none of them: a part, several things, or a smear.

    Args:
        things: names of the things; one more class stands for none.
    """

    def __init__(self, things: Sequence[str]) -> None:
        super().__init__()
        self.things = tuple(things)
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels * 2 * 2, len(self.things) + 1)
        )

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, 32, 32) in [−1, 1] → logits (B, things + 1), the last of none."""
        logits: Tensor = self.head(self.body(crops))
        return logits

    @torch.no_grad()
    def probabilities(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, 32, 32, 3) → probability of each thing, (N, things); the rest to 1 is none's."""
        self.eval()
        parts = [self(to_input(part)).softmax(dim=1) for part in torch.from_numpy(crops).split(BATCH)]
        return torch.cat(parts)[:, :-1].numpy()


def to_input(crops: Tensor) -> Tensor:
    """uint8 (N, S, S, 3) → (N, 3, S, S) in [−1, 1]."""
    return crops.permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Crops (N, 3, S, S) in [−1, 1], mirrored, shifted, scaled, in other hues, blurred and noisy by chance.

    Hues are turned because the same thing comes in several colours; what it is must not depend on them.
    """
    count = len(crops)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    scale, shift = uniform(0.85, 1.12), uniform(-0.12, 0.12, 2)
    mirror = 1 - 2 * (uniform(0, 1) < 0.5).float()
    tilt = uniform(-0.15, 0.15)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * mirror * tilt.cos(), scale * tilt.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = -scale * mirror * tilt.sin(), scale * tilt.cos()
    matrix[:, :, 2] = shift
    grid = F.affine_grid(matrix, list(crops.shape), align_corners=False)
    moved = F.grid_sample(crops - 0.2, grid, align_corners=False) + 0.2  # grey ground beyond the crop
    turned = torch.einsum(
        "nij,njhw->nihw", _hue_turns(uniform(-torch.pi, torch.pi) * (uniform(0, 1) < 0.5)), moved
    )
    lit = turned * uniform(0.85, 1.1, 1, 1, 1) + uniform(-0.08, 0.08, 1, 1, 1)
    soft = F.avg_pool2d(F.pad(lit, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mixed = torch.lerp(lit, soft, uniform(0, 1, 1, 1, 1))
    noise = torch.randn(mixed.shape, generator=generator) * uniform(0, 0.08, 1, 1, 1)
    return (mixed + noise).clamp(-1, 1)


def _hue_turns(angles: Tensor) -> Tensor:
    """Rotations about the grey axis by these angles: (N,) → (N, 3, 3)."""
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    third = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    return cos * torch.eye(3) + sin * cross + (1 - cos) * third
