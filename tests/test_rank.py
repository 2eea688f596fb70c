import itertools
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.attacks import BASEOffline
from unlearnkit.audits.statistics.rank import (
    RMIA_A,
    Z_CAP,
    RankResult,
    against_references,
    log_ratio,
    margin_z,
    mde_factor,
    oracle_rank,
    oracles_needed,
    planted_mde,
    power_at,
)
from unlearnkit.result import UsageError
from unlearnkit.types import Known, Observation, References

Array = NDArray[np.float64]
RUNS = 2000


def naive_deviation(values: Array) -> Array:
    """Leave-one-out studentized deviation, one model and one column at a time."""
    found = np.zeros_like(values)
    for j, i in itertools.product(*map(range, values.shape)):
        others = np.delete(values[:, i], j)
        gap, sd = abs(values[j, i] - others.mean()), others.std(ddof=1)
        if np.all(others == others[0]):
            found[j, i] = 0.0 if values[j, i] == others[0] else np.inf
        else:
            found[j, i] = gap / sd
    return found


def naive_p(values: Array) -> tuple[Array, Array]:
    deviation = naive_deviation(values)
    raw = (1 + (deviation[1:] >= deviation[0]).sum(axis=0)) / len(values)
    adjusted = (1 + (deviation[1:].max(axis=1)[:, None] >= deviation[0]).sum(axis=0)) / len(values)
    return raw, adjusted


def models(rng: np.random.Generator, oracles: int, columns: int = 3, common: float = 0.7) -> Array:
    """Exchangeable rows of correlated columns with unequal scales and laws."""
    shared = rng.normal(size=(oracles + 1, 1))
    values = np.sqrt(common) * shared + np.sqrt(1 - common) * rng.normal(size=(oracles + 1, columns))
    values[:, -1] = np.exp(values[:, -1])
    return np.asarray(values * 10.0 ** np.arange(columns) + 5.0, dtype=np.float64)


def numbers(results: tuple[RankResult, ...]) -> Array:
    return np.array([[r.p, r.p_adjusted, r.p_tolerance] for r in results])


@pytest.mark.parametrize("oracles", [2, 3, 5, 19, 20])
@pytest.mark.parametrize("seed", range(4))
def test_p_values_are_the_naive_ones(oracles: int, seed: int) -> None:
    values = models(np.random.default_rng(seed), oracles)
    values[0] += np.array([1.0, 0.0, -300.0])
    raw, adjusted = naive_p(values)
    found = oracle_rank(values, tolerances=np.full(3, 0.1))
    np.testing.assert_array_equal([r.p for r in found], raw)
    np.testing.assert_array_equal([r.p_adjusted for r in found], adjusted)
    for i, result in enumerate(found):
        assert result.oracle_mean == pytest.approx(values[1:, i].mean(), rel=1e-12)
        assert result.oracle_sd == pytest.approx(values[1:, i].std(ddof=1), rel=1e-12)
        assert result.shift.value == pytest.approx(values[0, i] - values[1:, i].mean(), rel=1e-9, abs=1e-12)


def test_p_by_hand() -> None:
    # mean of all 5 rows is 2; distances 4 | 2 1 0 1: only the audited model is that far out
    values = np.array([[6.0], [0.0], [1.0], [2.0], [1.0]])
    assert oracle_rank(values, tolerances=np.ones(1))[0].p == 1 / 5
    # mean 1; distances 1 | 1 2 0 2: ties count against rejection
    values = np.array([[2.0], [0.0], [3.0], [1.0], [-1.0]])
    assert oracle_rank(values, tolerances=np.ones(1))[0].p == 4 / 5


def test_null_p_is_uniform_and_the_family_wise_error_is_kept() -> None:
    rng = np.random.default_rng(1)
    tolerances = np.array([1e-9, 1e-9, 1e-9])
    found = np.array([numbers(oracle_rank(models(rng, 19), tolerances=tolerances)) for _ in range(RUNS)])
    for column in range(3):  # 20 equally likely values
        counts = np.bincount(np.rint(found[:, column, 0] * 20).astype(int), minlength=21)[1:]
        assert stats.chisquare(counts).pvalue > 1e-3
    for level in (0.2, 0.05):
        low, high = stats.binom.interval(0.999, RUNS, level)
        assert low <= np.count_nonzero(found[:, :, 1].min(axis=1) <= level + 1e-9) <= high
    assert np.count_nonzero(found[:, :, 0].min(axis=1) <= 0.05 + 1e-9) > high  # without adjustment it is not


def test_family_wise_error_is_kept_beside_a_true_shift() -> None:
    rng, false = np.random.default_rng(2), 0
    for _ in range(RUNS):
        values = models(rng, 19)
        values[0, 0] += 8.0
        false += min(r.p_adjusted for r in oracle_rank(values, tolerances=np.ones(3))[1:]) <= 0.05
    assert false <= stats.binom.ppf(0.9995, RUNS, 0.05)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("size", [0.5, 5.0])
def test_size_at_the_tolerance(columns: int, size: float) -> None:
    rng, false = np.random.default_rng(3), 0
    scale = np.array([1.0, 10.0, 100.0])[:columns]
    signs = np.where(np.arange(columns) % 2 == 0, 1.0, -1.0)
    for _ in range(RUNS):
        values = models(rng, 19, columns)
        values[0] += signs * size * scale
        false += min(r.p_tolerance for r in oracle_rank(values, tolerances=size * scale)) <= 0.05
    assert false <= stats.binom.ppf(0.9995, RUNS, 0.05)
    if columns == 1 and size == 5.0:  # far from the mean the move restores the exchangeable rows: size is exact
        assert false >= stats.binom.ppf(0.0005, RUNS, 0.05)


def test_p_tolerance_is_the_p_value_of_the_moved_model() -> None:
    values = models(np.random.default_rng(4), 19)
    values[0] = values[1:].mean(axis=0) + np.array([3.0, -40.0, 50.0])
    tolerances = np.array([0.5, 10.0, 100.0])
    moved = values.copy()
    moved[0] += np.array([-0.5, 10.0, -50.0])
    found = oracle_rank(values, tolerances=tolerances)
    np.testing.assert_array_equal([r.p_tolerance for r in found][:2], naive_p(moved)[1][:2])
    assert found[2].p_tolerance == 1.0  # within the tolerance
    assert found[0].p_adjusted <= found[0].p_tolerance


@pytest.mark.parametrize(
    ("oracles", "confidence"), [(19, 0.95), (19, 0.9), (20, 0.8), (39, 0.95), (5, 0.6), (2, 0.5), (9, 0.9), (3, 0.3)]
)
def test_shift_limits_invert_the_rank_test(oracles: int, confidence: float) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        values = np.exp(rng.normal(size=(oracles + 1, 1)))
        values[0] += 2.0
        shift = oracle_rank(values, tolerances=np.ones(1), confidence=confidence)[0].shift
        assert shift.low is not None
        assert shift.high is not None
        assert shift.low <= shift.value <= shift.high
        width = shift.high - shift.low
        grid = np.linspace(shift.low - width, shift.high + width, 301) + width * 1e-7
        for step in grid:
            moved = values.copy()
            moved[0] -= step
            accepted = naive_p(moved)[0][0] > 1 - confidence + 1e-9
            assert accepted == (shift.low <= step <= shift.high)
        for limit, outwards in ((shift.low, -1.0), (shift.high, 1.0)):  # the limits themselves, from both sides
            for side, inside in ((outwards, False), (-outwards, True)):
                moved = values.copy()
                moved[0] -= limit + side * 1e-6 * width
                assert (naive_p(moved)[0][0] > 1 - confidence + 1e-9) == inside


def test_too_few_oracles_for_the_confidence_have_no_limits() -> None:
    values = models(np.random.default_rng(5), 18)
    for result in oracle_rank(values, tolerances=np.ones(3)):
        assert (result.shift.low, result.shift.high, result.mde) == (None, None, None)
        assert result.p >= 1 / 19
    enough = oracle_rank(models(np.random.default_rng(5), 19), tolerances=np.ones(3))[0]
    assert None not in (enough.shift.low, enough.shift.high, enough.mde)


def test_order_of_the_oracles_changes_nothing_to_the_last_bit() -> None:
    rng = np.random.default_rng(6)
    values = models(rng, 21)
    values[:, 1] = np.round(values[:, 1])  # ties
    first = oracle_rank(values, tolerances=np.ones(3))
    for _ in range(10):
        order = np.concatenate([[0], 1 + rng.permutation(21)])
        assert oracle_rank(values[order], tolerances=np.ones(3)) == first


def test_units_and_signs_change_nothing() -> None:
    values = models(np.random.default_rng(7), 19)
    values[0] += np.array([2.0, 5.0, 100.0])
    first = oracle_rank(values, tolerances=np.array([0.5, 0.5, 0.5]))
    second = oracle_rank(-1000.0 * values + 7.0, tolerances=np.array([500.0, 500.0, 500.0]))
    np.testing.assert_array_equal(numbers(first), numbers(second))
    for a, b in zip(first, second, strict=True):
        assert a.shift.low is not None
        assert b.shift.high == pytest.approx(-1000 * a.shift.low)
        assert a.mde is not None
        assert b.mde == pytest.approx(1000 * a.mde)


def test_equal_values_tie_in_spite_of_rounding() -> None:
    """Statistics on a grid (shares of 7 and 9): the audited model has twins on both sides of the mean."""
    values = np.array([[3 / 7, 0.1 * 3]] + [[3 / 7, 0.3]] * 9 + [[1 / 7 + 3 / 7 + 1 / 7, -0.3]] * 10)
    found = oracle_rank(values, tolerances=np.ones(2))
    assert [r.p for r in found] == [1.0, 1.0]
    assert [r.p_adjusted for r in found] == [1.0, 1.0]


def test_ties_between_columns_count_in_spite_of_rounding() -> None:
    """Column 1 holds the values of column 0 in another order and unit: oracle 5 is there what the audited model is."""
    for seed in range(30):
        column = np.random.default_rng(seed).uniform(-1.0, 1.0, size=20)
        column[0] = 3.0
        values = np.stack([column, np.roll(column, 5) * 3 + 0.1], axis=1)
        assert oracle_rank(values, tolerances=np.ones(2))[0].p_adjusted == 2 / 20


def test_near_ties_are_ties_for_both_p_values() -> None:
    values = np.array([[1e-13], [0.0], [1.0], [-1.0], [1.0], [-1.0]])
    found = oracle_rank(values, tolerances=np.ones(1))[0]
    assert (found.p, found.p_adjusted) == (1.0, 1.0)


def test_oracles_that_do_not_differ() -> None:
    values = np.full((20, 3), 0.1)
    values[0, 1] = 0.3
    values[:, 2] = np.random.default_rng(8).normal(size=20)
    same, other, spread = oracle_rank(values, tolerances=np.full(3, 0.05))
    assert (same.p, same.p_adjusted, same.p_tolerance) == (1.0, 1.0, 1.0)
    assert (same.shift.low, same.shift.value, same.shift.high, same.mde, same.oracle_sd) == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert (other.p, other.p_adjusted, other.p_tolerance) == (1 / 20, 1 / 20, 1 / 20)
    assert other.shift.value == pytest.approx(0.2)
    assert other.oracle_mean == 0.1
    wide = oracle_rank(values, tolerances=np.full(3, 0.25))[1]
    assert wide.p_tolerance == 1.0
    for result in (same, other, spread):
        assert np.all(np.isfinite([v for v in astuple(result)[1:] if v is not None]))


def test_an_oracle_that_alone_differs_is_not_held_against_the_audited_model() -> None:
    values = np.full((20, 2), 2.0)
    values[5, 0] = 3.0  # its own deviation is infinite
    values[0, 1] = 3.0
    same, other = oracle_rank(values, tolerances=np.full(2, 0.5))
    assert same.p == 1.0
    assert (other.p, other.p_adjusted) == (1 / 20, 2 / 20)


@pytest.mark.parametrize(("oracles", "significance"), [(19, 0.05), (39, 0.05), (39, 0.025), (2, 0.4)])
def test_power_at_the_mde_is_the_power_stated(oracles: int, significance: float) -> None:
    """Simulated through the naive rule: mean of all rows, count, compare."""
    factor = mde_factor(oracles, significance=significance, power=0.8)
    assert factor is not None
    rng = np.random.default_rng(9)
    for shift, power in ((factor, 0.8), (factor / 2, power_at(factor / 2, oracles=oracles, significance=significance))):
        draws = rng.normal(size=(20_000, oracles + 1))
        draws[:, 0] += shift
        distance = np.abs(draws - draws.mean(axis=1, keepdims=True))
        p = (1 + (distance[:, 1:] >= distance[:, :1]).sum(axis=1)) / (oracles + 1)
        assert np.mean(p <= significance + 1e-9) == pytest.approx(power, abs=0.015)
    assert power_at(-factor, oracles=oracles, significance=significance) == pytest.approx(0.8, abs=0.01)


def test_power_of_oracle_rank_at_its_mde() -> None:
    factor, rng, found = mde_factor(19), np.random.default_rng(10), 0
    assert factor is not None
    for _ in range(1000):
        values = rng.normal(size=(20, 1))
        values[0] += factor
        found += oracle_rank(values, tolerances=np.ones(1))[0].p <= 0.05
    assert found / 1000 == pytest.approx(0.8, abs=0.05)
    values = rng.normal(size=(20, 1))
    result = oracle_rank(values, tolerances=np.ones(1))[0]
    assert result.mde == pytest.approx(factor * values[1:].std(ddof=1))


def test_power_at_no_shift_is_the_level() -> None:
    assert power_at(0.0, oracles=19) == pytest.approx(0.05, abs=0.002)
    assert power_at(0.0, oracles=39, significance=0.05) == pytest.approx(0.05, abs=0.002)
    assert power_at(0.0, oracles=99, significance=0.1) == pytest.approx(0.1, abs=0.002)
    assert power_at(100.0, oracles=18) == 0.0
    assert power_at(100.0, oracles=19) == pytest.approx(1.0)
    assert mde_factor(18) is None
    assert mde_factor(19, significance=0.1, power=0.05) == 0.0


def test_more_oracles_help_little() -> None:
    few, more, many = (mde_factor(n) for n in (19, 39, 199))
    assert few is not None
    assert more is not None
    assert many is not None
    assert 3.3 > few > more > many > 2.8  # 2.80 with a known mean and spread


def test_oracles_needed() -> None:
    assert [oracles_needed(significance=a) for a in (0.05, 0.025, 0.01, 0.1)] == [19, 39, 99, 9]
    assert oracles_needed(significance=0.05, families=2) == 39
    assert oracles_needed(significance=0.05, families=3) == 59
    assert oracles_needed(significance=0.9) == 2
    assert oracles_needed(significance=1 - 0.9) == 9  # a little below 0.1


@pytest.mark.parametrize("shape", [(3, 1), (4, 5), (20, 30)])
def test_margin_z_is_the_naive_one(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(11)
    margins = rng.normal(size=shape) * np.exp(rng.normal(size=shape[1])) + 3.0
    margins[-1, 0] += 500.0  # an outlier: its own square must not be subtracted from a total
    z = np.array(
        [
            [
                (margins[j, i] - np.delete(margins[:, i], j).mean()) / np.delete(margins[:, i], j).std(ddof=1)
                for i in range(shape[1])
            ]
            for j in range(shape[0])
        ]
    )
    np.testing.assert_allclose(margin_z(margins), np.clip(z, -Z_CAP, Z_CAP), rtol=1e-9, atol=1e-12)


def test_margin_z_keeps_its_digits() -> None:
    margins = np.random.default_rng(12).integers(-8, 9, size=(20, 4)) / 8.0
    plain = margin_z(margins)
    np.testing.assert_allclose(margin_z(margins + 2.0**40), plain, rtol=1e-9, atol=1e-12)  # exact in binary
    np.testing.assert_allclose(margin_z(margins * 2.0**-600), plain, rtol=1e-9, atol=1e-12)  # squares would underflow
    np.testing.assert_allclose(margin_z(margins * 2.0**600), plain, rtol=1e-9, atol=1e-12)


def test_margin_z_without_spread() -> None:
    margins = np.full((5, 3), 0.1)
    margins[2, 1], margins[3, 2] = 0.2, -0.2
    z = margin_z(margins)
    np.testing.assert_array_equal(z[:, 0], np.zeros(5))
    assert z[2, 1] == Z_CAP
    assert z[3, 2] == -Z_CAP
    assert np.all(np.abs(np.delete(z[:, 1], 2)) < 1)


def test_the_log_ratio_is_that_of_the_attack_with_all_other_models_as_references() -> None:
    """The naive twin asks the attack once for every model; margins from one half of confidence to saturation."""
    rng = np.random.default_rng(12)
    margins = rng.normal(4.0, 9.0, (12, 1)) * rng.random((1, 60)) + rng.normal(size=(12, 60))
    found = log_ratio(margins)
    ids, y = np.arange(60).astype(str), np.zeros(60, dtype=np.int64)
    seen = [Observation(ids, y, row[:, None]) for row in margins]
    for j, own in enumerate(seen):
        known = Known(references=References.unseen([one for i, one in enumerate(seen) if i != j]))
        np.testing.assert_allclose(found[j], BASEOffline(a=RMIA_A).score(own, known).values, rtol=1e-9, atol=1e-15)
    order = rng.permutation(12)
    np.testing.assert_array_equal(log_ratio(margins[order]), found[order])
    alone = against_references(margins[0], (1 / (1 + np.exp(margins[1:]))).mean(axis=0))
    np.testing.assert_allclose(alone, found[0], rtol=1e-9, atol=1e-15)


GOOD, TAU = np.random.default_rng(0).normal(size=(20, 2)), np.ones(2)


def spoiled() -> Array:
    values = GOOD.copy()
    values[3, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: oracle_rank(GOOD[:2], tolerances=TAU), "oracles must be at least 2, got 1; retrain more"),
        (
            lambda: oracle_rank(GOOD[:, 0], tolerances=TAU),
            r"values must be a 2-D array, one row per model.*got shape \(20,\)",
        ),
        (lambda: oracle_rank(GOOD[:, :0], tolerances=TAU), r"values must be a 2-D array.*got shape \(20, 0\)"),
        (lambda: oracle_rank(spoiled(), tolerances=TAU), "values must be finite, got 1 NaN or infinite of 40; leave"),
        (
            lambda: oracle_rank(GOOD, tolerances=np.ones(3)),
            r"tolerances must have one entry.*\(2,\), got \(3,\); state",
        ),
        (lambda: oracle_rank(GOOD, tolerances=np.array([1.0, 0.0])), r"must be positive and finite, got \[1.0, 0.0\]"),
        (lambda: oracle_rank(GOOD, tolerances=np.array([1.0, np.nan])), "tolerances must be positive and finite"),
        (lambda: oracle_rank(GOOD, tolerances=TAU, confidence=95.0), "confidence must lie strictly between 0 and 1"),
        (lambda: oracle_rank(GOOD, tolerances=TAU, power=80.0), "power must lie strictly between 0 and 1, got 80.0"),
        (lambda: log_ratio(GOOD[:2]), "oracles must be at least 2, got 1"),
        (lambda: margin_z(GOOD[:2]), "oracles must be at least 2, got 1"),
        (lambda: margin_z(GOOD[0]), "margins must be a 2-D array"),
        (lambda: margin_z(spoiled()), "margins must be finite, got 1 NaN"),
        (lambda: oracles_needed(significance=0.0), "significance must lie strictly"),
        (lambda: oracles_needed(significance=0.05, families=0), "families must be at least 1, got 0"),
        (lambda: power_at(float("nan"), oracles=19), "shift must be finite, in standard deviations.*got nan"),
        (lambda: power_at(1.0, oracles=1), "oracles must be at least 2, got 1"),
        (lambda: power_at(1.0, oracles=19, significance=5.0), "significance must lie strictly"),
        (lambda: mde_factor(1), "oracles must be at least 2, got 1"),
        (lambda: mde_factor(19, significance=5.0), "significance must lie strictly"),
        (lambda: mde_factor(19, power=0.0), "power must lie strictly"),
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()


# -- the MDE by planting -------------------------------------------------------------------------------------------


def _share_found(models: NDArray[np.float64], leak: float, *, others: float = 1.0) -> float:
    """Every model in turn shifted by `leak`, the others made smaller: how many of them the test itself finds."""
    found = 0
    for j in range(models.size):
        values = np.concatenate([models[j : j + 1] + leak, others * np.delete(models, j)])
        found += oracle_rank(values[:, None], tolerances=np.ones(1))[0].p <= 0.05
    return found / models.size


@pytest.mark.parametrize("seed", range(3))
def test_planted_mde_is_where_the_test_itself_finds_four_in_five(seed: int) -> None:
    """At least 33 of 40, for one more draw like them to be found in four of five cases: 0.8 times 41 is 32.8."""
    models = np.random.default_rng(seed).standard_t(3, 40)
    mde = planted_mde(models)
    assert mde is not None
    less, more = (min(_share_found(models, by * mde), _share_found(models, -by * mde)) for by in (0.999, 1.001))
    assert less < more >= 33 / 40
    upward = planted_mde(models, upward=True)
    assert upward is not None
    less, more = (_share_found(models, by * upward) for by in (0.999, 1.001))
    assert less < more >= 33 / 40
    assert upward <= mde


def test_planted_mde_counts_what_the_leak_does_to_the_others() -> None:
    """Where a shifted model widens what the others are held against, a smaller shift stands out."""
    models = 3 + np.random.default_rng(5).standard_t(3, 40) / 2

    def beside(others: NDArray[np.float64], leak: float) -> NDArray[np.float64]:
        return others / np.sqrt(1 + leak**2 / others.size)

    alone, mde = planted_mde(models, upward=True), planted_mde(models, upward=True, beside=beside)
    assert alone is not None
    assert mde is not None
    assert mde < alone
    less, more = (
        _share_found(models, size, others=1 / np.sqrt(1 + size**2 / 39)) for size in (0.999 * mde, 1.001 * mde)
    )
    assert less < more >= 33 / 40


def test_planted_mde_needs_models_enough_to_reject() -> None:
    assert planted_mde(np.arange(19.0)) is None
    assert planted_mde(np.arange(20.0)) is not None
    with pytest.raises(UsageError, match="oracles must be at least 2"):
        planted_mde(np.arange(2.0))
