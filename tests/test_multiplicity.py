import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.multiplicity import holm
from unlearnkit.result import UsageError


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.6 times 4 3 2 1 = 0.04 0.06 0.06 0.6, put back in the order given
    np.testing.assert_allclose(holm(np.array([0.03, 0.6, 0.01, 0.02])), [0.06, 0.6, 0.04, 0.06])


def test_holm_is_monotone_where_the_products_are_not() -> None:
    # 3 * 0.02 = 0.06 > 2 * 0.025 = 0.05 > 0.04: all three stay at 0.06
    np.testing.assert_allclose(holm(np.array([0.04, 0.02, 0.025])), [0.06, 0.06, 0.06])


def test_holm_is_capped_at_one_and_leaves_one_test_alone() -> None:
    np.testing.assert_array_equal(holm(np.array([0.9, 0.8, 1.0])), [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(holm(np.array([0.037])), [0.037])


def test_holm_keeps_the_family_wise_error_with_one_true_effect() -> None:
    rng, runs = np.random.default_rng(4), 2000
    false = 0
    for _ in range(runs):
        p = np.append(rng.uniform(size=4), 1e-9)
        false += bool(np.any(holm(p)[:4] <= 0.05))
    low, high = stats.binom.interval(0.999, runs, 1 - (1 - 0.05 / 4) ** 4)  # Bonferroni over the four that are left
    assert low <= false <= high


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.empty(0), r"p_values must be a 1-D array with at least one p-value, got shape \(0,\)"),
        (np.ones((2, 2)), r"got shape \(2, 2\); flatten it"),
        (np.array([0.5, 1.5]), r"p_values must lie in \[0, 1\], got 0.5 to 1.5"),
        (np.array([0.5, np.nan]), r"must lie in \[0, 1\].*leave out tests that gave no p-value"),
    ],
)
def test_misuse_is_answered_with_a_sentence(p: NDArray[np.float64], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        holm(p)
