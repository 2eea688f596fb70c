import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax

from unlearnkit.audits.statistics.distances import (
    Distance,
    activation_distance,
    average_gap,
    farther_p,
    js,
    js_divergence,
    klom,
    klom_floor,
    klom_values,
    neurips_epsilon,
    neurips_score,
    tow,
)
from unlearnkit.result import UsageError

Array = NDArray[np.float64]


def naive_klom(p: Array, q: Array) -> float:
    """One point, one bin after another, by the definition."""
    p, q = np.clip(p, -100, 100), np.clip(q, -100, 100)
    edges = np.linspace(min(p.min(), q.min()), max(p.max(), q.max()), 21)
    total = 0.0
    for k in range(20):
        share = []
        for side in (p, q):
            inside = [edges[k] <= x and (x < edges[k + 1] or (k == 19 and x == edges[20])) for x in side]
            share.append(sum(inside) / len(inside))
        if share[0] > 0:
            total += share[0] * math.log(share[0] / max(share[1], 1e-5))
    return total


def naive_rule(unlearned: float, oracle: float, delta: float = 1e-5) -> float | None:
    """Epsilon of a rule with these error rates, `None` if it is discarded."""
    if unlearned == oracle == 0.0:
        return 50.0
    if unlearned * oracle == 0.0:
        return None
    best = 0.0
    for a, b in ((unlearned, oracle), (oracle, unlearned)):
        if 1 - delta - a > 0:
            best = max(best, math.log(1 - delta - a) - math.log(b))
    return best


def naive_epsilon(unlearned: Array, oracles: Array) -> float:
    """One point, one rule after another."""
    ranges = np.ptp(unlearned), np.ptp(oracles)
    if min(ranges) / max(ranges) < 0.01:
        return 50.0
    upper, lower = (unlearned, oracles) if np.median(unlearned) >= np.median(oracles) else (oracles, unlearned)
    low, high = min(*unlearned, *oracles), max(*unlearned, *oracles)
    rates = {(np.mean(upper < t), np.mean(lower >= t)) for t in np.linspace(low, high, math.ceil((high - low) * 100))}
    narrow, wide = (upper, lower) if np.ptp(upper) < np.ptp(lower) else (lower, upper)
    step = 4 / 399
    for i in range(400):
        left = narrow.min() - 4 + step * (i + np.arange(400)[:, None])
        right = narrow.max() - 2 + step * i
        missed = ((narrow < left) | (narrow > right)).mean(axis=1)
        caught = ((left <= wide) & (wide <= right)).mean(axis=1)
        rates |= set(zip(missed.tolist(), caught.tolist(), strict=True))
    found = [naive_rule(float(a), float(b)) for a, b in rates]
    return max((epsilon for epsilon in found if epsilon is not None), default=0.0)


@pytest.mark.parametrize("seed", range(4))
def test_klom_is_the_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(12, 30)) * 60 + seed, rng.normal(size=(9, 30)) * 60  # some are clipped
    p[:, :10], q[:, :10] = np.round(p[:, :10], -1), np.round(q[:, :10], -1)  # margins on the edges of bins
    p[:, 10], q[:, 10] = 0.3, 0.3
    expected = [naive_klom(p[:, i], q[:, i]) for i in range(30)]
    np.testing.assert_allclose(klom_values(p, q), expected, rtol=1e-12, atol=1e-15)


def test_klom_identities() -> None:
    rng = np.random.default_rng(0)
    same = rng.normal(size=(50, 5))
    np.testing.assert_array_equal(klom_values(same, same), np.zeros(5))
    np.testing.assert_array_equal(klom_values(same[::-1], same), np.zeros(5))
    apart = klom_values(np.full((10, 3), 4.0), np.full((7, 3), -4.0))
    np.testing.assert_allclose(apart, math.log(1e5), rtol=1e-12)
    assert math.log(1e5) == pytest.approx(11.51, abs=0.005)
    np.testing.assert_array_equal(klom_values(same * 1e9, same * 1e9), np.zeros(5))


def test_klom_keeps_the_largest_margin() -> None:
    """audits.md 10.7: public evaluators put it beyond the last bin: the top of the joint range is lost."""
    p, q = np.array([[0.0], [1.0]]), np.array([[0.0], [0.0], [0.0], [1.0]])
    assert klom_values(p, q)[0] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert klom_values(p, q, legacy=True)[0] == 0.0  # only the zeros are left
    top, below = np.full((5, 1), 4.0), np.array([[1.0], [2.0], [3.0]])
    assert klom_values(top, below)[0] == pytest.approx(math.log(1e5))
    assert klom_values(top, below, legacy=True)[0] == 0.0  # five models at the top are none
    assert klom_values(top, top, legacy=True)[0] == 0.0


@pytest.mark.parametrize(("models", "p95"), [(20, 5.0), (50, 1.7), (100, 0.68), (200, 0.28)])
def test_klom_carries_the_known_floor(models: int, p95: float) -> None:
    rng = np.random.default_rng(models)
    found = klom(rng.normal(size=(models, 300)), rng.normal(size=(2 * models, 300)), seed=1, splits=4)
    assert found.size == models
    assert found.floor_p95 == pytest.approx(p95, rel=0.1)
    assert found.matched_p95 == pytest.approx(found.floor_p95, rel=0.15)  # nothing is left: both show the floor
    assert found.matched_median == pytest.approx(found.floor_median, rel=0.15)
    assert found.p95 < found.matched_p95  # twice the oracles
    shifted = klom(rng.normal(size=(models, 300)) + 2, rng.normal(size=(2 * models, 300)), seed=1, splits=2)
    assert shifted.matched_median > 2 * shifted.floor_median


def test_klom_floor_is_oracles_against_other_oracles() -> None:
    rng = np.random.default_rng(2)
    oracles = rng.normal(size=(40, 6))
    floor = klom_floor(oracles, size=20, seed=3, splits=5)
    assert floor.shape == (5, 6)
    assert len(np.unique(floor.round(12), axis=0)) == 5
    np.testing.assert_array_equal(floor, klom_floor(oracles, size=20, seed=3, splits=5))
    order = np.random.default_rng(3).permutation(40)
    np.testing.assert_array_equal(floor[0], klom_values(oracles[order[:20]], oracles[order[20:]]))
    assert klom_floor(np.repeat(oracles[:1], 40, axis=0), size=20, seed=3).max() == 0.0


def test_klom_summaries_and_unequal_sizes() -> None:
    rng = np.random.default_rng(4)
    unlearned, oracles = rng.normal(size=(8, 40)) + 1, rng.normal(size=(21, 40))
    found = klom(unlearned, oracles, seed=5, splits=3)
    assert found.size == 8
    assert found.p95 == np.quantile(found.values, 0.95)
    assert found.median == np.median(found.values)
    assert klom(unlearned, oracles[:10], seed=5).size == 5
    old = klom(unlearned, oracles, seed=5, legacy=True)
    np.testing.assert_array_equal(old.values, klom_values(unlearned, oracles, legacy=True))
    assert old.floor_p95 != found.floor_p95


def test_neurips_epsilon_is_the_naive_one() -> None:
    """Of several points at once, too: the published script ends in an assert on a whole array (audits.md 10.6)."""
    rng = np.random.default_rng(6)
    for shift, scale, sizes in ((0.3, 1.0, (9, 9)), (0.0, 0.4, (12, 7)), (-1.0, 2.0, (6, 10))):
        unlearned = np.round(rng.normal(size=(sizes[0], 1)) * scale + shift, 1)  # ties between models
        oracles = np.round(rng.normal(size=(sizes[1], 1)), 1)
        found = neurips_epsilon(unlearned, oracles)
        assert found.tolist() == [pytest.approx(naive_epsilon(unlearned[:, 0], oracles[:, 0]), rel=1e-12)]
        assert 0 < found[0] < 50
        assert (
            neurips_epsilon(*(np.repeat(side, 3, axis=1) for side in (unlearned, oracles))).tolist() == [found[0]] * 3
        )


def test_neurips_special_cases() -> None:
    grid = np.linspace(-1.0, 1.0, 9)[:, None]
    assert neurips_epsilon(grid, grid + 5)[0] == 50.0  # separated
    assert neurips_epsilon(grid * 0.009, grid)[0] == 50.0  # a range below 1 %
    assert neurips_epsilon(np.zeros((9, 1)), grid)[0] == 50.0
    assert neurips_epsilon(np.zeros((9, 1)), np.zeros((9, 1)))[0] == 0.0  # no rule at all
    # Exactly one rate at 0 is discarded: one stray unlearned model hides the separation of eight.
    stray = grid + 5
    stray[0] = 0.0
    found = neurips_epsilon(stray, grid)[0]
    # t = 4.25 errs on the stray alone: discarded. The best that survives errs on the stray and on one oracle.
    assert found == pytest.approx(math.log(1 - 1e-5 - 1 / 9) - math.log(1 / 9))
    assert naive_rule(1 / 9, 0.0) is None


def test_neurips_null_calibration() -> None:
    rng = np.random.default_rng(7)
    found = neurips_score(rng.normal(size=(512, 150)), rng.normal(size=(1024, 150)), seed=8)
    assert found.size == 512
    assert found.matched_median_epsilon == pytest.approx(1.6, abs=0.2)
    assert found.floor_median_epsilon == pytest.approx(1.6, abs=0.2)
    assert found.matched_f == pytest.approx(0.18, abs=0.03)
    assert found.floor_f == pytest.approx(0.18, abs=0.03)
    moved = neurips_score(rng.normal(size=(512, 60)) + 1, rng.normal(size=(1024, 60)), seed=8)
    assert moved.matched_f == pytest.approx(0.015, abs=0.006)
    assert moved.floor_f == pytest.approx(0.18, abs=0.04)


def test_neurips_h_and_f() -> None:
    rng = np.random.default_rng(9)
    found = neurips_score(rng.normal(size=(16, 12)) * 1.5, rng.normal(size=(32, 12)), seed=1)
    for epsilon, h in zip(found.epsilon, found.h, strict=True):
        assert h == (2.0 ** -math.floor(2 * epsilon) if epsilon < math.ceil(math.log(15)) else 0.0)
    assert found.f == found.h.mean()
    assert found.median_epsilon == np.median(found.epsilon)
    far = neurips_score(rng.normal(size=(16, 3)) + 50, rng.normal(size=(32, 3)), seed=1)
    assert far.epsilon.tolist() == [50.0] * 3
    assert far.f == 0.0


def test_js_known_values() -> None:
    one, two = np.eye(3)[:1], np.eye(3)[1:2]
    assert js(one, one)[0] == 0.0
    assert js(one, two)[0] == pytest.approx(math.log(2), rel=1e-15)
    p, q = np.array([[0.7, 0.2, 0.1, 0.0]]), np.array([[0.1, 0.0, 0.4, 0.5]])
    m = (p + q) / 2
    by_entropy = stats.entropy(m[0]) - (stats.entropy(p[0]) + stats.entropy(q[0])) / 2
    assert js(p, q)[0] == pytest.approx(by_entropy, rel=1e-12)
    assert js(q, p)[0] == pytest.approx(js(p, q)[0], rel=1e-12)


def test_js_is_not_the_published_defect() -> None:
    """audits.md 10.10: KL(m || p) in the place of KL(p || m), and a mean over classes as well."""
    p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.5, 0.4]])
    m = (p + q) / 2
    reverse = (stats.entropy(m[0], p[0]) + stats.entropy(m[0], q[0])) / 2
    right = js(p, q)[0]
    assert right == pytest.approx((stats.entropy(p[0], m[0]) + stats.entropy(q[0], m[0])) / 2, rel=1e-12)
    assert abs(reverse - right) > 0.01
    assert reverse / 3 < right / 2  # what makes every ZRF look near 1


def outputs(seed: int, models: int = 5, points: int = 4, classes: int = 3) -> Array:
    return np.asarray(softmax(2 * np.random.default_rng(seed).normal(size=(models, points, classes)), axis=-1))


@pytest.mark.parametrize(
    ("run", "between", "top"),
    [
        (js_divergence, lambda p, q: js(p, q).mean(), math.log(2)),
        (activation_distance, lambda p, q: np.sqrt(((p - q) ** 2).sum(axis=1)).mean(), math.sqrt(2)),
        (lambda p: activation_distance(p, order=1), lambda p, q: np.abs(p - q).sum(axis=1).mean(), 2.0),
    ],
)
def test_output_distances_are_the_naive_ones(
    run: Callable[[Array], Distance], between: Callable[[Array, Array], float], top: float
) -> None:
    p = outputs(10)
    found = run(p)
    every = np.array([np.mean([between(p[j], p[i]) for i in range(5) if i != j]) for j in range(5)])
    assert found.audited == pytest.approx(every[0], rel=1e-12)
    np.testing.assert_allclose(found.oracles, every[1:], rtol=1e-12)
    assert found.floor == pytest.approx(np.mean([between(p[j], p[i]) for i in range(1, 5) for j in range(1, i)]))
    assert found.p == np.mean(every >= every[0])
    corners = np.eye(2)[[0, 1, 1, 1]][:, None, :]
    far = run(corners)
    assert far.audited == pytest.approx(top)
    assert (far.floor, far.p) == (0.0, 0.25)


def test_equal_models_are_no_distance_apart() -> None:
    same = np.repeat(outputs(11)[:1], 4, axis=0)
    for found in (js_divergence(same), activation_distance(same)):
        assert (found.audited, found.floor, found.p) == (0.0, 0.0, 1.0)
    flat = {"forget": np.full(4, 0.9), "test": np.full(4, 0.8)}
    assert (tow(flat).audited, tow(flat).floor, tow(flat).p) == (1.0, 1.0, 1.0)
    assert (average_gap(flat).audited, average_gap(flat).p) == (0.0, 1.0)


def test_tow_and_average_gap_by_hand() -> None:
    accuracies = {
        "forget": np.array([0.9, 0.6, 0.5]),
        "retain": np.array([1.0, 1.0, 0.9]),
    }
    found = tow(accuracies)
    assert found.audited == pytest.approx((0.7 * 1.0 + 0.6 * 0.9) / 2)
    np.testing.assert_allclose(found.oracles, [(0.7 * 1.0 + 0.9 * 0.9) / 2, (0.6 * 0.9 + 0.9 * 0.9) / 2])
    assert found.floor == pytest.approx(0.81)
    assert found.p == 1 / 3  # the smallest of three, and for ToW small is far
    gap = average_gap(accuracies)
    assert gap.audited == pytest.approx(((0.3 + 0.0) / 2 + (0.4 + 0.1) / 2) / 2)
    assert gap.floor == pytest.approx(0.1)
    assert gap.p == 1 / 3


def test_exchangeable_models_are_rejected_at_the_nominal_rate() -> None:
    rng, runs = np.random.default_rng(12), 400
    p = np.empty((runs, 2))
    for run in range(runs):
        shared = 2 * rng.normal(size=(1, 6, 3))
        p[run, 0] = activation_distance(softmax(shared + rng.normal(size=(10, 6, 3)), axis=-1)).p
        shares = {name: rng.binomial(40, 0.8, size=10) / 40 for name in ("forget", "retain", "test")}
        p[run, 1] = tow(shares).p
    low, high = stats.binom.interval(0.99, runs, 0.1)
    assert low <= np.count_nonzero(p[:, 0] <= 0.1 + 1e-9) <= high
    assert np.count_nonzero(p[:, 1] <= 0.1 + 1e-9) <= high  # ties make it conservative


def test_a_planted_shift_is_found() -> None:
    rng = np.random.default_rng(13)
    logits = 2 * rng.normal(size=(1, 50, 3)) + rng.normal(size=(20, 50, 3))
    logits[0, :, 0] += 2.0
    p = softmax(logits, axis=-1)
    for found in (js_divergence(p), activation_distance(p), activation_distance(p, order=1)):
        assert found.p == 0.05
        assert found.audited > 1.1 * found.floor
    shares = {name: rng.binomial(400, 0.8, size=20) / 400 for name in ("forget", "test")}
    shares["forget"][0] = 1.0
    assert tow(shares).p == average_gap(shares).p == 0.05


def test_farther_p_counts_near_ties_against_rejection() -> None:
    assert farther_p(np.array([3.0, 1.0, 2.0])) == 1 / 3
    assert farther_p(np.array([3.0, 3.0 - 1e-14, 2.0])) == 2 / 3
    assert farther_p(np.array([0.0, 0.0, 0.0])) == 1.0


GOOD = np.random.default_rng(0).normal(size=(8, 3))
SPOILED = np.where(np.arange(24).reshape(8, 3) == 5, np.nan, GOOD)
SOFT = outputs(0)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: klom(GOOD[0], GOOD, seed=1), r"unlearned must be a 2-D array.*got shape \(3,\); stack"),
        (lambda: klom(GOOD[:1], GOOD, seed=1), "unlearned must hold at least 2 models, got 1; train more"),
        (lambda: klom(GOOD, GOOD[:3], seed=1), "oracles must hold at least 4 models, got 3"),
        (lambda: klom(SPOILED, GOOD, seed=1), "unlearned must be finite, got 1 NaN or infinite of 24; leave"),
        (lambda: klom(GOOD, GOOD[:, :2], seed=1), "must hold the same points, got 3 and 2; align the columns"),
        (lambda: klom(GOOD, GOOD, seed=1, splits=0), "splits must be at least 1, got 0; without one"),
        (lambda: klom_floor(GOOD, size=5, seed=1), "size must lie between 2 and half of the 8 oracles, got 5"),
        (lambda: klom_floor(GOOD, size=2, seed=1, splits=0), "splits must be at least 1, got 0"),
        (lambda: neurips_score(GOOD[:2], GOOD, seed=1), "unlearned must hold at least 3 models, got 2"),
        (lambda: neurips_score(GOOD, GOOD[:5], seed=1), "oracles must hold at least 6 models, got 5"),
        (lambda: neurips_score(GOOD * 1e5, GOOD, seed=1), r"margins must lie within \+-10,000, got .*; clip them"),
        (lambda: neurips_score(GOOD, GOOD, seed=1, delta=1.0), r"delta must lie in \[0, 1\), got 1.0; the challenge"),
        (lambda: js_divergence(SOFT[:2]), "probabilities must hold at least 3 models, got 2"),
        (lambda: js_divergence(np.log(SOFT)), "probabilities must be at least 0 and sum to 1.*pass softmax outputs"),
        (lambda: activation_distance(SOFT, order=3), "order must be 1 or 2, got 3; published"),
        (lambda: tow({}), "accuracies must name at least one, got none; pass forget"),
        (lambda: tow({"forget": np.ones(3), "test": np.ones(4)}), "accuracies must have one entry per model.*'test'"),
        (lambda: tow({"test": np.array([90.0, 91.0, 90.5])}), "'test' must lie in .*got 90 to 91; write 90 percent"),
        (lambda: average_gap({"test": np.ones(2)}), "accuracies must hold at least 3 models, got 2"),
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()
