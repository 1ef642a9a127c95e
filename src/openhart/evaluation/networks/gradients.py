"""Histograms of oriented gradients (Dalal and Triggs, 2005): features of shape without a network."""

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = 9
FLOOR = 0.01


def oriented_gradients(lightness: Tensor, cell: int) -> Tensor:
    """Edge strength per cell and direction, normalised by the strength in the neighbouring cells.

    Args:
        lightness: (B, 1, H, W) in [0, 1].
        cell: side of a cell in pixels; it divides H and W.

    Returns:
        (B, 9 · H / cell · W / cell); opposite directions count as one.
    """
    padded = F.pad(lightness, (1, 1, 1, 1), mode="replicate")
    x = padded[:, 0, 1:-1, 2:] - padded[:, 0, 1:-1, :-2]
    y = padded[:, 0, 2:, 1:-1] - padded[:, 0, :-2, 1:-1]
    position = torch.atan2(y, x) / torch.pi % 1 * DIRECTIONS
    first = position.floor().long() % DIRECTIONS
    share = (position - position.floor())[:, None]
    votes = F.one_hot(first, DIRECTIONS).movedim(-1, 1) * (1 - share)
    votes = votes + F.one_hot((first + 1) % DIRECTIONS, DIRECTIONS).movedim(-1, 1) * share
    cells = F.avg_pool2d(votes * torch.hypot(x, y)[:, None], cell)
    energy = F.avg_pool2d(cells.square().sum(dim=1, keepdim=True), 3, 1, 1)
    return (cells / (energy.sqrt() + FLOOR)).flatten(1)
