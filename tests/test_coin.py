import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.coin import canaries_needed, coin_test, coin_tests, critical_guesses, epsilon_set
from unlearnkit.audits.statistics.roc import auc, auc_interval, auc_mde, auc_standard_error
from unlearnkit.result import UsageError

Array = NDArray[np.float64]
Coins = NDArray[np.bool_]


def toss(rng: np.random.Generator, size: int) -> Coins:
    return rng.permutation(np.arange(size) < size // 2)


def naive_auc(scores: Array, heads: Coins) -> Fraction:
    wins = [2 * int(a > b) + int(a == b) for a in scores[heads] for b in scores[~heads]]
    return Fraction(sum(wins), 2 * len(wins))


def naive_p(scores: Array, heads: Coins, strata: NDArray[Any], permutations: int, seed: int) -> float:
    """The same shuffles, one at a time, through the definition of the AUC and exact fractions."""
    rng = np.random.default_rng(seed)
    shuffled = []  # per stratum: its places, and in every row a new order of them
    for label in np.unique(strata):
        places = np.flatnonzero(strata == label)
        shuffled.append((places, rng.permuted(np.tile(places, (permutations, 1)), axis=1)))
    # the mean over all coin draws within strata: every canary carries its stratum's share of heads
    total = Fraction(0)
    for label in np.unique(strata):
        own = strata == label
        share = Fraction(int(heads[own].sum()), int(own.sum()))
        total += share * sum(Fraction(int(2 * r), 2) for r in stats.rankdata(scores)[own])
    m = int(heads.sum())
    n = len(heads) - m
    mean = (total - Fraction(m * (m + 1), 2)) / (m * n)
    observed, count = abs(naive_auc(scores, heads) - mean), 1
    for row in range(permutations):
        drawn = np.zeros(len(heads), dtype=np.bool_)
        for places, orders in shuffled:
            drawn[orders[row, : int(heads[places].sum())]] = True
        count += abs(naive_auc(scores, drawn) - mean) >= observed
    return count / (permutations + 1)


@pytest.mark.parametrize("seed", range(6))
def test_fast_permutation_p_is_the_naive_one_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heads = toss(rng, 16)
    scores = np.round(rng.normal(size=16) + 0.5 * heads, 1) / 3  # thirds: sums of floats would not be exact
    assert len(np.unique(scores)) < 16
    found = coin_test(scores, heads, tolerance=0.05, permutations=199, seed=seed).p
    assert found == naive_p(scores, heads, np.zeros(16), 199, seed)


@pytest.mark.parametrize("seed", range(4))
def test_fast_permutation_p_is_the_naive_one_within_strata(seed: int) -> None:
    rng = np.random.default_rng(10 + seed)
    strata = np.array(["cat"] * 7 + ["dog"] * 6 + ["eel"] * 3 + ["fox"])
    heads = np.concatenate([toss(rng, 7), toss(rng, 6), np.array([True, True, False]), np.array([True])])
    scores = np.round(rng.normal(size=17), 1)
    found = coin_test(scores, heads, tolerance=0.05, strata=strata, permutations=199, seed=seed).p
    assert found == naive_p(scores, heads, strata, 199, seed)


@pytest.mark.parametrize("stratified", [False, True])
def test_several_scores_of_the_same_coins_give_what_each_gives_by_itself(
    stratified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(14)
    monkeypatch.setattr("unlearnkit.audits.statistics.coin._BLOCK", 24 * 30)  # several blocks
    heads, strata = toss(rng, 24), np.repeat([0, 1, 2], [10, 13, 1]) if stratified else None
    several = [np.round(rng.normal(size=24) + by * heads, 1) for by in (0.0, 0.5, -1.0)]
    settings: dict[str, Any] = {"tolerance": 0.05, "strata": strata, "permutations": 199, "seed": 3}
    found = coin_tests(several, heads, **settings)
    assert found == tuple(coin_test(scores, heads, **settings) for scores in several)
    assert len({one.p for one in found}) == 3


def test_scores_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UsageError, match="scores must be those of at least one score, got none"):
        coin_tests([], np.arange(4) < 2, tolerance=0.05, seed=0)
    with pytest.raises(UsageError, match=r"heads must have one entry per score, shape \(5,\), got \(4,\)"):
        coin_tests([np.arange(4.0), np.arange(5.0)], np.arange(4) < 2, tolerance=0.05, seed=0)


def test_permutation_p_estimates_the_exact_p_of_all_coin_draws() -> None:
    rng = np.random.default_rng(5)
    scores, heads = np.round(rng.normal(size=10), 1), toss(rng, 10)
    draws = [np.isin(np.arange(10), pick) for pick in itertools.combinations(range(10), 5)]
    observed = abs(naive_auc(scores, heads) - Fraction(1, 2))
    exact = np.mean([abs(naive_auc(scores, d) - Fraction(1, 2)) >= observed for d in draws])
    found = coin_test(scores, heads, tolerance=0.05, permutations=9999, seed=5).p
    low, high = stats.binom.interval(0.999, 9999, exact)
    assert low <= found * 10_000 - 1 <= high


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    scores, heads = rng.normal(size=20), toss(rng, 20)
    whole = coin_test(scores, heads, tolerance=0.05, permutations=500, seed=6)
    monkeypatch.setattr("unlearnkit.audits.statistics.coin._BLOCK", 7 * 20 + 3)
    assert coin_test(scores, heads, tolerance=0.05, permutations=500, seed=6) == whole
    assert whole.p > 0.1


def test_size_is_exact_without_a_leak() -> None:
    rng, runs = np.random.default_rng(7), 600
    results = [
        coin_test(rng.normal(size=60), toss(rng, 60), tolerance=0.05, permutations=99, seed=run) for run in range(runs)
    ]
    for level in (0.05, 0.2):
        low, high = stats.binom.interval(0.999, runs, level)
        assert low <= sum(r.p <= level for r in results) <= high
        assert sum(r.p_guesses <= level for r in results) <= high
    assert sum(r.epsilon_set > 0 for r in results) <= stats.binom.ppf(0.9995, runs, 0.05)


def test_size_at_the_tolerance() -> None:
    rng, runs = np.random.default_rng(8), 500
    gap = math.sqrt(2) * stats.norm.ppf(0.6)  # true AUC 0.6, tolerance 0.1
    rejected = 0
    for run in range(runs):
        heads = toss(rng, 160)
        scores = rng.normal(size=160) + gap * heads
        rejected += coin_test(scores, heads, tolerance=0.1, permutations=1, seed=run).p_tolerance <= 0.05
    low, high = stats.binom.interval(0.999, runs, 0.05)
    assert low <= rejected <= high


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_planted_leak_is_found_in_either_direction(sign: float) -> None:
    rng = np.random.default_rng(9)
    heads = toss(rng, 400)
    scores = rng.normal(size=400) + sign * heads
    found = coin_test(scores, heads, tolerance=0.05, seed=9)
    assert found.p == 1e-4
    assert found.p_tolerance < 1e-6
    assert (found.heads, found.tails, found.guesses) == (200, 200, 400)
    assert found.auc == auc_interval(scores[heads], scores[~heads])
    assert found.mde == auc_mde(200, 200, significance=1 - 0.95)
    if sign > 0:
        assert found.correct > 250
        assert found.p_guesses < 1e-6
        assert found.epsilon_set == pytest.approx(math.log(0.05) - math.log(found.p_guesses))
    else:  # the guesses are one-sided
        assert found.correct < 150
        assert found.p_guesses > 0.999
        assert found.epsilon_set == 0.0


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
@pytest.mark.parametrize("effect", [0.1, -0.2])
def test_p_tolerance_is_the_minimum_effect_formula(tolerance: float, effect: float) -> None:
    rng = np.random.default_rng(16)
    heads = toss(rng, 120)
    scores = rng.normal(size=120) + effect * heads
    distance = abs(auc(scores[heads], scores[~heads]) - 0.5)
    error = auc_standard_error(scores[heads], scores[~heads])
    assert error is not None
    tail = stats.norm.cdf(-(distance - tolerance) / error) + stats.norm.cdf(-(distance + tolerance) / error)
    assert coin_test(scores, heads, tolerance=tolerance, permutations=9, seed=1).p_tolerance == pytest.approx(tail)


def test_power_at_the_mde() -> None:
    rng, runs, effect = np.random.default_rng(10), 300, auc_mde(100, 100)
    gap = math.sqrt(2) * stats.norm.ppf(0.5 + effect)
    found = 0
    for run in range(runs):
        heads = toss(rng, 200)
        found += (
            coin_test(rng.normal(size=200) + gap * heads, heads, tolerance=0.05, permutations=199, seed=run).p <= 0.05
        )
    assert found / runs == pytest.approx(0.8, abs=0.08)


def test_monotone_transforms_change_nothing() -> None:
    rng = np.random.default_rng(11)
    heads = toss(rng, 100)
    scores = rng.normal(size=100) + 0.4 * heads
    first = coin_test(scores, heads, tolerance=0.05, seed=1)
    assert coin_test(np.exp(scores), heads, tolerance=0.05, seed=1) == first
    assert coin_test(scores, heads, tolerance=0.05, seed=1) == first
    other = coin_test(scores, heads, tolerance=0.05, seed=2)
    assert replace(other, p=first.p) == first  # only the shuffles depend on the seed


def test_the_order_of_the_canaries_matters_to_the_shuffles_only() -> None:
    rng = np.random.default_rng(12)
    heads = toss(rng, 101)
    scores = np.round(rng.normal(size=101) + 0.3 * heads.astype(np.float64), 1)
    order = rng.permutation(101)
    first = coin_test(scores, heads, tolerance=0.05, seed=1)
    second = coin_test(scores[order], heads[order], tolerance=0.05, seed=1)
    assert replace(second, p=first.p, p_tolerance=first.p_tolerance, auc=first.auc) == first
    assert second.p_tolerance == pytest.approx(first.p_tolerance, rel=1e-9)
    assert second.p == pytest.approx(first.p, abs=0.02)


def test_strata_keep_the_coins_of_a_group_in_the_group() -> None:
    """Group A scores high and has most heads: the pooled shuffle sees a leak, the shuffle within groups none."""
    rng = np.random.default_rng(13)
    strata = np.repeat([0, 1], 200)
    heads = np.concatenate([rng.permutation(np.arange(200) < 160), rng.permutation(np.arange(200) < 40)])
    scores = rng.normal(size=400) + 3.0 * (strata == 0)
    assert coin_test(scores, heads, tolerance=0.05, seed=1).p < 0.001
    within = coin_test(scores, heads, tolerance=0.05, strata=strata, seed=1)
    assert within.p > 0.05
    assert within.p_guesses > 0.05
    leak = coin_test(scores + 0.8 * heads, heads, tolerance=0.05, strata=strata, seed=1)
    assert leak.p < 0.001
    assert leak.p_guesses < 0.01


def test_strata_of_one_coin_face_cannot_reject() -> None:
    scores = np.arange(8.0)
    heads = np.arange(8) < 4
    found = coin_test(scores, heads, tolerance=0.05, strata=np.repeat([0, 1], 4), permutations=99, seed=1)
    assert found.p == 1.0
    assert found.p_guesses == 1.0
    assert found.epsilon_set == 0.0


def all_draws(groups: list[int], faces: list[int]) -> list[Coins]:
    parts = [
        [np.isin(np.arange(n), pick) for pick in itertools.combinations(range(n), h)]
        for n, h in zip(groups, faces, strict=True)
    ]
    return [np.concatenate(draw) for draw in itertools.product(*parts)]


@pytest.mark.parametrize(("groups", "faces"), [([9], [4]), ([5, 4, 1], [2, 2, 1])])
def test_guess_tail_is_exact_over_all_coin_draws(groups: list[int], faces: list[int]) -> None:
    rng = np.random.default_rng(14)
    scores = np.round(rng.normal(size=sum(groups)), 1)
    strata = np.repeat(np.arange(len(groups)), groups)
    results = [
        coin_test(scores, heads, tolerance=0.05, strata=strata, permutations=1, seed=1)
        for heads in all_draws(groups, faces)
    ]
    correct = np.array([r.correct for r in results])
    for found in results:
        assert found.p_guesses == pytest.approx(np.mean(correct >= found.correct), rel=1e-9)


def test_guesses_by_hand() -> None:
    # heads hold the scores 5 4 1, tails 3 2 0: guessing 5 4 3 heads gets 2 + 2 of 6 right
    found = coin_test(
        np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]),
        np.array([True, True, False, False, True, False]),
        tolerance=0.05,
        permutations=99,
        seed=1,
    )
    assert (found.guesses, found.correct) == (6, 4)
    assert found.p_guesses == pytest.approx(10 / 20)  # P[2 or 3 of 3] = (9 + 1) / C(6, 3)


def test_tied_scores_are_guessed_alike() -> None:
    scores = np.array([2.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    heads = np.array([True, True, False, False, True, False])
    found = coin_test(scores, heads, tolerance=0.05, permutations=99, seed=1)  # four guessed heads, two are
    assert found.correct == 2 + 1
    assert found.p_guesses == pytest.approx(float(stats.hypergeom.sf(1, 6, 3, 4)))
    constant = coin_test(np.ones(6), heads, tolerance=0.05, permutations=99, seed=1)
    assert (constant.p, constant.p_guesses, constant.p_tolerance, constant.epsilon_set) == (1.0, 1.0, 1.0, 0.0)
    assert constant.auc.value == 0.5


def test_not_every_canary_is_guessed_heads_unless_all_scores_are_equal() -> None:
    scores, heads = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), np.arange(6) < 5
    found = coin_test(scores, heads, tolerance=0.05, permutations=9, seed=1)  # guessing all six would cut nothing
    assert found.correct == 1 + 1
    assert found.p_guesses == pytest.approx(5 / 6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_perfect_separation_falls_back_to_independent_pairs(sign: float) -> None:
    heads = np.arange(30) < 10
    found = coin_test(np.where(heads, sign, 0.0), heads, tolerance=0.1, seed=1)
    assert found.auc.value == (1.0 if sign > 0 else 0.0)
    assert found.p_tolerance == pytest.approx(0.6**10 + 0.4**10)
    scores = sign * (100.0 * heads.astype(np.float64) + np.arange(30.0))
    scores[0] = sign * 28.5  # one pair the other way round: not more evidence than none
    almost = coin_test(scores, heads, tolerance=0.1, seed=1)
    assert abs(almost.auc.value - 0.5) == pytest.approx(0.5 - 1 / 200)
    assert almost.p_tolerance >= found.p_tolerance


def test_far_tails_stay_finite() -> None:
    heads = np.arange(4000) < 2000
    found = coin_test(
        heads.astype(np.float64), heads, tolerance=0.05, permutations=9, strata=np.arange(4000) % 4, seed=1
    )
    exact = math.log(0.05) + 4 * (math.lgamma(1001) - 2 * math.lgamma(501))
    assert found.epsilon_set == pytest.approx(exact)
    assert 0.0 < found.p_guesses < 1e-300
    assert 0.0 < found.p_tolerance < 1e-300
    assert epsilon_set(5000, 5000) == pytest.approx(math.log(0.05) + 5000 * math.log(2))


def test_one_coin_on_a_side_gives_no_tolerance_p() -> None:
    found = coin_test(np.array([1.0, 0.0, 2.0]), np.array([True, False, False]), tolerance=0.05, permutations=9, seed=1)
    assert found.p_tolerance == 1.0


def test_delta_and_confidence_enter_epsilon() -> None:
    rng = np.random.default_rng(15)
    heads = toss(rng, 200)
    scores = rng.normal(size=200) + heads
    found = coin_test(scores, heads, tolerance=0.05, delta=0.004, confidence=0.99, permutations=9, seed=1)
    assert found.epsilon_set == pytest.approx(math.log(0.006) - math.log(found.p_guesses))
    assert found.auc == auc_interval(scores[heads], scores[~heads], confidence=0.99)


def test_epsilon_set_vectors() -> None:
    assert epsilon_set(300, 500) == pytest.approx(9.32, abs=0.005)
    assert epsilon_set(600, 1000) == pytest.approx(19.72, abs=0.005)
    assert epsilon_set(60, 100) == pytest.approx(math.log(0.05 / stats.binom.sf(59, 100, 0.5)))
    assert epsilon_set(60, 100, delta=0.01) == pytest.approx(math.log(0.04 / stats.binom.sf(59, 100, 0.5)))
    assert epsilon_set(0, 100) == 0.0


def test_critical_guesses_table() -> None:
    for guesses, right in ((50, 32), (100, 59), (200, 113), (500, 269), (1000, 527), (2000, 1038), (5000, 2559)):
        assert critical_guesses(guesses, significance=0.05) == right
        assert epsilon_set(right, guesses) > 0.0
        assert epsilon_set(right - 1, guesses) == 0.0
    assert critical_guesses(5, significance=2.0**-5) == 5
    assert critical_guesses(1, significance=0.5) == 1


@pytest.mark.parametrize("effect", [0.3, 0.1, 0.05, 0.0123])
def test_canaries_needed_is_the_smallest_that_suffices(effect: float) -> None:
    for power in (0.8, 0.95):
        count = canaries_needed(effect, power=power)
        assert auc_mde(count, count, power=power) <= effect < auc_mde(count - 1, count - 1, power=power)
    assert canaries_needed(0.1, significance=0.2, power=0.05) == 1


SCORES, HEADS = np.arange(6.0), np.arange(6) % 2 == 0


def call(**changes: Any) -> Callable[[], object]:
    scores, heads = changes.pop("scores", SCORES), changes.pop("heads", HEADS)
    return lambda: coin_test(scores, heads, **{"tolerance": 0.05, "seed": 1, **changes})


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (call(scores=np.ones((2, 3))), r"scores must be a 1-D array.*got shape \(2, 3\)"),
        (call(scores=np.full(6, np.nan)), "scores must be finite, got 6 NaN or infinite of 6"),
        (call(heads=HEADS[:5]), r"heads must have one entry per score, shape \(6,\), got \(5,\); align"),
        (call(strata=np.zeros(7)), r"strata must have one entry per score, shape \(6,\), got \(7,\)"),
        (call(heads=np.ones(6, dtype=np.bool_)), "heads must hold True and False, got 6 True and 0 False; pass the"),
        (call(tolerance=-0.01), r"tolerance must lie in \[0, 0.5\) in units of AUC, got -0.01"),
        (call(tolerance=0.55), r"tolerance must lie in \[0, 0.5\).*got 0.55; 0.05 allows an AUC of 0.55"),
        (call(permutations=0), "permutations must be at least 1, got 0"),
        (call(confidence=95.0), "confidence must lie strictly between 0 and 1, got 95.0"),
        (call(delta=0.05000001), "delta must be at least 0 and below the significance 0.05, got 0.05000001"),
        (lambda: epsilon_set(1, 0), "guesses must be at least 1, got 0"),
        (lambda: epsilon_set(11, 10), "correct must lie between 0 and guesses = 10, got 11"),
        (lambda: epsilon_set(5, 10, significance=5.0), "significance must lie strictly"),
        (lambda: epsilon_set(5, 10, delta=-1.0), "delta must be at least 0 and below the significance 0.05, got -1.0"),
        (lambda: critical_guesses(0, significance=0.05), "guesses must be at least 1, got 0"),
        (lambda: critical_guesses(4, significance=0.05), "guesses must be at least 5 at significance 0.05, got 4"),
        (lambda: critical_guesses(9, significance=1.0), "significance must lie strictly"),
        (lambda: canaries_needed(0.6), r"effect must lie in \(0, 0.5\] in units of AUC, got 0.6"),
        (lambda: canaries_needed(0.1, power=80.0), "power must lie strictly"),
        (lambda: canaries_needed(0.1, significance=5.0), "significance must lie strictly"),
    ],
)
def test_misuse_is_answered_with_a_sentence(run: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run()


def test_auc_of_the_result_is_heads_over_tails() -> None:
    assert coin_test(SCORES, HEADS, tolerance=0.0, permutations=9, seed=1).auc.value == auc(
        SCORES[HEADS], SCORES[~HEADS]
    )
