"""Gaps with their intervals, and a found set among random ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearnkit.audits.statistics.hardness import (
    among_random,
    like_mix,
    mean_gap,
    mean_interval,
    prediction_reach,
    stand,
)
from unlearnkit.result import UsageError


def test_the_gap_is_welchs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 5), rng.normal(0, 3, 9)
    gap = mean_gap(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx((expected.low, expected.high))
    alone = mean_interval(a, confidence=0.9)
    low, high = stats.t.interval(0.9, 4, a.mean(), stats.sem(a))
    assert (alone.low, alone.high) == pytest.approx((low, high))


def test_one_model_has_no_interval_and_equal_ones_no_width():
    one = mean_gap(np.array([2.0]), np.array([1.0, 3.0]))
    assert (one.low, one.value, one.high) == (None, 0.0, None)
    same = mean_gap(np.array([2.0, 2.0]), np.array([1.0, 1.0]))
    assert (same.low, same.high) == (1.0, 1.0)
    assert mean_interval(np.array([2.0])).low is None


def test_welchs_interval_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        gap = mean_gap(rng.normal(0, 1, 4), rng.normal(0, 2, 6))
        assert gap.low is not None
        assert gap.high is not None
        covered += gap.low <= 0 <= gap.high
    assert 0.93 < covered / 2000 < 0.975


def test_one_more_value_lies_within_the_prediction_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 1, (4000, 6))
    reach = np.array([prediction_reach(row[:5], confidence=0.9) for row in values])
    assert reach[0] == pytest.approx(values[0, :5].mean() + stats.t.isf(0.05, 4) * values[0, :5].std(ddof=1) * 1.2**0.5)
    assert np.mean(values[:, 5] > reach) == pytest.approx(0.05, abs=0.012)  # one end of two
    assert prediction_reach(-values[0, :5], confidence=0.9) == reach[0]
    with pytest.raises(UsageError, match=r"prediction: give at least two finite numbers, got \[1.0\]"):
        prediction_reach(np.array([1.0]))


def test_the_found_set_is_ranked_among_the_random_ones():
    among = among_random(6.0, [1.0, 2.0, 3.0, 2.0, 2.0])
    assert (among.ratio, among.p) == (3.0, 1 / 6)
    assert among_random(2.0, [1.0, 2.0, 3.0, 2.0, 2.0]).p == 5 / 6
    assert among_random(2.0, [0.0, 0.0]).ratio is None
    with pytest.raises(UsageError, match="at least two random sets are needed to hold a set against, got 1"):
        among_random(1.0, [1.0])


def test_harder_easier_and_neither():
    usual = [1.0, 2.0, 3.0, 2.0, 2.0]
    limit = 2 + stats.t.isf(0.05, 4) * np.std(usual, ddof=1) * 1.2**0.5
    assert [stand(one, usual) for one in (limit + 0.01, limit - 0.01, 2.0, 4 - limit + 0.01, 4 - limit - 0.01)] == [
        "harder",
        "open",
        "open",
        "open",
        "easier",
    ]
    assert stand(2.0, [2.0] * 5) == "open"
    assert stand(13.0, [1.0, 1.1, 1.0, 1.2, 14.0]) == "open"  # one random set is harder still
    with pytest.raises(UsageError, match=r"standing: give finite numbers of at least two random sets, got \[1.0\]"):
        stand(1.0, [1.0])


def test_one_more_random_set_is_seldom_called_harder():
    rng = np.random.default_rng(0)
    said = [stand(float(row[0]), row[1:].tolist()) for row in rng.normal(5, 1, (4000, 6))]
    assert said.count("harder") / 4000 == pytest.approx(0.05, abs=0.012)
    assert said.count("easier") / 4000 == pytest.approx(0.05, abs=0.012)
    skewed = [stand(float(row[0]), row[1:].tolist()) for row in rng.lognormal(0, 2, (4000, 6))]
    assert skewed.count("harder") / 4000 < 1 / 6 + 0.012


def test_random_sets_have_the_class_mix_of_the_found_one():
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    places = np.concatenate([np.arange(9), [30, 31], [50]])
    drawn, mixed = like_mix(labels, places, np.random.default_rng(0))
    assert mixed
    assert np.bincount(labels[drawn]).tolist() == [9, 2, 1]
    assert np.unique(drawn).size == 12
    whole, mixed = like_mix(labels, np.arange(50, 60), np.random.default_rng(0))
    assert not mixed
    assert whole.size == 10


def test_numbers_that_are_none_are_refused():
    with pytest.raises(UsageError, match="gap: audited must be at least one finite number per model"):
        mean_gap(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(UsageError, match="mean: give at least one finite number"):
        mean_interval(np.array([]))
