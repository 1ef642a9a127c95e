"""Kernel inception distance (arXiv 1801.01401): an unbiased estimate of the squared MMD."""

import numpy as np
from numpy.typing import NDArray

from openhart.evaluation.metrics.frechet import check_features

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_distance(
    reference: NDArray[np.floating],
    sample: NDArray[np.floating],
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> float:
    """The rule of clean-fid: kernel (x·y / D + 1)³, mean over random subsets drawn without replacement.

    Args:
        reference: (N, D).
        sample: (M, D).
        subsets: number of subsets.
        subset_size: maximum number of points per subset; it is also limited by N and M.
        seed: seed of the draw; the published program uses numpy's global state instead.

    Raises:
        UserError: see :func:`openhart.evaluation.metrics.frechet.check_features`.
    """
    check_features(reference, "reference features")
    check_features(sample, "sample features")
    reference, sample = reference.astype(np.float64), sample.astype(np.float64)
    size = min(len(reference), len(sample), subset_size)
    random = np.random.default_rng(seed)
    total = 0.0
    for _ in range(subsets):
        made = sample[random.choice(len(sample), size, replace=False)]
        real = reference[random.choice(len(reference), size, replace=False)]
        within = _kernel(made, made) + _kernel(real, real)
        total += (within.sum() - np.trace(within)) / (size - 1) - 2 * _kernel(made, real).sum() / size
    return float(total / subsets / size)


def _kernel(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    kernel: NDArray[np.floating] = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel
