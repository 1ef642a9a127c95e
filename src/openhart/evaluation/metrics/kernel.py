"""Kernel inception distance (arXiv 1801.01401): an unbiased estimate of the squared MMD."""

import numpy as np
from numpy.typing import NDArray

from openhart.evaluation.metrics.frechet import check_features
from openhart.evaluation.metrics.intervals import Estimate, bootstrap_interval

SUBSETS = 100
SUBSET_SIZE = 1000


Features = NDArray[np.floating]


def kernel_distance(
    reference: Features,
    sample: Features,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> Estimate:
    """The rule of clean-fid: kernel (x·y / D + 1)³, mean over random subsets drawn without replacement.

    The interval is the bootstrap of the linearised distance (see
    :mod:`openhart.evaluation.metrics.influence`); the influence of a sample is its mean over the subsets in
    which it is.

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
    total, drawn, influences = 0.0, np.zeros(len(sample)), np.zeros(len(sample))
    for _ in range(subsets):
        chosen = random.choice(len(sample), size, replace=False)
        made = sample[chosen]
        real = reference[random.choice(len(reference), size, replace=False)]
        near, far = _means_of_others(made), _kernel(made, real).mean(axis=1)
        total += near.mean() + _means_of_others(real).mean() - 2 * far.mean()
        drawn[chosen] += 1
        influences[chosen] += 2 * (near - near.mean() - far + far.mean())
    value = float(total / subsets)
    means = influences[drawn > 0] / drawn[drawn > 0]
    return Estimate(value, bootstrap_interval(value + means - means.mean()))


def _means_of_others(points: Features) -> Features:
    """Mean of the kernel between each point and all others, (N,)."""
    kernel = _kernel(points, points)
    means: Features = (kernel.sum(axis=1) - kernel.diagonal()) / (len(points) - 1)
    return means


def _kernel(first: Features, second: Features) -> Features:
    kernel: Features = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel
