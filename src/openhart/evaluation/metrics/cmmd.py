"""CMMD (arXiv 2401.09603): squared maximum mean discrepancy of CLIP embeddings with a Gaussian kernel."""

import numpy as np
from numpy.typing import NDArray

from openhart.errors import UserError
from openhart.evaluation.metrics.frechet import check_features
from openhart.evaluation.metrics.intervals import Estimate, bootstrap_interval

SIGMA = 10.0
SCALE = 1000.0
ROWS = 1000
Features = NDArray[np.floating]


def cmmd(reference: Features, sample: Features) -> Estimate:
    """1,000 times the biased estimate of the squared discrepancy, with kernel exp(−|x − y|² / (2 · 10²)).

    It assumes no normal distribution, and the bias is small, so it is also useful for few images. The
    interval is the bootstrap of the linearised distance over the samples (see
    :mod:`openhart.evaluation.metrics.influence`).

    Args:
        reference: CLIP embeddings (N, D), normalised to unit length.
        sample: CLIP embeddings (M, D), normalised to unit length.

    Raises:
        UserError: the sets have fewer than two rows, values that are not finite, or different lengths.
    """
    check_features(reference, "reference embeddings")
    check_features(sample, "sample embeddings")
    if reference.shape[1] != sample.shape[1]:
        raise UserError(
            f"both sets need embeddings of the same length, got {reference.shape[1]} and {sample.shape[1]}"
        )
    near, far = _kernel_means(sample, sample), _kernel_means(sample, reference)
    value = SCALE * float(near.mean() + _kernel_means(reference, reference).mean() - 2 * far.mean())
    influences = 2 * SCALE * (near - near.mean() - far + far.mean())
    return Estimate(value, bootstrap_interval(value + influences))


def _kernel_means(first: Features, second: Features) -> Features:
    """Mean of the kernel between each row of the first set and all of the second, (N,), in float64."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    squares = (other * other).sum(axis=1)
    means = np.empty(len(one))
    for start in range(0, len(one), ROWS):
        rows = one[start : start + ROWS]
        distances = (rows * rows).sum(axis=1)[:, None] + squares - 2 * rows @ other.T
        means[start : start + ROWS] = np.exp(-distances / (2 * SIGMA**2)).mean(axis=1)
    return means
