import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.collateral import collateral, paired_gap
from unlearnkit.audits.statistics.multiplicity import holm
from unlearnkit.audits.statistics.rank import oracle_rank
from unlearnkit.audits.statistics.roc import clopper_pearson
from unlearnkit.result import UsageError

Right = NDArray[np.bool_]
NAMES = ("cat", "dog", "eel")


def answers(rng: np.random.Generator, models: int, points: int, groups: int = 3) -> tuple[Right, NDArray[np.int64]]:
    """Right answers of exchangeable models: points of unequal difficulty, models of unequal quality."""
    group = np.arange(points) % groups
    ease = rng.normal(size=points) + 1.0
    quality = 0.3 * rng.normal(size=(models, 1))
    return ease + quality + rng.normal(size=(models, points)) > 0, group


def test_table_by_hand() -> None:
    right = np.array(
        [
            [1, 0, 0, 0, 1, 1],
            [1, 1, 1, 0, 1, 1],
            [1, 1, 0, 0, 1, 0],
        ],
        dtype=np.bool_,
    )
    group = np.array([0, 0, 0, 0, 1, 1])
    found = collateral(right, group, ("cat", "dog"))
    cat, dog = found.groups
    assert (cat.name, cat.points, cat.accuracy) == ("cat", 4, clopper_pearson(1, 4))
    assert (cat.oracle_low, cat.oracle_high) == (0.5, 0.75)
    assert cat.rank.shift.value == cat.gap.value == -0.375
    assert (dog.name, dog.points, dog.accuracy.value, dog.gap.value) == ("dog", 2, 1.0, 0.25)
    assert (found.worst, found.worst_drop) == ("cat", 0.375)
    # oracle 1: cat 0.75 against 0.375, dog 1.0 against 0.75; oracle 2: cat 0.5 against 0.5, dog 0.5 against 1.0
    np.testing.assert_allclose(found.floor, [-0.25, 0.5])
    assert found.p_worst == 2 / 3
    assert found.lowest == 0.25
    np.testing.assert_allclose(found.lowest_oracles, [0.75, 0.5])


def test_ranks_are_those_of_the_group_accuracies() -> None:
    right, group = answers(np.random.default_rng(0), 20, 300)
    right[0, group == 1] = False
    found = collateral(right, group, NAMES, tolerance=0.05)
    shares = np.stack([right[:, group == g].mean(axis=1) for g in range(3)], axis=1)
    ranks = oracle_rank(shares, tolerances=np.full(3, 0.05))
    assert tuple(row.rank for row in found.groups) == ranks
    np.testing.assert_array_equal([row.p_holm for row in found.groups], holm(np.array([r.p for r in ranks])))


def test_exchangeable_models_are_rejected_at_the_nominal_rate() -> None:
    rng, runs = np.random.default_rng(1), 200
    found = [collateral(*answers(rng, 20, 450), NAMES) for _ in range(runs)]
    worst = sum(f.p_worst <= 0.2 + 1e-9 for f in found)
    single = sum(f.groups[0].rank.p <= 0.2 + 1e-9 for f in found)
    low, high = stats.binom.interval(0.99, runs, 0.2)
    assert 0.5 * low <= worst <= high  # ties between shares cost a little
    assert 0.5 * low <= single <= high
    assert sum(min(row.p_holm for row in f.groups) <= 0.2 + 1e-9 for f in found) <= high


def test_a_class_that_lost_is_found_and_named() -> None:
    rng, runs, holm_found = np.random.default_rng(2), 60, 0
    for _ in range(runs):
        right, group = answers(rng, 60, 450)
        lost = (group == 2) & (rng.random(450) < 0.7)
        right[0, lost] = False
        found = collateral(right, group, NAMES)
        assert found.worst == "eel"
        assert found.p_worst <= 0.05
        holm_found += found.groups[2].p_holm <= 0.05
        gap = found.groups[2].gap
        assert gap.high is not None
        assert gap.high < 0
    assert holm_found == runs


def test_few_oracles_find_the_worst_group_but_no_single_one_by_holm() -> None:
    right, group = answers(np.random.default_rng(3), 20, 450)
    right[0, group == 0] = False
    found = collateral(right, group, NAMES)
    assert found.p_worst == 1 / 20
    assert found.groups[0].rank.p_adjusted == 1 / 20
    assert found.groups[0].p_holm == pytest.approx(3 / 20)


def test_paired_limits_solve_hoeffdings_inequality() -> None:
    right = np.zeros((3, 40), dtype=np.bool_)
    right[0, :30] = True
    right[1, :25] = True
    right[2, 5:35] = True
    gap = paired_gap(right, confidence=0.9)
    share = right[1:].mean(axis=0)
    gained, lost = np.mean(right[0] * (1 - share)), np.mean(~right[0] * share)
    assert gap.value == pytest.approx(gained - lost)
    assert gap.value == pytest.approx(30 / 40 - (25 + 30) / 80)

    def bound(mean: float, side: int) -> float:
        """The farthest coin on a fine grid whose divergence from `mean` the bound allows."""
        grid = np.linspace(0, 1, 2_000_001)[1:-1]
        kl = mean * np.log(mean / grid) + (1 - mean) * np.log((1 - mean) / (1 - grid))
        return float(grid[kl <= math.log(4 / 0.1) / 40][side])

    assert gap.low == pytest.approx(bound(gained, 0) - bound(lost, -1), abs=2e-6)
    assert gap.high == pytest.approx(bound(gained, -1) - bound(lost, 0), abs=2e-6)


def test_paired_limits_at_the_ends() -> None:
    same = np.ones((3, 50), dtype=np.bool_)
    gap = paired_gap(same)
    reach = 1 - (0.05 / 4) ** (1 / 50)  # no difference among 50 points: the rule of three, at a quarter of the error
    assert gap.value == 0.0
    assert gap.low == pytest.approx(-reach)
    assert gap.high == pytest.approx(reach)
    same[0] = False
    gap = paired_gap(same)
    assert (gap.low, gap.value) == (-1.0, -1.0)
    assert gap.high == pytest.approx(-1 + 2 * reach)
    one_of_many = np.zeros((2001, 50), dtype=np.bool_)
    one_of_many[5, 3] = True  # a mean too small for any positive lower limit
    assert paired_gap(one_of_many).high == pytest.approx(reach)


def test_paired_limits_cover_the_gap_of_these_models() -> None:
    rng = np.random.default_rng(4)
    right, _ = answers(rng, 6, 20_000)
    right[0, :2000] = False
    true = float(right[0].mean() - right[1:].mean())
    runs, covered, width = 300, 0, []
    for _ in range(runs):
        gap = paired_gap(right[:, rng.choice(20_000, size=120, replace=False)])
        assert gap.low is not None
        assert gap.high is not None
        covered += gap.low <= true <= gap.high
        width.append(gap.high - gap.low)
    assert covered >= stats.binom.ppf(0.005, runs, 0.95)
    assert np.mean(width) < 2 * 2 * math.sqrt(math.log(2 / 0.05) / (2 * 120))  # better than the plain Hoeffding range


def test_the_order_of_oracles_and_points_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    right, group = answers(rng, 10, 90)
    first = collateral(right, group, NAMES)
    order = rng.permutation(90)
    second = collateral(right[[0, *range(9, 0, -1)]][:, order], group[order], NAMES)
    assert [row.rank for row in second.groups] == [row.rank for row in first.groups]
    assert (second.worst, second.p_worst) == (first.worst, first.p_worst)
    np.testing.assert_allclose(second.floor, first.floor[::-1])


RIGHT, GROUP = answers(np.random.default_rng(0), 5, 9)


def call(right: NDArray[Any] = RIGHT, group: NDArray[Any] = GROUP, **changes: Any) -> Callable[[], object]:
    chosen = changes.pop("names", NAMES)
    return lambda: collateral(right, group, chosen, **changes)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            call(RIGHT[0]),
            r"correct must be a 2-D array of True and False.*shape \(9,\); put the audited model in row 0",
        ),
        (call(RIGHT[:2]), "oracles must be at least 2, got 1"),
        (call(group=GROUP[:5]), r"group must have one entry per point, shape \(9,\), got \(5,\); align it"),
        (call(names=("cat", "dog", "cat")), r"names must be unique, at least one, got \['cat', 'dog', 'cat'\]"),
        (call(names=()), r"names must be unique, at least one, got \[\]; name every group once"),
        (call(names=("cat", "dog")), "group must be 0 to 1, one number per name, got 2; name that group"),
        (call(group=GROUP - 1), "group must be 0 to 2, one number per name, got -1"),
        (call(names=(*NAMES, "fox")), "group: 'fox' has no test point; leave that name out"),
        (call(tolerance=2.0), "tolerance must lie strictly between 0 and 1, got 2.0"),
        (call(confidence=95.0), "confidence must lie strictly between 0 and 1, got 95.0"),
        (call(power=80.0), "power must lie strictly between 0 and 1, got 80.0"),
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()


@pytest.mark.usefixtures("as_users_run")
def test_shares_instead_of_answers_are_refused() -> None:
    with pytest.raises(
        UsageError, match="correct must be a 2-D array of True and False, one row per model, got float64"
    ):
        call(RIGHT.astype(np.float64))()
