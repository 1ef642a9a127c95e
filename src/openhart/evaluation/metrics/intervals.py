"""95 % intervals of means, proportions and other statistics."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and the lower and upper end of its 95 % interval."""

    value: float
    interval: tuple[float, float]


def bootstrap_interval(
    values: NDArray[np.floating],
    statistic: Callable[[NDArray[np.floating]], float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) over the first axis.

    Args:
        values: (N, …), one row per independent sample.
        statistic: function of a resampled array; None means the mean.
        resamples: number of resamples.
        seed: seed of the resampling.
    """
    random = np.random.default_rng(seed)
    compute = statistic or (lambda rows: float(rows.mean()))
    drawn = [compute(values[random.integers(len(values), size=len(values))]) for _ in range(resamples)]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_error_interval(
    values: NDArray[np.floating],
    statistic: Callable[[NDArray[np.floating]], float],
    resamples: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    """The value ± 1.96 bootstrap standard errors, for statistics that are biased by resampling.

    Drawing with replacement repeats samples, which increases a Fréchet distance, so a percentile interval may
    not contain the value itself.

    Args:
        values: (N, …), one row per independent sample.
        statistic: function of an array of rows.
        resamples: number of resamples.
        seed: seed of the resampling.
    """
    random = np.random.default_rng(seed)
    drawn = [statistic(values[random.integers(len(values), size=len(values))]) for _ in range(resamples)]
    value, error = statistic(values), float(np.std(drawn, ddof=1))
    return value - 1.96 * error, value + 1.96 * error


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927), which is also valid if all or none are hits."""
    interval = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)
