"""Single examples under many models: against the single tests, at their level, and with the power to see a plant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unlearnkit.audits.statistics.ensembles import examples_apart, single_epsilons
from unlearnkit.audits.statistics.epsilon import split_epsilon
from unlearnkit.audits.statistics.multiplicity import benjamini_hochberg
from unlearnkit.result import UsageError

RNG = np.random.default_rng(0)


def test_every_example_has_the_test_of_its_own_column() -> None:
    unlearned, oracles = RNG.normal(size=(9, 12)), RNG.normal(size=(11, 12)) + np.linspace(-2, 2, 12)
    unlearned[:, 3] = oracles[:, 3] = 1.0  # no model differs
    found = examples_apart(unlearned, oracles)
    for i in range(12):
        if i != 3:
            single = stats.mannwhitneyu(unlearned[:, i], oracles[:, i])
            assert found.p[i] == pytest.approx(single.pvalue)
        above = unlearned[:, [i]] > oracles[:, i]
        same = unlearned[:, [i]] == oracles[:, i]
        assert found.auc[i] == pytest.approx(np.mean(above + 0.5 * same))
    assert (found.p[3], found.auc[3]) == (1.0, 0.5)
    assert found.share == np.mean(benjamini_hochberg(found.p) <= 0.05)


def test_alike_models_flag_an_example_no_more_often_than_stated() -> None:
    flagged = sum(examples_apart(RNG.normal(size=(32, 20)), RNG.normal(size=(32, 20))).share > 0 for _ in range(300))
    assert flagged <= stats.binom.ppf(0.999, 300, 0.05)


def test_planted_examples_are_told_apart_in_either_direction() -> None:
    unlearned, oracles = RNG.normal(size=(32, 50)), RNG.normal(size=(32, 50))
    unlearned[:, :10] += 2.0
    unlearned[:, 10:20] -= 2.0
    found = examples_apart(unlearned, oracles)
    assert 0.36 <= found.share <= 0.44
    assert found.auc[:10].min() > 0.7
    assert found.auc[10:20].max() < 0.3


def test_epsilons_are_those_of_each_example() -> None:
    unlearned, oracles = RNG.normal(size=(40, 6)), RNG.normal(size=(40, 6))
    unlearned[:, 0] += 8.0
    found = single_epsilons(unlearned, oracles, delta=1e-5, seed=3)
    for i in range(6):
        assert found.epsilon[i] == split_epsilon(unlearned[:, i], oracles[:, i], delta=1e-5, seed=3).epsilon
    assert found.epsilon[0] == found.ceiling > 1.0  # twenty right of twenty: no more can be shown
    assert found.above == np.mean(found.epsilon > 0)
    assert found.p95 == np.quantile(found.epsilon, 0.95)


def test_alike_models_have_an_epsilon_above_zero_no_more_often_than_stated() -> None:
    found = single_epsilons(RNG.normal(size=(32, 400)), RNG.normal(size=(32, 400)), seed=0)
    assert found.above <= stats.binom.ppf(0.999, 400, 0.05) / 400


GOOD: Any = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: examples_apart(GOOD, GOOD[:, :2]), "must be seen on the same points, got 3 and 2"),
        (lambda: examples_apart(GOOD[0], GOOD), r"unlearned must be a 2-D array, .* got shape \(3,\)"),
        (lambda: examples_apart(GOOD, GOOD * np.nan), "oracles must be finite, got 12 NaN"),
        (lambda: examples_apart(GOOD, GOOD, significance=5.0), "significance must lie strictly between 0 and 1"),
        (lambda: single_epsilons(GOOD[:1], GOOD, seed=0), "must hold at least two scores to be split, got 1"),
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()
