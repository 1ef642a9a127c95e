"""Influence of each sample on a distance between two sets of features, from which its interval follows.

If a sample gets a little more weight, a distance changes in proportion to the influence of that sample
(Hampel 1974). The distance plus the mean influence of resampled samples is the bootstrap of the linearised
distance; its standard error is that of the infinitesimal jackknife (Efron 1982). Resampling the distance
itself would be slow, and for a Fréchet distance of many features also wrong: repeated samples lower the rank
of the covariance, so the standard error is several times too large.
"""

import numpy as np
from numpy.typing import NDArray

from openhart.evaluation.metrics.frechet import Statistics, statistics_of
from openhart.evaluation.metrics.intervals import bootstrap_interval

Features = NDArray[np.floating]
ROWS = 5000


def frechet_influences(features: Features, reference: Statistics) -> Features:
    """Influence of each row on the squared Fréchet distance to a reference that is taken as given.

    With T = √Σᵣ (√Σᵣ Σ √Σᵣ)^(−1/2) √Σᵣ, the gradient of the distance is 2 (μ − μᵣ) with respect to the mean
    and I − T with respect to the covariance.

    Args:
        features: (N, D) of the samples.
        reference: mean (D,) and covariance (D, D).

    Returns:
        float64 (N,), with mean 0.

    Raises:
        UserError: see :func:`openhart.evaluation.metrics.frechet.check_features`.
    """
    own = statistics_of(features)
    root = _powers(reference.covariance, 0.5)
    transport = root @ _powers(root @ own.covariance @ root, -0.5) @ root
    unbiased = len(features) / (len(features) - 1)
    gradient = (unbiased * (np.eye(len(transport)) - transport)).astype(features.dtype)
    slope = 2 * (own.mean - reference.mean)
    found = np.empty(len(features))
    for start in range(0, len(features), ROWS):
        rows = features[start : start + ROWS] - own.mean
        found[start : start + ROWS] = rows @ slope + np.einsum("ij,ij->i", rows @ gradient, rows)
    centred: Features = found - found.mean()
    return centred


def frechet_interval(distance: float, features: Features, reference: Statistics) -> tuple[float, float]:
    """95 % interval of a Fréchet distance over the samples; the reference is taken as given.

    Args:
        distance: the value, by any rule.
        features: (N, D) of the samples.
        reference: mean (D,) and covariance (D, D).
    """
    return bootstrap_interval(distance + frechet_influences(features, reference))


def paired_frechet_interval(distance: float, features: Features, partners: Features) -> tuple[float, float]:
    """The same for pairs, such as images and their reconstructions: the two of a pair are drawn together.

    Args:
        distance: the value, by any rule.
        features: (N, D).
        partners: (N, D), in the same order.
    """
    influences = frechet_influences(features, statistics_of(partners))
    return bootstrap_interval(distance + influences + frechet_influences(partners, statistics_of(features)))


def _powers(matrix: Features, power: float) -> Features:
    """Power of a symmetric positive semidefinite matrix; directions without variance stay without it."""
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    least = max(float(values[-1]), 0.0) * len(values) * np.finfo(np.float64).eps
    raised = np.zeros_like(values)
    raised[values > least] = values[values > least] ** power
    found: Features = (vectors * raised) @ vectors.T
    return found
