"""Linear classifier of things by edges, outline and shading; it uses no network.

Colours are excluded, because one thing occurs in several colours.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from openhart.evaluation.checker.crops import GROUND, SIDE
from openhart.evaluation.networks.gradients import DIRECTIONS, oriented_gradients

CELL = 4
FEATURES = DIRECTIONS * (SIDE // CELL) ** 2 + 2 * (SIDE // 2) ** 2 + (SIDE // CELL) ** 2
CONTRAST = 0.02
SHADING_FLOOR = 0.01
BATCH = 512


class ThingClassifier(nn.Module):
    """A linear classifier of crops.

    Args:
        things: names of the things; one more class means none of them, such as a part or several things.
    """

    def __init__(self, things: Sequence[str]) -> None:
        super().__init__()
        self.things = tuple(things)
        self.layer = nn.Linear(FEATURES, len(self.things) + 1)

    def probabilities(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, 32, 32, 3) → probability of each thing, (N, things); the rest to 1 means none."""
        with torch.no_grad():
            probabilities: Tensor = self.layer(shape_features(crops)).softmax(dim=1)
        return probabilities[:, :-1].numpy()


def shape_features(crops: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, 32, 32, 3) → (N, 1152): gradients, outline, shading inside it, and where it is colourful."""
    return torch.cat([_shape_features(part) for part in torch.from_numpy(crops).split(BATCH)])


def _shape_features(crops: Tensor) -> Tensor:
    pixels = crops.permute(0, 3, 1, 2).float() / 255
    mask = ((pixels - GROUND / 255).abs().amax(dim=1, keepdim=True) > CONTRAST).float()
    area = mask.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    lightness = pixels.mean(dim=1, keepdim=True)
    shading = (lightness - (lightness * mask).sum(dim=(2, 3), keepdim=True) / area) * mask
    spread = (shading.square().sum(dim=(2, 3), keepdim=True) / area + SHADING_FLOOR).sqrt()
    colourful = (pixels.amax(dim=1, keepdim=True) - pixels.amin(dim=1, keepdim=True)) * mask
    return torch.cat(
        [
            oriented_gradients(lightness, CELL),
            F.avg_pool2d(mask, 2).flatten(1) - 0.5,
            F.avg_pool2d(shading / spread, 2).flatten(1) / 2,
            F.avg_pool2d(colourful, CELL).flatten(1),
        ],
        dim=1,
    )
