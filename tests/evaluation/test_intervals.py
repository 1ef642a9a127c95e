"""Intervals that follow from the influence of each sample: against differences, and against fresh samples."""

import numpy as np
import pytest

from openhart.evaluation.metrics.cmmd import cmmd
from openhart.evaluation.metrics.frechet import Statistics, frechet_clean_fid, statistics_of
from openhart.evaluation.metrics.inception_score import (
    inception_score_guided_diffusion,
    inception_score_interval,
    parts_in_order,
    parts_shuffled,
)
from openhart.evaluation.metrics.influence import (
    frechet_influences,
    frechet_interval,
    paired_frechet_interval,
)
from openhart.evaluation.metrics.intervals import bootstrap_error_interval
from openhart.evaluation.metrics.kernel import kernel_distance


def spread(interval):
    """The standard error that an interval of 95 % states."""
    return (interval[1] - interval[0]) / (2 * 1.96)


@pytest.mark.parametrize("count", [40, 7])  # with fewer samples than features the covariance has no inverse
def test_the_influence_is_the_slope_of_the_distance(count):
    random = np.random.default_rng(0)
    features = random.normal(size=(count, 10)) @ random.normal(size=(10, 10))
    reference = statistics_of(random.normal(size=(300, 10)) @ random.normal(size=(10, 10)) + 1)

    def distance(weights):
        weights = weights / weights.sum()
        mean = weights @ features
        rows = (features - mean) * np.sqrt(weights)[:, None]
        covariance = rows.T @ rows * count / (count - 1)
        return frechet_clean_fid(Statistics(mean, covariance), reference)

    influences = frechet_influences(features, statistics_of(features), reference)
    assert influences.mean() == pytest.approx(0, abs=1e-9)
    for index in (0, 3):
        step = np.zeros(count)
        step[index] = 1e-3
        slope = (distance(np.ones(count) + step) - distance(np.ones(count) - step)) / 2e-3
        assert influences[index] / count == pytest.approx(
            slope, rel=2e-2
        )  # the root of a singular matrix is noisy


@pytest.mark.parametrize(("count", "width"), [(400, 8), (300, 60)])
def test_the_interval_of_a_frechet_distance_is_as_wide_as_fresh_samples_spread(count, width):
    random = np.random.default_rng(1)
    mix = random.normal(size=(width, width)) / np.sqrt(width)
    reference = statistics_of(random.normal(size=(5000, width)) @ mix)

    def sample():
        return np.maximum(random.normal(size=(count, width)) @ mix, -0.4) * 1.1

    def value(features):
        return frechet_clean_fid(statistics_of(features), reference)

    true = np.std([value(sample()) for _ in range(60)], ddof=1)
    features = sample()
    interval = frechet_interval(value(features), features, statistics_of(features), reference)
    assert interval[0] < value(features) < interval[1]
    assert 0.7 * true < spread(interval) < 1.9 * true


def test_with_few_features_the_interval_is_that_of_the_plain_bootstrap():
    random = np.random.default_rng(2)
    pairs = random.normal(size=(500, 2, 3)) * [[1, 2, 3], [1, 1, 1]] + 0.5

    def value(rows):
        return frechet_clean_fid(statistics_of(rows[:, 0]), statistics_of(rows[:, 1]))

    plain = bootstrap_error_interval(pairs, value, resamples=300)
    interval = paired_frechet_interval(value(pairs), pairs[:, 0], pairs[:, 1])
    assert spread(interval) == pytest.approx(spread(plain), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("measure", [lambda a, b: kernel_distance(a, b, subsets=5), cmmd])
@pytest.mark.parametrize("shift", [0, 0.5])
def test_intervals_of_kernel_distances_are_as_wide_as_fresh_samples_spread(measure, shift):
    random = np.random.default_rng(3)
    reference = random.normal(size=(300, 16))
    found = [measure(reference, random.normal(size=(300, 16)) + shift) for _ in range(60)]
    true = np.std([each.value for each in found], ddof=1)
    assert 0.6 * true < np.mean([spread(each.interval) for each in found]) < 1.9 * true


@pytest.mark.slow
def test_the_interval_of_an_inception_score_is_as_wide_as_fresh_samples_spread():
    random = np.random.default_rng(4)
    weight = random.normal(size=(6, 12)) * 2
    scores, spreads = [], []
    for _ in range(60):
        features = random.normal(size=(500, 6))
        score = inception_score_guided_diffusion(features, weight, part_size=100)
        scores.append(score)
        spreads.append(spread(inception_score_interval(score, features, weight, parts_in_order(500, 100))))
    assert np.mean(spreads) == pytest.approx(np.std(scores, ddof=1), rel=0.3)
    underflown = inception_score_interval(1, features * 1e4, weight, parts_shuffled(500))
    assert underflown is None
