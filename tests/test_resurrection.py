"""Ranks of readings among oracles: by hand, and uniform for exchangeable models."""

from __future__ import annotations

import numpy as np
import pytest

from unlearnkit.audits.statistics.rank import oracle_rank
from unlearnkit.audits.statistics.resurrection import resurrection
from unlearnkit.result import UsageError


def test_by_hand():
    oracles = np.array([0.1, 0.2, 0.3, 0.4, 0.5])[:, None]
    (found,) = resurrection(np.array([0.9]), np.array([0.8]), oracles)
    assert (found.audited, found.original) == (0.9, 0.8)
    assert found.oracle_mean == pytest.approx(0.3)
    assert found.oracle_sd == pytest.approx(np.sqrt(0.025))
    assert found.difference.value == pytest.approx(0.6)
    assert (found.difference.low, found.difference.high) == (None, None)  # five oracles: no 95 % interval
    assert found.distance == pytest.approx(0.6 / np.sqrt(0.025))
    assert found.original_distance == pytest.approx(0.5 / np.sqrt(0.025))
    assert (found.p, found.p_adjusted, found.p_more, found.p_less) == pytest.approx((1 / 6, 1 / 6, 1 / 6, 1.0))
    (less,) = resurrection(np.array([0.15]), np.array([0.8]), oracles)
    assert (less.p_more, less.p_less) == pytest.approx((5 / 6, 2 / 6))


def test_the_interval_is_that_of_the_rank_test():
    rng = np.random.default_rng(0)
    oracles, audited = rng.normal(size=(19, 2)), np.array([3.0, 0.1])
    found = resurrection(audited, audited + 1, oracles)
    for i, one in enumerate(found):
        (alone,) = oracle_rank(np.concatenate([audited[None], oracles])[:, i : i + 1], tolerances=np.ones(1))
        assert one.difference.low == pytest.approx(alone.shift.low)
        assert one.difference.high == pytest.approx(alone.shift.high)
        assert one.p == alone.p
        assert one.p_adjusted >= one.p
    assert found[0].difference.low is not None
    assert found[0].difference.low > 0 > found[1].difference.low


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "ties"])
def test_exchangeable_readings_give_uniform_ranks(draw: str):
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 3, (3000, 10)) / 2 if draw == "ties" else getattr(rng, draw)(size=(3000, 10))
    # 3,000 audits of one model among nine oracles, as the columns of one call
    found = resurrection(rows[:, 0].astype(float), rows[:, 0].astype(float), rows[:, 1:].T.astype(float))
    for p in ([one.p for one in found], [one.p_more for one in found], [one.p_less for one in found]):
        for k in range(1, 11):
            share = np.mean(np.array(p) <= k / 10 + 1e-9)
            slack = 4 * np.sqrt(0.25 / 3000)
            assert share <= k / 10 + slack
            if draw != "ties":
                assert share >= k / 10 - slack


def test_models_that_do_not_differ_have_no_distance():
    (same,) = resurrection(np.array([0.0]), np.array([1.0]), np.zeros((5, 1)))
    assert (same.distance, same.original_distance, same.p, same.p_more) == (None, None, 1.0, 1.0)
    (other,) = resurrection(np.array([0.5]), np.array([1.0]), np.zeros((5, 1)))
    assert (other.distance, other.p_more) == (None, pytest.approx(1 / 6))


def test_order_of_oracles_changes_nothing():
    rng = np.random.default_rng(2)
    oracles, one = rng.normal(size=(8, 3)), rng.normal(size=3)
    assert resurrection(one, one, oracles) == resurrection(one, one, oracles[::-1])


def test_refusals():
    one = np.zeros(2)
    with pytest.raises(UsageError, match="judged by its rank among at least 5 oracles, got 4; retrain more"):
        resurrection(one, one, np.zeros((4, 2)))
    with pytest.raises(UsageError, match=r"oracles must be a 2-D array, .*, got \(6,\)"):
        resurrection(one, one, np.zeros(6))
    with pytest.raises(UsageError, match=r"audited must have one reading per probe, \(2,\), got \(3,\)"):
        resurrection(np.zeros(3), one, np.zeros((5, 2)))
    with pytest.raises(UsageError, match=r"original must be finite, got \[nan, 0.0\]; leave that probe out"):
        resurrection(one, np.array([np.nan, 0.0]), np.zeros((5, 2)))
    with pytest.raises(UsageError, match="values must be finite, got 1 NaN"):
        resurrection(one, one, np.array([[np.inf, 0.0], *np.zeros((4, 2))]))
