"""Fréchet distance between two sets of features, by the rules of three published programs.

d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr √(Σ₁Σ₂) (arXiv 1706.08500, equation 6). The programs differ in
how they compute the matrix root and in what they do if no real root exists. Tiny negative results are
possible and are returned unchanged.

For a positive definite covariance, symmetric eigenvalues give the same trace in a tenth of the time, so the
Schur method of the programs is used only for a singular one.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from openhart.errors import UserError

Array = NDArray[np.floating]
DIAGONAL_OFFSET = 1e-6
MAX_IMAGINARY = 1e-3


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of a set of features."""

    mean: Array
    covariance: Array


def check_features(features: Array, name: str) -> None:
    """Refuse features from which no distance can be computed.

    Raises:
        UserError: ``features`` is not (N, D) with N ≥ 2, or contains a value that is not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"{name} must have shape (N, D) with N of at least 2, got {tuple(features.shape)}")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise UserError(f"{name} must be finite, but row {row} contains NaN or infinity")


def statistics_of(features: Array, name: str = "features") -> Statistics:
    """Mean, in the precision of the features, and covariance with N − 1 in the denominator, in float64.

    Args:
        features: (N, D).
        name: name of the features in error messages.

    Raises:
        UserError: see :func:`check_features`.
    """
    check_features(features, name)
    return Statistics(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_guided_diffusion(sample: Statistics, reference: Statistics) -> float:
    """The rule of ADM's evaluator and of pytorch-fid: Schur method; imaginary parts are refused.

    Raises:
        UserError: the dimensions differ, or the matrix root has a significant imaginary part.
    """
    return _distance(sample, reference, _trace_of_root(sample, reference, MAX_IMAGINARY))


def frechet_clean_fid(sample: Statistics, reference: Statistics) -> float:
    """The rule of clean-fid: Schur method; imaginary parts of any size are dropped.

    Raises:
        UserError: the dimensions differ.
    """
    return _distance(sample, reference, _trace_of_root(sample, reference, np.inf))


def frechet_torch_fidelity(sample: Statistics, reference: Statistics) -> float:
    """The rule of torch-fidelity and MAR: tr √(Σ₁Σ₂) is the sum of the square roots of the eigenvalues.

    Raises:
        UserError: the dimensions differ.
    """
    _check_alike(sample, reference)
    eigenvalues = np.linalg.eigvals(sample.covariance @ reference.covariance)
    trace = np.sqrt(eigenvalues.astype(complex)).real.sum()
    return _distance(sample, reference, float(trace))


FRECHET_RULES: dict[str, Callable[[Statistics, Statistics], float]] = {
    "guided-diffusion": frechet_guided_diffusion,
    "clean-fid": frechet_clean_fid,
    "torch-fidelity": frechet_torch_fidelity,
}


def _check_alike(sample: Statistics, reference: Statistics) -> None:
    if sample.mean.shape != reference.mean.shape:
        raise UserError(
            f"both sets need features of the same length, got {sample.mean.size} and {reference.mean.size}"
        )


def _trace_of_root(sample: Statistics, reference: Statistics, max_imaginary: float) -> float:
    """tr √(Σ₁Σ₂), from symmetric eigenvalues if Σ₁ is positive definite, else by the Schur method."""
    _check_alike(sample, reference)
    first, second = (each.covariance.astype(np.float64) for each in (sample, reference))
    try:
        lower = np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        root = _schur_root(first, second)
    else:
        # Σ₁ = L Lᵀ, and Lᵀ Σ₂ L has the eigenvalues of Σ₁Σ₂
        return float(np.sqrt(np.linalg.eigvalsh(lower.T @ second @ lower).clip(0)).sum())
    if np.iscomplexobj(root) and np.abs(root.diagonal().imag).max() > max_imaginary:
        raise UserError(
            "the rule guided-diffusion gives no Fréchet distance, because the matrix root is not real: "
            "use more samples, or the rule torch-fidelity"
        )
    return float(np.trace(root.real))


def _schur_root(first: Array, second: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a singular product is an expected case, handled below
        root: Array = sqrtm(first @ second)
        if not np.isfinite(root).all():
            offset = DIAGONAL_OFFSET * np.eye(len(first))
            root = sqrtm((first + offset) @ (second + offset))
    return root


def _distance(sample: Statistics, reference: Statistics, trace_of_root: float) -> float:
    shift = sample.mean - reference.mean
    spread = np.trace(sample.covariance) + np.trace(reference.covariance)
    return float(shift @ shift + spread - 2 * trace_of_root)
