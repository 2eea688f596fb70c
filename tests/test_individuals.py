import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.individuals import individuals
from unlearnkit.audits.statistics.rank import oracle_rank
from unlearnkit.audits.statistics.roc import clopper_pearson
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


def naive_z(values: Array) -> Array:
    rows = []
    for j in range(len(values)):
        others = np.delete(values, j, axis=0)
        rows.append((values[j] - others.mean(axis=0)) / others.std(axis=0, ddof=1))
    return np.stack(rows)


def test_rank_p_is_that_of_the_oracle_rank_test() -> None:
    values = margins(0, 19, 12)
    values[0, :4] += 10.0
    values[:, 5] = np.round(values[:, 5])  # ties
    found = individuals(values, names(12), tolerance=3.0)
    expected = [r.p for r in oracle_rank(values, tolerances=np.ones(12))]
    np.testing.assert_array_equal(found.p_rank, expected)


def test_adjusted_p_counts_the_oracles_whose_farthest_example_lies_as_far() -> None:
    values = margins(1, 9, 6)
    found = individuals(values, names(6), tolerance=3.0)
    z = np.abs(naive_z(values))
    np.testing.assert_allclose(np.abs(found.z), z[0])
    for i in range(6):
        assert found.p_adjusted[i] == np.mean([1.0, *(z[1:].max(axis=1) >= z[0, i])])
    assert np.all(found.p_adjusted >= found.p_rank)


@pytest.mark.parametrize("law", ["normal", "t3", "lognormal"])
def test_an_audited_oracle_flags_somebody_at_the_nominal_rate_whatever_the_law(law: str) -> None:
    rng, runs, flagged, above = np.random.default_rng(2), 400, 0, 0
    for _ in range(runs):
        noise = rng.standard_t(3, (20, 40)) if law == "t3" else rng.normal(size=(20, 40))
        values = np.exp(noise) if law == "lognormal" else noise
        found = individuals(values * rng.lognormal(size=40) + rng.normal(size=(20, 1)), names(40), tolerance=2.5)
        flagged += bool(found.flagged)
        above += found.p_above <= 0.05 + 1e-9
    low, high = stats.binom.interval(0.999, runs, 0.05)
    assert low <= flagged <= high  # exact: neither hasty nor asleep
    assert above <= high


def test_examples_that_are_no_longer_known_are_not_flagged_beside_ones_that_are() -> None:
    """Strong control: what leaks elsewhere makes no other example stand out more often."""
    rng, runs, flagged = np.random.default_rng(3), 400, 0
    for _ in range(runs):
        values = rng.normal(size=(20, 40))
        values[0, :5] += 30.0
        found = individuals(values, names(40), tolerance=2.5)
        assert set(names(5)) <= set(found.flagged)
        flagged += len(found.flagged) > 5
    assert flagged <= stats.binom.ppf(0.9995, runs, 0.05)


def test_planted_individuals_are_named_with_their_direction() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 100))
    values[0, 7] += 16.0
    values[0, 30] -= 9.0
    found = individuals(values, names(100), tolerance=6.0, worst=3)
    assert found.flagged == ("train/7", "train/30")
    first, second, third = found.worst
    assert (first.id, first.direction, second.id, second.direction) == (
        "train/7",
        "remembered",
        "train/30",
        "over-forgotten",
    )
    assert first.z == found.z[7] > 0 > second.z == found.z[30]
    assert (first.p_rank, first.p_adjusted) == (1 / 40, 1 / 40)
    assert third.p_adjusted > 0.05
    assert found.above == clopper_pearson(2, 100)
    assert found.above.value == 0.02
    assert found.floor.shape == (39,)
    assert found.p_above == 1 / 40
    assert individuals(values, names(100), tolerance=6.0, worst=0).worst == ()


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


def test_from_where_an_example_stands_out() -> None:
    values = margins(7, 39, 30)
    found = individuals(values, names(30), tolerance=3.0)
    largest = np.sort(np.abs(naive_z(values))[1:].max(axis=1))
    assert found.stands_out_from == pytest.approx(largest[-2])  # two of forty models may be farther, itself and one
    assert found.resolution == (
        f"An example stands out when it lies farther than {largest[-2]:.1f} σ; of 39 oracles 1 has an example that far "
        "out."
    )
    for i, size in enumerate(np.abs(found.z)):
        assert (f"train/{i}" in found.flagged) == (size > found.stands_out_from)
    few = individuals(values[:19], names(30), tolerance=3.0)
    assert (few.stands_out_from, few.flagged) == (None, ())
    assert few.resolution == "With 18 oracles no example can be singled out at 0.05; 19 are needed."
    assert individuals(values[:20], names(30), tolerance=3.0).resolution.endswith(
        "of 19 oracles none has an example that far out."
    )
    assert individuals(margins(7, 99, 5), names(5), tolerance=3.0).resolution.endswith(
        "of 99 oracles 4 have an example that far out."
    )


def test_examples_without_spread() -> None:
    values = np.zeros((6, 3))
    values[0, 1], values[0, 2] = 1.0, -1.0
    found = individuals(values, ["a", "b", "c"], tolerance=3.0)
    assert [w.id for w in found.worst] == ["b", "c", "a"]  # equally far: by name
    assert [w.direction for w in found.worst] == ["remembered", "over-forgotten", "equal"]
    np.testing.assert_array_equal(found.p_rank, [1.0, 1 / 6, 1 / 6])
    np.testing.assert_array_equal(found.p_adjusted, [1.0, 1 / 6, 1 / 6])


def test_order_of_oracles_and_examples_changes_nothing() -> None:
    values = margins(8, 9, 10)
    first = individuals(values, names(10), tolerance=1.0)
    order = np.random.default_rng(9).permutation(10)
    second = individuals(values[[0, *range(9, 0, -1)]][:, order], [names(10)[i] for i in order], tolerance=1.0)
    assert [w.id for w in second.worst] == [w.id for w in first.worst]
    np.testing.assert_array_equal(second.p_rank, first.p_rank[order])
    np.testing.assert_array_equal(second.p_adjusted, first.p_adjusted[order])
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
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()
