import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from unlearnkit.audits.statistics.roc import (
    _acceleration,
    _bca_shares,
    _draws,
    auc,
    auc_bootstrap,
    auc_interval,
    auc_mde,
    auc_resamples,
    auc_standard_error,
    clopper_pearson,
    partial_auc,
    roc,
    tpr_at_fpr,
    tpr_bootstrap,
)
from unlearnkit.result import UsageError

Array = NDArray[np.float64]


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def naive_auc(members: Array, nonmembers: Array) -> float:
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in nonmembers)
    return wins / (len(members) * len(nonmembers))


def tied_scores(seed: int, m: int = 23, n: int = 17) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0.5, 1.0, m), 1), np.round(rng.normal(0.0, 1.0, n), 1)


def test_roc_of_five_points_drawn_by_hand() -> None:
    # 3: member; 2: member and non-member tied; 1: non-member; 0: member
    curve = roc(floats(3.0, 2.0, 0.0), floats(2.0, 1.0))
    np.testing.assert_array_equal(curve.thresholds, [np.inf, 3.0, 2.0, 1.0, 0.0])
    np.testing.assert_allclose(curve.tpr, [0.0, 1 / 3, 2 / 3, 2 / 3, 1.0])
    np.testing.assert_allclose(curve.fpr, [0.0, 0.0, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("seed", range(5))
def test_area_under_the_staircase_is_the_auc_and_ends_are_fixed(seed: int) -> None:
    members, nonmembers = tied_scores(seed)
    curve = roc(members, nonmembers)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert len(curve.fpr) == 1 + len(np.unique(np.concatenate([members, nonmembers])))
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(auc(members, nonmembers), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_its_definition_with_ties(seed: int) -> None:
    members, nonmembers = tied_scores(seed)
    assert len(set(members) & set(nonmembers)) > 0
    assert auc(members, nonmembers) == pytest.approx(naive_auc(members, nonmembers), abs=1e-14)


@pytest.mark.parametrize("change", [np.exp, lambda s: 3 * s - 7, lambda s: s**3], ids=["exp", "affine", "cube"])
def test_monotone_transforms_change_nothing(change: Callable[[Array], Array]) -> None:
    members, nonmembers = tied_scores(1)
    assert auc_interval(change(members), change(nonmembers)) == auc_interval(members, nonmembers)
    np.testing.assert_array_equal(roc(change(members), change(nonmembers)).tpr, roc(members, nonmembers).tpr)
    before, after = (
        tpr_at_fpr(members, nonmembers, fpr=0.2),
        tpr_at_fpr(change(members), change(nonmembers), fpr=0.2),
    )
    assert (before.tpr, before.fpr) == (after.tpr, after.fpr)


def test_swapping_sides_mirrors() -> None:
    members, nonmembers = tied_scores(2)
    there, back = auc_interval(members, nonmembers), auc_interval(nonmembers, members)
    assert there.low is not None
    assert there.high is not None
    assert back.value == pytest.approx(1 - there.value)
    assert back.low == pytest.approx(1 - there.high)
    assert back.high == pytest.approx(1 - there.low)


@pytest.mark.parametrize("seed", range(4))
def test_delong_is_the_placement_value_formula(seed: int) -> None:
    members, nonmembers = tied_scores(seed)
    above = np.sign(members[:, None] - nonmembers[None, :]) / 2 + 0.5
    variance = np.var(above.mean(1), ddof=1) / len(members) + np.var(above.mean(0), ddof=1) / len(nonmembers)
    assert auc_standard_error(members, nonmembers) == pytest.approx(math.sqrt(variance), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_delong_limits_are_symmetric_in_log_odds(seed: int) -> None:
    members, nonmembers = tied_scores(seed)
    found, error = auc_interval(members, nonmembers, confidence=0.9), auc_standard_error(members, nonmembers)
    assert found.low is not None
    assert found.high is not None
    assert error is not None
    odds = math.log(found.value / (1 - found.value))
    reach = 1.6448536 * error / (found.value * (1 - found.value))
    assert found.low == pytest.approx(1 / (1 + math.exp(reach - odds)), rel=1e-6)
    assert found.high == pytest.approx(1 / (1 + math.exp(-reach - odds)), rel=1e-6)


@pytest.mark.parametrize("truth", [0.5, 0.7, 0.95])
def test_both_intervals_of_the_auc_cover_and_err_on_both_sides_alike(truth: float) -> None:
    rng, gap, runs = np.random.default_rng(3), math.sqrt(2) * stats.norm.ppf(truth), 300
    above, below = np.zeros(2), np.zeros(2)  # the lower limit lies above the truth, the upper one below it
    for seed in range(runs):
        members, nonmembers = rng.normal(gap, 1.0, 100), rng.normal(0.0, 1.0, 100)
        for k, found in enumerate(
            (auc_interval(members, nonmembers), auc_bootstrap(members, nonmembers, resamples=400, seed=seed))
        ):
            assert found.low is not None
            assert found.high is not None
            above[k] += found.low > truth
            below[k] += found.high < truth
    low, high = stats.binom.interval(0.99, runs, 0.05)
    assert np.all((low <= above + below) & (above + below <= high))
    assert max(above.max(), below.max()) <= stats.binom.ppf(0.995, runs, 0.025)


# -- partial AUC and bootstrap -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_fpr", [0.03, 0.1, 0.5, 0.9])
def test_partial_auc_is_the_one_of_scikit_learn(seed: int, max_fpr: float) -> None:
    members, nonmembers = tied_scores(seed)
    labels = np.repeat([1, 0], [len(members), len(nonmembers)])
    theirs = roc_auc_score(labels, np.concatenate([members, nonmembers]), max_fpr=max_fpr)
    assert partial_auc(members, nonmembers, max_fpr=max_fpr) == pytest.approx(theirs, abs=1e-12)


def test_partial_auc_by_hand() -> None:
    members, nonmembers = floats(3.0, 1.0), floats(2.0, 0.0)
    # half the members lie above every non-member: a height of 0.5 up to FPR 0.5
    assert partial_auc(members, nonmembers, max_fpr=0.5) == pytest.approx((1 + (0.25 - 0.125) / (0.5 - 0.125)) / 2)
    assert partial_auc(members, nonmembers, max_fpr=1.0) == pytest.approx(auc(members, nonmembers))
    assert partial_auc(members, members, max_fpr=0.2) == pytest.approx(0.5)
    assert partial_auc(floats(9.0), nonmembers, max_fpr=0.01) == pytest.approx(1.0)


@pytest.mark.parametrize(("m", "n"), [(23, 17), (8, 16), (1, 2)])
def test_fast_resamples_are_the_naive_ones_with_ties(m: int, n: int) -> None:
    members, nonmembers = (np.sort(side) for side in tied_scores(1, m, n))
    fast = auc_resamples(members, nonmembers, count=30, first=4, seed=9)
    for row, value in enumerate(fast):
        ours, theirs = _draws(m, n, first=4 + row, count=1, seed=9)
        assert value == naive_auc(members[ours[0]], nonmembers[theirs[0]])


def test_a_thousand_resamples_are_a_thousand_different_ones() -> None:
    ours, theirs = _draws(40, 30, first=0, count=1000, seed=5)  # a public tool yields 250 of 1,000
    assert len(np.unique(ours, axis=0)) == len(np.unique(theirs, axis=0)) == 1000
    counts = np.bincount(ours.ravel(), minlength=40), np.bincount(theirs.ravel(), minlength=30)
    assert min(stats.chisquare(count).pvalue for count in counts) > 1e-3
    assert np.abs(np.corrcoef(ours[1:, 0], ours[:-1, -1])[0, 1]) < 0.1  # the end of one and the start of the next
    assert not np.array_equal(ours, _draws(40, 30, first=0, count=1000, seed=6)[0])


def test_pieces_blocks_and_order_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    members, nonmembers = tied_scores(3)
    whole = auc_resamples(members, nonmembers, count=100, seed=2)
    parts = [auc_resamples(members, nonmembers, count=c, first=f, seed=2) for f, c in ((0, 1), (1, 41), (42, 58))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(auc_resamples(members[::-1], nonmembers[::-1], count=100, seed=2), whole)
    monkeypatch.setattr("unlearnkit.audits.statistics.roc._BLOCK", 7 * 40 + 3)
    np.testing.assert_array_equal(auc_resamples(members, nonmembers, count=100, seed=2), whole)


def left_out(array: Array) -> list[Array]:
    return [np.delete(array, i) for i in range(len(array))]


def naive_acceleration(statistic: Callable[[Array, Array], float], members: Array, nonmembers: Array) -> float:
    """From refits without one score each."""
    third = second = 0.0
    for values in (
        np.array([statistic(fewer, nonmembers) for fewer in left_out(members)]),
        np.array([statistic(members, fewer) for fewer in left_out(nonmembers)]),
    ):
        influence = (len(values) - 1) * (values.mean() - values)
        third += float(np.sum(influence**3)) / len(values) ** 3
        second += float(np.sum(influence**2)) / len(values) ** 2
    return float(third / (6 * second**1.5))


@pytest.mark.parametrize("seed", range(3))
def test_auc_bootstrap_is_bca_with_a_refitted_jackknife(seed: int) -> None:
    members, nonmembers = tied_scores(seed)
    drawn = auc_resamples(members, nonmembers, count=400, seed=seed)
    value = auc(members, nonmembers)
    bias = stats.norm.ppf((np.sum(drawn < value) + np.sum(drawn == value) / 2 + 0.5) / 401)
    a = naive_acceleration(auc, members, nonmembers)
    shares = [stats.norm.cdf(bias + (bias + z) / (1 - a * (bias + z))) for z in (-1.959963985, 1.959963985)]
    found = auc_bootstrap(members, nonmembers, resamples=400, seed=seed)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, shares)), abs=1e-9)
    assert found.value == value


def test_auc_bootstrap_is_near_the_one_of_scipy() -> None:
    members, nonmembers = tied_scores(4, 60, 50)
    theirs = stats.bootstrap(
        (members, nonmembers), auc, n_resamples=2000, rng=np.random.default_rng(1), vectorized=False
    )
    found = auc_bootstrap(members, nonmembers, seed=1)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.012)


def test_auc_bootstrap_keeps_a_width_where_no_resample_differs() -> None:
    for members, nonmembers in (
        (np.arange(10.0, 50.0), np.arange(5.0)),
        (np.arange(5.0), np.arange(10.0, 50.0)),
        (np.ones(4), np.ones(9)),
        (floats(0.5), floats(0.0, 1.0)),
    ):
        assert auc_bootstrap(members, nonmembers, seed=1) == auc_interval(members, nonmembers)
    almost = auc_bootstrap(np.append(np.arange(20.0, 39.0), 18.5), np.arange(20.0), seed=1)
    assert almost.low is not None
    assert almost.low <= 0.025 ** (1 / 20) + 1e-12


@pytest.mark.parametrize(("fpr", "seed"), [(0.1, 0), (0.25, 1), (0.5, 2)])
def test_tpr_bootstrap_is_the_law_of_naive_resamples(fpr: float, seed: int) -> None:
    members, nonmembers = tied_scores(seed)
    rng = np.random.default_rng(seed)

    def rate(members: Array, nonmembers: Array) -> float:
        return tpr_at_fpr(members, nonmembers, fpr=fpr).tpr.value

    drawn = np.array([rate(rng.choice(members, len(members)), rng.choice(nonmembers, 17)) for _ in range(3000)])
    value = rate(members, nonmembers)
    lower = np.mean(drawn < value) + np.mean(drawn == value) / 2
    shares = _bca_shares(float(lower), naive_acceleration(rate, members, nonmembers), 0.95)
    found, given = tpr_bootstrap(members, nonmembers, fpr=fpr), tpr_at_fpr(members, nonmembers, fpr=fpr).tpr
    assert found.low is not None
    assert found.high is not None
    assert given.low is not None
    assert given.high is not None
    low, high = np.quantile(drawn, shares, method="inverted_cdf")
    step = 1 / len(members) + 1e-9  # rates are whole members, and 3,000 draws miss a limit by one at most
    assert found.low == pytest.approx(min(low, given.low), abs=step)
    assert found.high == pytest.approx(max(high, given.high), abs=step)
    assert found.value == value


def test_tpr_bootstrap_covers_though_the_threshold_is_chosen() -> None:
    rng, truth, runs, covered, given = np.random.default_rng(8), stats.norm.sf(stats.norm.isf(0.1) - 1.0), 300, 0, 0
    for _ in range(runs):
        members, nonmembers = rng.normal(1.0, 1.0, 200), rng.normal(0.0, 1.0, 200)
        wide, narrow = tpr_bootstrap(members, nonmembers, fpr=0.1), tpr_at_fpr(members, nonmembers, fpr=0.1).tpr
        assert wide.low is not None
        assert wide.high is not None
        assert narrow.low is not None
        assert narrow.high is not None
        assert wide.low <= narrow.low <= narrow.high <= wide.high
        covered += wide.low <= truth <= wide.high
        given += narrow.low <= truth <= narrow.high
    low, high = stats.binom.interval(0.99, runs, 0.95)
    assert low <= covered <= high
    assert given < low  # why the bootstrap exists


def test_tpr_bootstrap_at_the_ends_has_the_exact_limits() -> None:
    members, nonmembers = np.arange(10.0, 30.0), np.arange(10.0)
    assert tpr_bootstrap(members, nonmembers, fpr=0.1) == clopper_pearson(20, 20)
    assert tpr_bootstrap(members, nonmembers, fpr=1.0) == clopper_pearson(20, 20)
    nothing = tpr_bootstrap(nonmembers, members, fpr=0.1)
    assert (nothing.low, nothing.high) == (0.0, clopper_pearson(0, 10).high)


def test_bca_without_bias_and_acceleration_is_the_percentile_interval() -> None:
    assert _bca_shares(0.5, 0.0, 0.9) == pytest.approx((0.05, 0.95))
    assert _bca_shares(0.6, 0.0, 0.9)[0] > 0.05
    assert _bca_shares(0.5, 1.0, 0.9)[1] == 1.0  # 1 - a z < 0: the end of the law
    assert _acceleration(floats(-1.0, 1.0), floats(0.0, 0.0)) == 0.0


def test_perfect_separation_has_the_limit_of_independent_pairs() -> None:
    found = auc_interval(np.arange(10.0, 50.0), np.arange(-5.0, 0.0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 5))
    assert found.low == pytest.approx(clopper_pearson(5, 5).low)
    mirror = auc_interval(np.arange(-5.0, 0.0), np.arange(10.0, 50.0))
    assert (mirror.low, mirror.value) == (0.0, 0.0)
    assert mirror.high == pytest.approx(1 - 0.025 ** (1 / 5))
    assert auc_standard_error(np.arange(10.0, 50.0), np.arange(-5.0, 0.0)) is None


def test_one_misordered_pair_does_not_reach_closer_to_one_than_none() -> None:
    perfect = auc_interval(np.arange(20.0, 40.0), np.arange(20.0))
    almost = auc_interval(np.append(np.arange(20.0, 39.0), 18.5), np.arange(20.0))
    assert almost.value == pytest.approx(1 - 1 / 400)
    assert perfect.low is not None
    assert almost.low is not None
    assert almost.low <= perfect.low
    mirror = auc_interval(np.arange(20.0), np.append(np.arange(20.0, 39.0), 18.5))
    assert mirror.high == pytest.approx(1 - almost.low)


def test_constant_scores_are_evidence_for_one_half_only_as_far_as_the_pairs_reach() -> None:
    few, many = (auc_interval(np.ones(k), np.ones(2 * k)) for k in (3, 300))
    assert few.value == many.value == 0.5
    assert few.low == pytest.approx(0.05 ** (1 / 3) / 2)
    assert few.high == pytest.approx(1 - 0.05 ** (1 / 3) / 2)
    assert many.low == pytest.approx(0.05 ** (1 / 300) / 2)
    assert auc_standard_error(np.ones(3), np.ones(4)) is None


def test_one_score_on_a_side_says_nothing() -> None:
    found = auc_interval(floats(0.5), floats(0.0, 1.0, 2.0))
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.value == pytest.approx(1 / 3)
    assert auc_standard_error(floats(0.5), floats(0.0, 1.0, 2.0)) is None


def test_auc_mde_is_the_exact_null_error_times_the_quantiles() -> None:
    # Null variance of the rank sum by enumeration of all C(6, 3) coin draws.
    ranks = np.arange(1.0, 7.0)
    picks = [np.array(c) for c in np.ndindex(2, 2, 2, 2, 2, 2) if sum(c) == 3]
    error = np.std([auc(ranks[p == 1], ranks[p == 0]) for p in picks])
    assert auc_mde(3, 3) == pytest.approx((1.959964 + 0.841621) * error, rel=1e-6)
    # the one-sided table of audits.md 4.6 (5 %, power 80 %)
    for count, found in ((100, 0.602), (200, 0.572), (1000, 0.532)):
        assert 0.5 + auc_mde(count, count, significance=0.10) == pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize(("successes", "trials"), [(0, 64), (64, 64), (3, 10), (60, 100), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_clopper_pearson_is_scipys(successes: int, trials: int, confidence: float) -> None:
    theirs = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    ours = clopper_pearson(successes, trials, confidence=confidence)
    assert ours.low == pytest.approx(theirs.low, abs=1e-10)
    assert ours.high == pytest.approx(theirs.high, abs=1e-10)
    assert ours.value == successes / trials


def test_clopper_pearson_ceilings() -> None:
    for trials, epsilon in ((16, 1.35), (64, 2.82), (256, 4.23), (1000, 5.60)):  # audits.md 4.1: zero errors, 95 %
        high = clopper_pearson(0, trials).high
        assert high is not None
        assert math.log((1 - high) / high) == pytest.approx(epsilon, abs=0.005)
    for trials, share in ((299, 0.01), (2995, 0.001)):  # audits.md 8.1: claim an FPR with no false positive, one-sided
        enough, short = clopper_pearson(0, trials, confidence=0.9), clopper_pearson(0, trials - 1, confidence=0.9)
        assert enough.high is not None
        assert short.high is not None
        assert enough.high <= share < short.high


def test_tpr_at_fpr_by_hand() -> None:
    nonmembers = np.arange(10.0)  # 0..9
    members = floats(9.5, 8.5, 8.5, 7.5, 1.5)
    found = tpr_at_fpr(members, nonmembers, fpr=0.1)
    assert (found.target_fpr, found.fpr, found.threshold) == (0.1, 0.1, 8.5)  # 9 may be called, 8 may not
    assert found.tpr == clopper_pearson(3, 5)
    assert tpr_at_fpr(members, nonmembers, fpr=0.19).fpr == 0.1  # never interpolated
    assert tpr_at_fpr(members, nonmembers, fpr=1.0).tpr.value == 1.0


def test_tpr_at_fpr_moves_through_ties_in_one_step() -> None:
    nonmembers = floats(5.0, 5.0, 5.0, 1.0)
    found = tpr_at_fpr(floats(6.0, 5.0, 5.0), nonmembers, fpr=0.5)  # 5 would call three quarters
    assert (found.fpr, found.threshold) == (0.0, 6.0)
    assert found.tpr.value == pytest.approx(1 / 3)
    nothing = tpr_at_fpr(floats(5.0, 5.0), nonmembers, fpr=0.5)
    assert (nothing.fpr, nothing.threshold, nothing.tpr.value, nothing.tpr.low) == (0.0, None, 0.0, 0.0)
    assert tpr_at_fpr(floats(5.0, 5.0), nonmembers, fpr=0.75).threshold == 5.0


def test_tpr_at_fpr_reaches_a_target_that_is_a_share_of_the_nonmembers() -> None:
    members, nonmembers = np.arange(100.0), np.arange(100.0)
    for percent in range(1, 101):  # 29 / 100 == 0.29, but 0.29 * 100 < 29
        assert tpr_at_fpr(members, nonmembers, fpr=percent / 100).fpr == percent / 100


SOME = floats(0.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc(np.ones((2, 3)), SOME), r"members must be a 1-D array.*got shape \(2, 3\); flatten it"),
        (lambda: auc(SOME, floats()), "nonmembers must hold at least one score, got none"),
        (lambda: roc(floats(0.0, np.nan, np.inf), SOME), "members must be finite, got 2 NaN or infinite of 3"),
        (lambda: auc_standard_error(SOME, floats(np.nan)), "nonmembers must be finite, got 1"),
        (lambda: auc_interval(SOME, SOME, confidence=95.0), r"confidence must lie strictly.*got 95.0; write 5 percent"),
        (lambda: auc_mde(0, 5), "members must be a count of at least 1, got 0"),
        (lambda: auc_mde(5, 0), "nonmembers must be a count of at least 1, got 0"),
        (lambda: auc_mde(5, 5, power=1.0), "power must lie strictly between 0 and 1, got 1.0"),
        (lambda: auc_mde(5, 5, significance=0.0), "significance must lie strictly between 0 and 1, got 0.0"),
        (lambda: clopper_pearson(0, 0), "trials must be at least 1, got 0"),
        (lambda: clopper_pearson(6, 5), "successes must lie between 0 and trials = 5, got 6"),
        (lambda: clopper_pearson(1, 5, confidence=0.0), "confidence must lie strictly"),
        (lambda: tpr_at_fpr(SOME, SOME, fpr=0.0), r"fpr must lie in \(0, 1\], got 0.0; write 1 percent as 0.01"),
        (lambda: tpr_at_fpr(SOME, SOME, fpr=0.01), "at least 1 / nonmembers = 0.333, got 0.01; raise.*100 nonmembers"),
        (lambda: tpr_at_fpr(SOME, SOME, fpr=0.5, confidence=1.5), "confidence must lie strictly"),
        (lambda: tpr_bootstrap(SOME, SOME, fpr=5.0), r"fpr must lie in \(0, 1\], got 5.0; write 1 percent as 0.01"),
        (lambda: partial_auc(SOME, SOME, max_fpr=1.5), r"max_fpr must lie in \(0, 1\], got 1.5; write 1 percent"),
        (
            lambda: auc_bootstrap(SOME, SOME, resamples=99, seed=0),
            "resamples must be at least 100, got 99; 2000 settle",
        ),
        (lambda: auc_bootstrap(SOME, floats(), seed=0), "nonmembers must hold at least one score, got none"),
        (
            lambda: auc_resamples(SOME, SOME, count=0, seed=0),
            "count must be at least 1 and first at least 0, got 0 and",
        ),
        (lambda: auc_resamples(SOME, SOME, count=1, first=-1, seed=0), "first at least 0, got 1 and -1; number them"),
    ],
)
def test_misuse_is_answered_with_a_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
