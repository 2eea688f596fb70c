import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.kernel import kernel_rank, kernel_two_sample
from unlearnkit.result import UsageError

Array = NDArray[np.float64]
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def naive_bandwidth(vectors: Array) -> float:
    return float(np.median([math.dist(a, b) for a, b in itertools.combinations(vectors, 2)]))


def naive_mmd2(first: Array, second: Array, bandwidth: float) -> float:
    """Unbiased MMD^2, one pair after another; a single vector meets itself."""

    def k(a: Array, b: Array) -> float:
        return math.exp(-(math.dist(a, b) ** 2) / (2 * bandwidth**2))

    def within(side: Array) -> float:
        pairs = [k(side[i], side[j]) for i, j in itertools.permutations(range(len(side)), 2)]
        return float(np.mean(pairs)) if pairs else 1.0

    cross = np.mean([k(a, b) for a in first for b in second])
    return within(first) + within(second) - 2 * float(cross)


def standardized(mmd2: Array) -> Array:
    """Largest z over the scales [scale, labeling], the true labeling first."""
    z: Array = (mmd2 - mmd2.mean(axis=1, keepdims=True)) / mmd2.std(axis=1, keepdims=True)
    return np.asarray(z.max(axis=0))


def test_rank_statistic_is_the_naive_one() -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 4)) * np.array([1.0, 2.0, 5.0, 0.1])
    found = kernel_rank(vectors)
    middle = naive_bandwidth(vectors)
    np.testing.assert_allclose(found.bandwidths, middle * np.array(SCALES), rtol=1e-12)
    mmd2 = np.array(
        [[naive_mmd2(vectors[j : j + 1], np.delete(vectors, j, axis=0), middle * s) for j in range(7)] for s in SCALES]
    )
    np.testing.assert_allclose(found.mmd2, mmd2[:, 0], rtol=1e-10)
    statistic = standardized(mmd2)
    np.testing.assert_allclose([found.statistic, *found.floor], statistic, rtol=1e-9)
    assert found.p == np.mean(statistic >= statistic[0])


def test_two_sample_statistic_is_the_naive_one() -> None:
    rng = np.random.default_rng(1)
    unlearned, oracles = rng.normal(size=(3, 2)) + 0.5, rng.normal(size=(5, 2))
    found = kernel_two_sample(unlearned, oracles, seed=4, permutations=30)
    pool = np.concatenate([unlearned, oracles])
    middle = naive_bandwidth(pool)
    labels = np.arange(8) < 3
    drawn = np.random.default_rng(4).permuted(np.tile(labels.astype(float), (30, 1)), axis=1) > 0
    labelings = [labels, *drawn]
    mmd2 = np.array([[naive_mmd2(pool[own], pool[~own], middle * s) for own in labelings] for s in SCALES])
    np.testing.assert_allclose(found.mmd2, mmd2[:, 0], rtol=1e-9, atol=1e-12)
    statistic = standardized(mmd2)
    np.testing.assert_allclose([found.statistic, *found.floor], statistic, rtol=1e-8, atol=1e-10)
    assert found.p == np.mean(statistic >= statistic[0] - 1e-9)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    unlearned, oracles = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    whole = kernel_two_sample(unlearned, oracles, seed=1, permutations=100)
    monkeypatch.setattr("unlearnkit.audits.statistics.kernel._BLOCK", 70)
    parts = kernel_two_sample(unlearned, oracles, seed=1, permutations=100)
    assert parts.statistic == pytest.approx(whole.statistic)
    assert parts.p == whole.p
    np.testing.assert_allclose(parts.floor, whole.floor, rtol=1e-9, atol=1e-12)


def fleet(rng: np.random.Generator, models: int, points: int = 20) -> Array:
    """Margins of models that vary together, with heavy tails."""
    return np.asarray(rng.normal(size=(models, 1)) + rng.standard_t(3, size=(models, points)))


def test_exchangeable_models_are_rejected_at_the_nominal_rate() -> None:
    rng, runs = np.random.default_rng(3), 1000
    p = np.array([kernel_rank(fleet(rng, 20)).p for _ in range(runs)])
    for level in (0.05, 0.2):
        low, high = stats.binom.interval(0.99, runs, level)
        assert low <= np.count_nonzero(p <= level + 1e-9) <= high
    counts = np.bincount(np.rint(p * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_ensembles_of_one_law_are_rejected_at_the_nominal_rate() -> None:
    rng, runs = np.random.default_rng(4), 600
    p = np.array([kernel_two_sample(fleet(rng, 6), fleet(rng, 9), seed=run, permutations=99).p for run in range(runs)])
    for level in (0.05, 0.2):
        low, high = stats.binom.interval(0.99, runs, level)
        assert low <= np.count_nonzero(p <= level + 1e-9) <= high


def test_the_unbiased_estimate_is_zero_in_the_mean() -> None:
    rng = np.random.default_rng(5)
    found = np.array(
        [
            kernel_two_sample(rng.normal(size=(5, 3)), rng.normal(size=(8, 3)), seed=0, permutations=1).mmd2
            for _ in range(800)
        ]
    )
    error = found.std(axis=0) / math.sqrt(800)
    assert np.all(np.abs(found.mean(axis=0)) < 3.5 * error)
    assert found.min() < 0


def test_a_planted_shift_is_found() -> None:
    rng, runs = np.random.default_rng(6), 100
    found = [0, 0, 0]
    for run in range(runs):
        vectors = rng.normal(size=(20, 30))
        vectors[0] += 1.0  # one standard deviation on every point
        found[0] += kernel_rank(vectors).p <= 0.05
        signed = rng.normal(size=(20, 30))
        signed[0] += np.where(np.arange(30) % 2 == 0, 1.5, -1.5)  # half remembered, half over-forgotten: mean 0
        found[1] += kernel_rank(signed).p <= 0.05
        wide = 2 * rng.normal(size=(12, 5))  # no shift at all, another spread
        found[2] += kernel_two_sample(wide, rng.normal(size=(20, 5)), seed=run, permutations=199).p <= 0.05
    assert min(found) >= 85


def test_equal_models_say_nothing() -> None:
    same = np.ones((6, 3))
    found = kernel_rank(same)
    assert (found.statistic, found.p) == (0.0, 1.0)
    assert kernel_two_sample(same, same, seed=1, permutations=9).p == 1.0
    same[0] = 2.0  # most distances are 0: the bandwidth comes from the others
    alone = kernel_rank(same)
    assert alone.p == 1 / 6
    np.testing.assert_allclose(alone.bandwidths, math.sqrt(3) * np.array(SCALES))


def test_units_and_the_order_of_oracles_change_nothing() -> None:
    vectors = fleet(np.random.default_rng(7), 12)
    first = kernel_rank(vectors)
    second = kernel_rank(1000 * vectors[[0, *range(11, 0, -1)]] + 7)
    assert second.p == first.p
    assert second.statistic == pytest.approx(first.statistic)
    np.testing.assert_allclose(second.floor, first.floor[::-1])
    one = kernel_rank(vectors, scales=(1.0,))
    assert one.mmd2.tolist() == [pytest.approx(first.mmd2[2])]


GOOD = np.random.default_rng(0).normal(size=(5, 2))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: kernel_rank(GOOD[:2]), "vectors must hold at least 3 models, got 2; train more"),
        (lambda: kernel_rank(GOOD[:, 0]), r"vectors must be a 2-D array.*got shape \(5,\)"),
        (lambda: kernel_rank(GOOD * np.inf), "vectors must be finite, got 10 NaN or infinite of 10"),
        (lambda: kernel_rank(GOOD, scales=()), r"scales must be positive and finite, at least one, got \[\]; 1.0 is"),
        (lambda: kernel_rank(GOOD, scales=(1.0, 0.0)), r"scales must be positive and finite.*got \[1.0, 0.0\]"),
        (lambda: kernel_two_sample(GOOD[:1], GOOD, seed=1), "unlearned must hold at least 2 models, got 1"),
        (lambda: kernel_two_sample(GOOD, GOOD[:1], seed=1), "oracles must hold at least 2 models, got 1"),
        (lambda: kernel_two_sample(GOOD, GOOD[:, :1], seed=1), "must hold the same points, got 2 and 1; align"),
        (lambda: kernel_two_sample(GOOD, GOOD, seed=1, permutations=0), "permutations must be at least 1, got 0; 9999"),
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()
