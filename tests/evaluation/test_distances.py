import numpy as np
import pytest

from openhart.errors import UserError
from openhart.evaluation.metrics.frechet import FRECHET_RULES, Statistics, statistics_of
from openhart.evaluation.metrics.inception_score import (
    inception_score_guided_diffusion,
    inception_score_torch_fidelity,
)
from openhart.evaluation.metrics.kernel import kernel_distance
from openhart.evaluation.metrics.precision_recall import (
    precision_recall_guided_diffusion,
    precision_recall_torch_fidelity,
)
from tests.evaluation.recorded import arrays, told

TOLD, ARRAYS = told("distance_cases"), arrays("distance_cases")
PAIRS = [pytest.param(case, id=case["about"]) for case in TOLD["distances"]]
SCORES = [pytest.param(case, id=case["about"]) for case in TOLD["inception_scores"]]


def features(case):
    return tuple(ARRAYS[f"distance.{case['id']}.{side}"] for side in ("reference", "sample"))


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("rule", FRECHET_RULES)
def test_frechet_distance_as_recorded(case, rule):
    reference, sample = (statistics_of(x) for x in features(case))
    small = 1e-6 * np.trace(reference.covariance)
    wanted = case[rule.replace("-", "_")]["frechet_distance"]
    assert FRECHET_RULES[rule](sample, reference) == pytest.approx(wanted, rel=1e-5, abs=small)


@pytest.mark.parametrize("case", PAIRS)
def test_precision_and_recall_as_recorded(case):
    reference, sample = features(case)
    wanted = case["guided_diffusion"]
    got = precision_recall_guided_diffusion(reference, sample)
    tolerance = 0.02 if wanted["distances_in_half_precision"] else 0
    assert got.precision == pytest.approx(wanted["precision"], abs=tolerance)
    assert got.recall == pytest.approx(wanted["recall"], abs=tolerance)
    wanted = case["torch_fidelity"]  # float32 shares
    got = precision_recall_torch_fidelity(reference, sample)
    assert (got.precision, got.recall) == pytest.approx((wanted["precision"], wanted["recall"]), abs=1e-7)


def test_kernel_distance_as_recorded():
    cases = [case for case in TOLD["distances"] if "n" in case["clean_fid"]]
    assert cases
    for case in cases:
        count = case["clean_fid"]["n"]
        reference, sample = (x[:count] for x in features(case))
        got = kernel_distance(reference, sample, subsets=1, subset_size=count).value
        assert got == pytest.approx(case["clean_fid"]["kernel_distance_of_first_n"], rel=1e-9)


@pytest.mark.parametrize("case", SCORES)
def test_inception_scores_as_recorded(case):
    name = f"inception_score.{case['id']}"
    given = ARRAYS[f"{name}.features"], ARRAYS[f"{name}.weight"]
    wanted = case["guided_diffusion"]
    assert inception_score_guided_diffusion(*given, wanted["split_size"]) == pytest.approx(
        wanted["score"], 1e-4
    )
    for key, options in (("torch_fidelity", {}), ("torch_fidelity_not_shuffled", {"seed": None})):
        mean, deviation = inception_score_torch_fidelity(*given, **options)
        assert (mean, deviation) == pytest.approx((case[key]["mean"], case[key]["std"]), rel=1e-4)


@pytest.mark.parametrize("rule", FRECHET_RULES)
def test_frechet_distance_of_known_gaussians(rule):
    first = Statistics(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    second = Statistics(np.array([1.0, 2.0, 2.0]), np.diag([4.0, 4.0, 1.0]))
    assert FRECHET_RULES[rule](first, second) == pytest.approx(9 + 1 + 0 + 4)  # |Δμ|² + Σ(σ₁ − σ₂)²


def test_frechet_distance_does_not_see_rotation_or_order():
    random = np.random.default_rng(0)
    reference, sample = random.normal(size=(2, 60, 5)) * [[[1]], [[2]]] + 1
    turn, _ = np.linalg.qr(random.normal(size=(5, 5)))
    plain = FRECHET_RULES["guided-diffusion"](statistics_of(sample), statistics_of(reference))
    turned = FRECHET_RULES["guided-diffusion"](
        statistics_of(sample[::-1] @ turn), statistics_of(reference @ turn)
    )
    assert turned == pytest.approx(plain)


def test_precision_and_recall_by_brute_force():
    random = np.random.default_rng(1)
    reference = random.normal(size=(1100, 3)).astype(np.float32)  # more than one block
    sample = random.normal(size=(80, 3)).astype(np.float32) * 1.5

    def inside(points, centres):
        own = np.linalg.norm(centres[:, None] - centres, axis=2)
        radii = np.sort(own, axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - centres, axis=2) <= radii).any(axis=1).mean()

    for compute in (precision_recall_guided_diffusion, precision_recall_torch_fidelity):
        got = compute(reference, sample)
        assert got.precision == pytest.approx(inside(sample, reference), abs=1e-9)
        assert got.recall == pytest.approx(inside(reference, sample), abs=1e-9)


def test_kernel_distance_is_about_zero_within_one_distribution():
    random = np.random.default_rng(2)
    one, other = random.normal(size=(2, 400, 8))
    near, far = (kernel_distance(one, other + shift, subsets=10) for shift in (0, 0.5))
    assert near.interval[0] < 0 < near.interval[1] < far.interval[0] < far.value
    assert abs(near.value) < 0.05
    assert kernel_distance(one, other, subsets=10, seed=1).value != near.value


def test_what_cannot_be_measured_is_refused():
    good = np.zeros((5, 2))
    spoilt = good.copy()
    spoilt[3, 1] = np.nan
    with pytest.raises(UserError, match="row 3 contains NaN"):
        statistics_of(spoilt)
    with pytest.raises(UserError, match="at least 2"):
        statistics_of(good[:1])
    with pytest.raises(UserError, match="same length, got 2 and 3"):
        FRECHET_RULES["clean-fid"](statistics_of(good), statistics_of(np.zeros((5, 3))))
    with pytest.raises(UserError, match="more than 3 images"):
        precision_recall_guided_diffusion(good[:3], good)
    with pytest.raises(UserError, match="at least 10 images"):
        inception_score_torch_fidelity(good, good.T[:, :4])
