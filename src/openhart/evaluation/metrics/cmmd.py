"""CMMD (arXiv 2401.09603): squared maximum mean discrepancy of CLIP embeddings with a Gaussian kernel."""

import numpy as np
from numpy.typing import NDArray

from openhart.errors import UserError
from openhart.evaluation.metrics.frechet import check_features

SIGMA = 10.0
SCALE = 1000.0
ROWS = 1000
Features = NDArray[np.floating]


def cmmd(reference: Features, sample: Features) -> float:
    """1,000 times the biased estimate of the squared discrepancy, with kernel exp(−|x − y|² / (2 · 10²)).

    It assumes no normal distribution, and the bias is small, so it is also useful for few images.

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
    within = _mean_kernel(reference, reference) + _mean_kernel(sample, sample)
    return SCALE * (within - 2 * _mean_kernel(reference, sample))


def _mean_kernel(first: Features, second: Features) -> float:
    """Mean of the kernel over all pairs, in float64 and in blocks of rows."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    squares = (other * other).sum(axis=1)
    total = 0.0
    for start in range(0, len(one), ROWS):
        rows = one[start : start + ROWS]
        distances = (rows * rows).sum(axis=1)[:, None] + squares - 2 * rows @ other.T
        total += float(np.exp(-distances / (2 * SIGMA**2)).sum())
    return total / (len(one) * len(other))
