"""Improved precision and recall (arXiv 1904.06991), by the rules of two published programs.

A set's manifold is the union of balls around its points, each reaching to the third nearest other point.
Precision is the fraction of samples inside the manifold of the references; recall is the fraction of
references inside the manifold of the samples. The two sets may have different sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openhart.errors import UserError

NEIGHBOURS = 3
ROWS = 2500
Distances = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PrecisionRecall:
    """Fractions in [0, 1]."""

    precision: float
    recall: float


def precision_recall_guided_diffusion(
    reference: NDArray[np.floating], sample: NDArray[np.floating], neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """The rule of ADM's evaluator, on squared Euclidean distances.

    The published program computes distances in float16 unless one of a block overflows, and in float32 then;
    here they are always float32, so the results may differ by about 0.005 on Inception features.

    Args:
        reference: (N, D).
        sample: (M, D).
        neighbours: index of the nearest other point that defines the radius of a ball.

    Raises:
        UserError: a set has no more than ``neighbours`` points, or the features differ in length.
    """
    return _precision_recall(reference, sample, neighbours, _squared_distances)


def precision_recall_torch_fidelity(
    reference: NDArray[np.floating], sample: NDArray[np.floating], neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """The rule of torch-fidelity, on Euclidean distances; arguments as for ADM's rule."""
    return _precision_recall(reference, sample, neighbours, torch.cdist)


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    own, other = first.square().sum(dim=1)[:, None], second.square().sum(dim=1)[None]
    return torch.addmm(own, first, second.T, alpha=-2).add_(other).clamp_min_(0)


def _precision_recall(
    reference: NDArray[np.floating], sample: NDArray[np.floating], neighbours: int, distances: Distances
) -> PrecisionRecall:
    if min(len(reference), len(sample)) <= neighbours:
        raise UserError(
            f"precision and recall need more than {neighbours} images in each set, "
            f"got {len(reference)} and {len(sample)}"
        )
    if reference.shape[1:] != sample.shape[1:]:
        raise UserError(
            f"both sets need features of the same length, got {reference.shape[1]} and {sample.shape[1]}"
        )
    real, made = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (reference, sample))
    real_radii, made_radii = (_radii(x, neighbours, distances) for x in (real, made))
    inside_real = torch.zeros(len(made), dtype=torch.bool)
    inside_made = torch.zeros(len(real), dtype=torch.bool)
    for place in _tiles(len(real)):
        for other in _tiles(len(made)):
            tile = distances(real[place], made[other])
            inside_real[other] |= (tile <= real_radii[place, None]).any(dim=0)
            inside_made[place] |= (tile <= made_radii[other]).any(dim=1)
    return PrecisionRecall(float(inside_real.double().mean()), float(inside_made.double().mean()))


def _radii(points: Tensor, neighbours: int, distances: Distances) -> Tensor:
    """Distance of each point to its n-th nearest other one; the point itself is the 0-th.

    The distances are symmetric, so only the tiles on and above the diagonal are computed.
    """
    nearest = points.new_full((len(points), neighbours + 1), torch.inf)

    def keep(place: slice, tile: Tensor) -> None:
        found = tile.topk(min(neighbours + 1, tile.shape[1]), dim=1, largest=False).values
        both = torch.cat([nearest[place], found], dim=1)
        nearest[place] = both.topk(neighbours + 1, dim=1, largest=False).values

    for place in _tiles(len(points)):
        for other in _tiles(len(points)):
            if other.start < place.start:
                continue
            tile = distances(points[place], points[other])
            keep(place, tile)
            if other != place:
                keep(other, tile.T)
    return nearest.amax(dim=1)


def _tiles(count: int) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, count, ROWS)]
