"""Influence of each sample on a distance between two sets of features, from which its interval follows.

If a sample gets a little more weight, a distance changes in proportion to the influence of that sample
(Hampel 1974). The distance plus the mean influence of resampled samples is the bootstrap of the linearised
distance; its standard error is that of the infinitesimal jackknife (Efron 1982). Resampling the distance
itself would be slow, and for a Fréchet distance of many features also wrong: repeated samples lower the rank
of the covariance, so the standard error is several times too large.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from openhart.evaluation.metrics.frechet import Statistics, statistics_of
from openhart.evaluation.metrics.intervals import bootstrap_interval

Features = NDArray[np.floating]
ROWS = 5000


def frechet_influences(features: Features, own: Statistics, reference: Statistics) -> Features:
    """Influence of each row on the squared Fréchet distance to a reference that is taken as given.

    The gradient of the distance is 2 (μ − μᵣ) with respect to the mean and I − T with respect to the
    covariance; T is the matrix of the optimal transport between the two normal distributions.

    Args:
        features: (N, D) of the samples.
        own: their mean (D,) and covariance (D, D).
        reference: those of the reference.

    Returns:
        float64 (N,), with mean 0.
    """
    transport = _transport(own.covariance, reference.covariance)
    unbiased = len(features) / (len(features) - 1)
    gradient = (unbiased * (np.eye(len(transport)) - transport)).astype(features.dtype)
    slope = 2 * (own.mean - reference.mean)
    found = np.empty(len(features))
    for start in range(0, len(features), ROWS):
        rows = features[start : start + ROWS] - own.mean
        found[start : start + ROWS] = rows @ slope + np.einsum("ij,ij->i", rows @ gradient, rows)
    centred: Features = found - found.mean()
    return centred


def frechet_interval(
    distance: float, features: Features, own: Statistics, reference: Statistics
) -> tuple[float, float]:
    """95 % interval of a Fréchet distance over the samples; the reference is taken as given.

    Args:
        distance: the value, by any rule.
        features: (N, D) of the samples.
        own: their mean (D,) and covariance (D, D).
        reference: those of the reference.
    """
    return bootstrap_interval(distance + frechet_influences(features, own, reference))


def paired_frechet_interval(distance: float, features: Features, partners: Features) -> tuple[float, float]:
    """The same for pairs, such as images and their reconstructions: the two of a pair are drawn together.

    Args:
        distance: the value, by any rule.
        features: (N, D).
        partners: (N, D), in the same order.
    """
    own, other = statistics_of(features), statistics_of(partners)
    influences = frechet_influences(features, own, other) + frechet_influences(partners, other, own)
    return bootstrap_interval(distance + influences)


def _transport(own: Features, reference: Features) -> Features:
    """The symmetric T with T Σ T = Σᵣ, on the directions in which both have variance.

    For Σ = L Lᵀ it is L⁻ᵀ √(Lᵀ Σᵣ L) L⁻¹; for a singular Σ it is √Σᵣ (√Σᵣ Σ √Σᵣ)^(−1/2) √Σᵣ.
    """
    first, second = own.astype(np.float64), reference.astype(np.float64)
    try:
        lower = np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        root = _power(second, 0.5)
        return root @ _power(root @ first @ root, -0.5) @ root
    half = solve_triangular(lower, _power(lower.T @ second @ lower, 0.5), trans="T", lower=True)
    transport: Features = solve_triangular(lower, half.T, trans="T", lower=True)
    return transport


def _power(matrix: Features, power: float) -> Features:
    """Power of a symmetric positive semidefinite matrix; directions without variance stay without it."""
    values, vectors = np.linalg.eigh(matrix)
    least = max(float(values[-1]), 0.0) * len(values) * np.finfo(np.float64).eps
    raised = np.zeros_like(values)
    raised[values > least] = values[values > least] ** power
    found: Features = (vectors * raised) @ vectors.T
    return found
