from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.multiplicity import benjamini_hochberg, holm, holm_families
from unlearnkit.result import UsageError

Array = NDArray[np.float64]


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def some_p(seed: int, size: int = 25) -> Array:
    rng = np.random.default_rng(seed)
    return np.round(rng.beta(0.5, 2.0, size), 2)  # rounded: ties, and a zero now and then


def rejected_by_holm(p: Array, level: float) -> set[int]:
    """The rule of the paper: from the smallest on, until one is above level / (tests left)."""
    found: set[int] = set()
    for step, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] * (len(p) - step) > level:
            break
        found.add(int(i))
    return found


def rejected_by_benjamini_hochberg(p: Array, level: float) -> set[int]:
    """The rule of the paper: all up to the last one that is at most its rank times level / k."""
    order = np.argsort(p, kind="stable")
    last = max((i + 1 for i in range(len(p)) if p[order[i]] * (len(p) / (i + 1)) <= level), default=0)
    return {int(i) for i in order[:last]}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("level", [0.013, 0.051, 0.3])
@pytest.mark.parametrize(
    ("adjust", "rejected"), [(holm, rejected_by_holm), (benjamini_hochberg, rejected_by_benjamini_hochberg)]
)
def test_adjusted_p_values_reject_what_the_papers_rule_rejects(
    adjust: Callable[[Array], Array], rejected: Callable[[Array, float], set[int]], level: float, seed: int
) -> None:
    p = some_p(seed)
    assert {int(i) for i in np.flatnonzero(adjust(p) <= level)} == rejected(p, level)


def test_by_hand() -> None:
    p = floats(0.03, 0.01, 0.04, 0.02)
    np.testing.assert_allclose(holm(p), [0.06, 0.04, 0.06, 0.06])  # 4 x 0.01, 3 x 0.02, 2 x 0.03, then never less
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, 0.04, 0.04, 0.04])
    np.testing.assert_allclose(benjamini_hochberg(floats(0.5, 0.01)), [0.5, 0.02])
    np.testing.assert_allclose(holm(floats(0.9, 0.8, 0.0)), [1.0, 1.0, 0.0])
    for adjust in (holm, benjamini_hochberg):
        np.testing.assert_array_equal(adjust(floats(0.3)), [0.3])


@pytest.mark.parametrize("seed", range(4))
def test_adjusted_p_values_keep_order_and_lie_between_raw_and_bonferroni(seed: int) -> None:
    p = some_p(seed)
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))
    assert np.all(p <= benjamini_hochberg(p))
    assert np.all(benjamini_hochberg(p) <= holm(p))
    assert np.all(holm(p) <= np.minimum(1.0, len(p) * p))
    mixed = np.random.default_rng(seed).permutation(len(p))
    for adjust in (holm, benjamini_hochberg):
        np.testing.assert_array_equal(adjust(p[mixed]), adjust(p)[mixed])
        assert np.all(np.diff(adjust(np.sort(p))) >= 0)


def rejected_by_families(families: list[list[float]], level: float) -> set[tuple[int, int]]:
    """Every family in the game counts; its rejected members are out, and it leaves when all of them are."""
    found: set[tuple[int, int]] = set()
    while True:
        alive = [i for i, family in enumerate(families) if any((i, j) not in found for j in range(len(family)))]
        new = {(i, j) for i in alive for j, q in enumerate(families[i]) if len(alive) * q <= level} - found
        if not new:
            return found
        found |= new


@pytest.mark.parametrize("seed", range(8))
def test_families_step_down_and_families_of_one_are_holm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    families = [some_p(100 * seed + k, int(rng.integers(1, 4))).tolist() for k in range(int(rng.integers(1, 9)))]
    adjusted = holm_families(families)
    for level in (0.013, 0.051, 0.171, 0.513):
        rejected = {(i, j) for i, family in enumerate(adjusted) for j, q in enumerate(family) if q <= level}
        assert rejected == rejected_by_families(families, level)
    p = some_p(seed)
    np.testing.assert_allclose(np.ravel(holm_families([[float(q)] for q in p])), holm(p), rtol=1e-14)


def test_a_family_with_one_undecided_member_still_counts() -> None:
    assert holm_families([[0.001, 0.9], [0.03]]) == [[0.002, 0.9], [0.06]]


def test_error_rates_are_kept() -> None:
    """Ten questions, five of them with a true effect: false alarms of any kind, and the share of false findings."""
    rng, runs, any_false, false_share = np.random.default_rng(4), 4000, 0, 0.0
    for _ in range(runs):
        p = stats.norm.sf(rng.normal(size=10) + np.repeat([2.5, 0.0], 5))
        any_false += bool(np.any(holm(p)[5:] <= 0.05))
        found = benjamini_hochberg(p) <= 0.05
        false_share += float(found[5:].sum()) / max(1.0, float(found.sum()))
    assert any_false <= stats.binom.ppf(0.995, runs, 0.05)
    assert any_false > 0.2 * runs * 0.05  # not empty-handed
    assert abs(false_share / runs - 0.05 * 5 / 10) < 0.006  # exactly level x (true nulls / questions), independent p


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: holm(floats()), r"p must be a non-empty 1-D array of p-values, got shape \(0,\); flatten it"),
        (lambda: holm(np.ones((2, 2))), r"got shape \(2, 2\)"),
        (lambda: benjamini_hochberg(floats(0.1, np.nan, -0.1)), r"p-values within \[0, 1\], got 2 of 3 outside or NaN"),
        (lambda: holm(floats(5.0)), "got 1 of 1 outside"),
        (lambda: holm_families([]), "families must hold at least one family of p-values, got none"),
        (lambda: holm_families([[0.1], []]), r"families must be a non-empty 1-D array of p-values, got shape \(0,\)"),
        (lambda: holm_families([[0.1], [1.1]]), "families must hold p-values within"),
    ],
)
def test_misuse_is_answered_with_a_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
