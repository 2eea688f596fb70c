import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.individuals import EXACT, NORMAL, individuals, resolution
from unlearnkit.audits.multiplicity import benjamini_hochberg, holm
from unlearnkit.audits.rank import oracle_rank
from unlearnkit.audits.roc import clopper_pearson
from unlearnkit.result import UsageError

Array = NDArray[np.float64]


def names(points: int) -> list[str]:
    return [f"train/{i}" for i in range(points)]


def margins(seed: int, oracles: int, points: int) -> Array:
    """Examples of unequal difficulty and spread; margins of a model move together."""
    rng = np.random.default_rng(seed)
    spread, center = np.exp(rng.normal(size=points)), 3 * rng.normal(size=points)
    noise = 0.5 * rng.normal(size=(oracles + 1, 1)) + rng.normal(size=(oracles + 1, points))
    return np.asarray(center + spread * noise)


def test_rank_p_is_that_of_the_oracle_rank_test() -> None:
    values = margins(0, 19, 12)
    values[0, :4] += 10.0
    values[:, 5] = np.round(values[:, 5])  # ties
    found = individuals(values, names(12), tolerance=3.0)
    expected = [r.p for r in oracle_rank(values, tolerances=np.ones(12))]
    np.testing.assert_array_equal(found.rank.raw, expected)
    np.testing.assert_array_equal(found.rank.bh, benjamini_hochberg(found.rank.raw))
    np.testing.assert_array_equal(found.rank.holm, holm(found.rank.raw))


def test_normal_p_is_the_prediction_test_of_one_new_observation() -> None:
    values = margins(1, 9, 6)
    found = individuals(values, names(6), tolerance=3.0)
    for i in range(6):
        # One observation against n in the two-sample t-test: the same statistic and the same n - 1 degrees of freedom.
        expected = stats.ttest_ind(values[:1, i], values[1:, i]).pvalue
        assert found.normal.raw[i] == pytest.approx(expected, rel=1e-9)
        own = values[1:, i]
        assert found.z[i] == pytest.approx((values[0, i] - own.mean()) / own.std(ddof=1), rel=1e-9)
    np.testing.assert_array_equal(found.normal.bh, benjamini_hochberg(found.normal.raw))
    np.testing.assert_array_equal(found.normal.holm, holm(found.normal.raw))
    assert (found.rank.assumes, found.normal.assumes) == (EXACT, NORMAL)


def test_null_p_values_of_a_single_example_are_uniform() -> None:
    rng, runs = np.random.default_rng(2), 4000
    normal = individuals(rng.normal(size=(20, runs)), names(runs), tolerance=3.0)
    skewed = individuals(np.exp(rng.normal(size=(20, runs))), names(runs), tolerance=3.0)
    for level in (0.05, 0.2):
        low, high = stats.binom.interval(0.99, runs, level)
        for p in (normal.rank.raw, normal.normal.raw, skewed.rank.raw):
            assert low <= np.count_nonzero(p <= level + 1e-9) <= high
    assert stats.kstest(normal.normal.raw, "uniform").pvalue > 0.01
    # What "assumes normality" warns of: far out in a skewed law the t-test rejects several times too often.
    assert np.count_nonzero(skewed.normal.raw <= 0.001) > 3 * stats.binom.ppf(0.995, runs, 0.001)


def test_an_audited_oracle_flags_nobody_at_the_nominal_rate() -> None:
    runs, flagged, above = 300, 0, 0
    for run in range(runs):
        found = individuals(margins(10 + run, 19, 40), names(40), tolerance=2.5)
        flagged += bool(found.normal.flagged)
        above += found.p_above <= 0.05 + 1e-9
        assert not found.rank.flagged
    # margins of one model move together: the chance of any flag stays below the level of BH under the global null
    assert flagged <= stats.binom.ppf(0.995, runs, 0.05)
    assert above <= stats.binom.ppf(0.995, runs, 0.05)


def test_planted_individuals_are_named_with_their_direction() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 100))
    values[0, 7] += 16.0
    values[0, 30] -= 9.0
    found = individuals(values, names(100), tolerance=6.0, worst=3)
    assert found.normal.flagged == ("train/7", "train/30")
    assert found.rank.flagged == ()  # 39 oracles cannot single out two of a hundred
    first, second, third = found.worst
    assert (first.id, first.direction, second.id, second.direction) == (
        "train/7",
        "remembered",
        "train/30",
        "over-forgotten",
    )
    assert first.z == found.z[7] > 0 > second.z == found.z[30]
    assert (first.p_rank, first.p_rank_bh) == (1 / 40, found.rank.bh[7])
    assert (first.p_normal, first.p_normal_bh) == (found.normal.raw[7], found.normal.bh[7])
    assert first.p_normal_bh < 1e-6 < third.p_normal_bh
    assert found.above == clopper_pearson(2, 100)
    assert found.above.value == 0.02
    assert found.floor.shape == (39,)
    assert found.p_above == 1 / 40
    assert individuals(values, names(100), tolerance=6.0, worst=0).worst == ()


def test_enough_oracles_single_somebody_out_without_a_law() -> None:
    values = np.random.default_rng(4).standard_cauchy(size=(200, 8))
    values[0, 2] = 1e6
    found = individuals(values, names(8), tolerance=100.0)
    assert found.resolution.fewest_flagged == 1
    assert found.rank.flagged == ("train/2",)
    assert found.rank.bh[2] == pytest.approx(8 / 200)


def test_share_above_tolerance_and_its_floor_are_the_naive_ones() -> None:
    values = margins(5, 6, 30)
    found = individuals(values, names(30), tolerance=1.5)
    shares = []
    for j in range(7):
        others = np.delete(values, j, axis=0)
        z = (values[j] - others.mean(axis=0)) / others.std(axis=0, ddof=1)
        shares.append(np.mean(np.abs(z) > 1.5))
    assert found.above.value == pytest.approx(shares[0])
    np.testing.assert_allclose(found.floor, shares[1:])
    assert found.p_above == np.mean(np.array(shares) >= shares[0])


def test_limits_of_the_share_cover_the_population_of_this_model() -> None:
    rng = np.random.default_rng(6)
    population = np.concatenate([np.zeros(8000), np.full(2000, 5.0)]) + rng.normal(size=(12, 10_000))
    true = individuals(population, names(10_000), tolerance=3.5).above.value
    runs, covered = 300, 0
    for _ in range(runs):
        drawn = rng.choice(10_000, size=60, replace=False)
        above = individuals(population[:, drawn], names(60), tolerance=3.5).above
        assert above.low is not None
        assert above.high is not None
        covered += above.low <= true <= above.high
    assert covered >= stats.binom.ppf(0.005, runs, 0.95)


def test_resolution() -> None:
    few = resolution(39, 100)
    assert (few.smallest_p, few.fewest_flagged, few.oracles_for_one) == (1 / 40, 50, 1999)
    assert few.sentence == (
        "With 39 oracles the smallest rank p-value of an example is 0.025: no single one of 100 can be flagged, only "
        "50 or more at once; for a single one 1,999 oracles are needed."
    )
    assert resolution(18, 100).fewest_flagged is None
    assert resolution(18, 100).sentence.endswith(
        "none of 100 can be flagged; for a single one 1,999 oracles are needed."
    )
    enough = resolution(1999, 100)
    assert enough.fewest_flagged == 1
    assert enough.sentence.endswith("is 0.0005: enough to single out one of 100.")
    assert resolution(1998, 100).fewest_flagged == 2


@pytest.mark.parametrize("reached", [49, 50])
def test_so_many_examples_are_flagged_at_once_and_no_fewer(reached: int) -> None:
    values = np.random.default_rng(7).normal(size=(40, 100))
    values[0] = values[1:].mean(axis=0)
    values[0, :reached] += 50.0
    found = individuals(values, names(100), tolerance=3.0)
    assert len(found.rank.flagged) == (50 if reached == 50 else 0)


def test_examples_without_spread() -> None:
    values = np.zeros((6, 3))
    values[0, 1], values[0, 2] = 1.0, -1.0
    found = individuals(values, ["a", "b", "c"], tolerance=3.0)
    assert [w.id for w in found.worst] == ["b", "c", "a"]  # equally far: by name
    assert [w.direction for w in found.worst] == ["remembered", "over-forgotten", "equal"]
    np.testing.assert_array_equal(found.rank.raw, [1.0, 1 / 6, 1 / 6])
    assert found.normal.raw[0] == 1.0
    assert np.all(found.normal.raw > 0)
    wide = np.zeros((400, 1))
    wide[0] = 1.0
    assert individuals(wide, ["a"], tolerance=3.0).normal.raw[0] > 0.0


def test_order_of_oracles_and_examples_changes_nothing() -> None:
    values = margins(8, 9, 10)
    first = individuals(values, names(10), tolerance=1.0)
    order = np.random.default_rng(9).permutation(10)
    second = individuals(values[[0, *range(9, 0, -1)]][:, order], [names(10)[i] for i in order], tolerance=1.0)
    assert [w.id for w in second.worst] == [w.id for w in first.worst]
    np.testing.assert_array_equal(second.rank.raw, first.rank.raw[order])
    assert second.above == first.above


GOOD = np.random.default_rng(0).normal(size=(5, 3))


def call(values: Array = GOOD, ids: list[str] | None = None, **changes: Any) -> Callable[[], object]:
    return lambda: individuals(values, ids or ["a", "b", "c"], **{"tolerance": 3.0, **changes})


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (call(GOOD[:2]), "oracles must be at least 2, got 1"),
        (call(GOOD * math.nan), "margins must be finite, got 15 NaN"),
        (call(ids=["a", "b"]), "ids must name every point, got 2 for 3 points; align them"),
        (call(ids=["a", "b", "a"]), "ids must be unique, got 'a' more than once"),
        (call(tolerance=0.0), "tolerance must be positive, in standard deviations between oracles, got 0.0; use 3"),
        (call(worst=-1), "worst must be at least 0, got -1"),
        (call(significance=5.0), "significance must lie strictly between 0 and 1, got 5.0"),
        (call(confidence=95.0), "confidence must lie strictly between 0 and 1, got 95.0"),
        (lambda: resolution(1, 10), "oracles must be at least 2, got 1; retrain more"),
        (lambda: resolution(5, 0), "families must be at least 1, got 0"),
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()
