import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, optimize, special, stats
from scipy.special import expit

from unlearnkit.audits.statistics.coin import critical_guesses
from unlearnkit.audits.statistics.epsilon import (
    GAUSSIAN,
    INDEPENDENT,
    Confusion,
    Rule,
    Split,
    choose_rule,
    gaussian_bound,
    gaussian_epsilon,
    gaussian_mu,
    guess_accuracy_mde,
    joint_epsilon,
    one_run_canaries,
    one_run_epsilon,
    one_run_guesses,
    one_run_mde,
    one_run_p,
    one_run_power,
    posterior_mass,
    rule_epsilon,
    split_epsilon,
    two_world_epsilon,
    two_world_mde,
    two_world_power,
    two_world_runs,
)
from unlearnkit.result import UsageError

Array = NDArray[np.float64]
README = Confusion(true_positives=487, false_negatives=0, false_positives=512, true_negatives=1)  # audits.md 4.2


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def normal_scores(seed: int, gap: float, runs: int = 100) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(gap, 1.0, runs), rng.normal(0.0, 1.0, runs)


# -- two worlds ----------------------------------------------------------------------------------------------------


def test_ceilings_without_an_error() -> None:
    table = {16: 1.35, 32: 2.10, 64: 2.82, 128: 3.53, 256: 4.23, 512: 4.93, 1000: 5.60, 5000: 7.21}  # audits.md 4.1
    for runs, epsilon in table.items():
        assert two_world_epsilon(Confusion(runs, 0, 0, runs)) == pytest.approx(epsilon, abs=0.005)


def test_two_world_epsilon_is_formula_4_1() -> None:
    confusion = Confusion(true_positives=40, false_negatives=20, false_positives=3, true_negatives=47)
    false_positive, false_negative = stats.beta.isf(0.05, 4, 47), stats.beta.isf(0.05, 21, 40)
    for delta in (0.0, 0.01):
        expected = max(
            math.log((1 - delta - false_negative) / false_positive),
            math.log((1 - delta - false_positive) / false_negative),
        )
        assert two_world_epsilon(confusion, confidence=0.9, delta=delta) == pytest.approx(expected)
    mirrored = Confusion(true_positives=47, false_negatives=3, false_positives=20, true_negatives=40)
    assert two_world_epsilon(mirrored) == pytest.approx(two_world_epsilon(confusion))


def test_two_world_epsilon_is_zero_where_nothing_shows() -> None:
    assert two_world_epsilon(Confusion(5, 5, 5, 5)) == 0.0
    assert two_world_epsilon(Confusion(0, 9, 0, 9)) == 0.0
    assert two_world_epsilon(README) == 0.0
    assert two_world_epsilon(Confusion(9, 1, 1, 9), delta=0.999) == 0.0


def naive_rule_value(members: Array, nonmembers: Array, threshold: float, above: bool) -> float:
    calls = [side >= threshold if above else side <= threshold for side in (members, nonmembers)]
    hits, alarms = int(calls[0].sum()), int(calls[1].sum())
    return two_world_epsilon(Confusion(hits, len(members) - hits, alarms, len(nonmembers) - alarms))


@pytest.mark.parametrize("gap", [1.5, -1.5])
def test_choose_rule_tries_every_threshold_in_both_directions(gap: float) -> None:
    members, nonmembers = (np.round(side, 1) for side in normal_scores(1, gap, 30))
    rule = choose_rule(members, nonmembers)
    assert rule.above == (gap > 0)
    values = [
        naive_rule_value(members, nonmembers, float(threshold), above)
        for threshold in np.concatenate([members, nonmembers])
        for above in (True, False)
    ]
    assert naive_rule_value(members, nonmembers, rule.threshold, rule.above) == pytest.approx(max(values))


def test_choose_rule_puts_the_threshold_midway() -> None:
    assert choose_rule(floats(5.0, 6.0, 7.0), floats(1.0, 2.0)).threshold == 3.5
    below = choose_rule(floats(1.0, 2.0), floats(5.0, 6.0, 7.0))
    assert (below.threshold, below.above) == (3.5, False)
    assert choose_rule(floats(5.0, 6.0, 7.0), floats(1.0, 2.0), delta=0.99).threshold == 0.0  # nothing shows anything


def test_rules_count_thresholds_on_the_right_side() -> None:
    scores = floats(1.0, 2.0, 3.0, 4.0), floats(1.0, 2.0, 2.0, 5.0)
    assert rule_epsilon(Rule(2.0), *scores).confusion == Confusion(3, 1, 3, 1)
    assert rule_epsilon(Rule(2.0, above=False), *scores).confusion == Confusion(2, 2, 3, 1)


def test_split_epsilon_counts_on_the_other_half() -> None:
    members, nonmembers = normal_scores(2, 3.0, 201)
    found = split_epsilon(members, nonmembers, seed=5)
    assert found.confusion.members == found.confusion.nonmembers == 101
    assert found.epsilon == two_world_epsilon(found.confusion)
    assert found.ceiling == two_world_epsilon(Confusion(101, 0, 0, 101)) > found.epsilon > 1.0
    assert found.assumption == INDEPENDENT
    assert len(found.rule.untied) == 200
    assert split_epsilon(members[::-1], nonmembers, seed=5) == found
    assert split_epsilon(members, nonmembers, seed=6) != found
    # what was counted is what the rule was not chosen on
    mine = [np.array([score for score in side if score not in found.rule.untied]) for side in (members, nonmembers)]
    assert rule_epsilon(found.rule, *mine) == found


def test_a_rule_refuses_the_scores_it_was_chosen_on() -> None:
    """audits.md 10.3: public helpers take the largest epsilon over all thresholds on the scores that they judge."""
    members, nonmembers = normal_scores(3, 1.0)
    rule = choose_rule(members, nonmembers)
    fresh = normal_scores(4, 1.0)
    assert rule_epsilon(rule, *fresh).confusion.members == 100
    assert rule_epsilon(Rule(rule.threshold, rule.above), members, nonmembers).epsilon >= 0.0  # registered
    both = tuple(np.concatenate(pair) for pair in zip((members, nonmembers), fresh, strict=True))
    for scores in (
        (members, nonmembers),
        (members[::-1], np.sort(nonmembers)),
        (nonmembers, members),
        (members, fresh[1]),
        (fresh[0], nonmembers[:40]),
        both,  # chosen on one half, counted on the whole
    ):
        with pytest.raises(UsageError, match="scores are those the rule was chosen on; pass the scores of other runs"):
            rule_epsilon(rule, *scores)


def test_scores_of_few_values_are_no_reason_to_refuse() -> None:
    rng = np.random.default_rng(5)
    chosen = [rng.integers(0, 40, 60).astype(np.float64) for _ in range(2)]
    rule = choose_rule(*chosen)
    for _ in range(50):
        rule_epsilon(rule, *(rng.integers(0, 40, 60).astype(np.float64) for _ in range(2)))
    with pytest.raises(UsageError, match=r"members: \w+ of 60 scores are those"):
        rule_epsilon(rule, *(rng.permutation(side) for side in chosen))
    # all right in both halves: the halves are the same numbers, and splitting is still allowed
    assert split_epsilon(np.ones(40), np.zeros(40), seed=0).epsilon == two_world_epsilon(Confusion(20, 0, 0, 20))


# -- posterior of both error rates ---------------------------------------------------------------------------------


def drawn_epsilons(confusion: Confusion, delta: float, draws: int) -> Array:
    """Epsilon that two error rates drawn from their posteriors demand: the definition of the region, solved for it."""
    rng = np.random.default_rng(0)
    x = rng.beta(confusion.false_positives + 0.5, confusion.true_negatives + 0.5, draws)
    y = rng.beta(confusion.false_negatives + 0.5, confusion.true_positives + 0.5, draws)
    ratios = [(1 - delta - x) / y, (1 - delta - y) / x, (y - delta) / (1 - x), (x - delta) / (1 - y)]
    return np.asarray(np.log(np.maximum(np.max(ratios, axis=0), 1.0)), dtype=np.float64)


@pytest.mark.parametrize(
    "confusion", [README, Confusion(30, 20, 10, 40), Confusion(3, 1, 0, 900), Confusion(5, 5, 5, 5)]
)
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.05])
def test_posterior_mass_is_the_share_of_drawn_error_rates(confusion: Confusion, delta: float) -> None:
    draws = 200_000
    demanded = drawn_epsilons(confusion, delta, draws)
    for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 1000.0):
        inside = int(np.count_nonzero(demanded <= epsilon))
        mass = posterior_mass(confusion, epsilon=epsilon, delta=delta)
        assert abs(inside - draws * mass) <= 5 * math.sqrt(draws * mass * (1 - mass)) + 1


def test_joint_epsilon_of_the_authors_example() -> None:
    found = joint_epsilon(README, confidence=0.9, delta=1e-5)
    assert found.low is not None
    assert found.high is not None
    # The authors print [0.145, 6.399] from a coarse integral; twenty million draws give 0.1439, 1.7197, 6.4145.
    assert found.low == pytest.approx(0.145, abs=0.0015)
    assert found.high == pytest.approx(6.399, abs=0.02)
    assert (found.low, found.value, found.high) == pytest.approx((0.1439, 1.7197, 6.4145), abs=0.0015)
    assert posterior_mass(README, epsilon=found.low, delta=1e-5) == pytest.approx(0.05, abs=1e-6)
    assert posterior_mass(README, epsilon=found.high, delta=1e-5) == pytest.approx(0.95, abs=1e-6)


# -- Gaussian differential privacy ---------------------------------------------------------------------------------


def test_gaussian_vectors() -> None:
    for mu, epsilon in ((0.5, 1.99), (1.0, 4.38), (2.0, 10.0)):  # audits.md 13
        assert gaussian_epsilon(mu, delta=1e-5) == pytest.approx(epsilon, abs=0.005)
    perfect = gaussian_bound(Confusion(1000, 0, 0, 1000), delta=1e-5)
    assert perfect.epsilon == pytest.approx(36, abs=0.5)  # audits.md 4.3: why the assumption must stand beside it
    assert perfect.assumption == GAUSSIAN


@pytest.mark.parametrize("mu", [0.05, 0.7, 3.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-3])
def test_gaussian_epsilon_is_the_hockey_stick_of_two_normals(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta=delta)
    cut = epsilon / mu + mu / 2  # where the likelihood ratio is e**epsilon
    excess = integrate.quad(
        lambda x: stats.norm.pdf(x - mu) - math.exp(epsilon) * stats.norm.pdf(x), cut, cut + 30, epsabs=1e-13, limit=200
    )[0]
    assert excess == pytest.approx(delta, rel=1e-4)
    assert gaussian_mu(epsilon, delta=delta) == pytest.approx(mu, rel=1e-6)


def test_gaussian_ends() -> None:
    assert gaussian_epsilon(0.0, delta=1e-5) == 0.0
    assert gaussian_epsilon(1e-6, delta=1e-5) == 0.0  # total variation below delta
    assert 2 * stats.norm.cdf(gaussian_mu(0.0, delta=0.1) / 2) - 1 == pytest.approx(0.1, rel=1e-6)
    assert gaussian_epsilon(40.0, delta=1e-5) > 800.0  # e**epsilon overflows, its logarithm does not
    nothing = gaussian_bound(Confusion(0, 9, 9, 0), delta=1e-5)
    assert (nothing.mu, nothing.epsilon) == (0.0, 0.0)


def test_gaussian_bound_is_from_the_exact_limits() -> None:
    found = gaussian_bound(Confusion(80, 20, 10, 90), confidence=0.9, delta=1e-5)
    false_positive, false_negative = stats.beta.isf(0.05, 11, 90), stats.beta.isf(0.05, 21, 80)
    assert found.mu == pytest.approx(stats.norm.ppf(1 - false_positive) - stats.norm.ppf(false_negative))
    assert found.epsilon == gaussian_epsilon(found.mu, delta=1e-5)


# -- one run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "alpha", "epsilon"),
    [
        (500, 100, 100, 1e-5, 0.05, 3.4792),
        (500, 100, 100, 1e-5, 0.01, 3.0232),
        (500, 35, 23, 1e-5, 0.05, 0.01455),
        (500, 100, 60, 1e-5, 0.05, 0.05074),
        (500, 95, 58, 1e-5, 0.05, 0.08366),
        (1000, 1000, 1000, 0.0, 0.05, 5.8091),
        (1000, 200, 180, 1e-5, 0.05, 1.7963),
    ],
)
def test_one_run_vectors(canaries: int, guesses: int, correct: int, delta: float, alpha: float, epsilon: float) -> None:
    found = one_run_epsilon(correct, guesses, canaries=canaries, delta=delta, confidence=1 - alpha)
    assert found == pytest.approx(epsilon, abs=5e-5 if epsilon > 1 else 5e-6)


def test_one_run_tables() -> None:
    for guesses, ceiling in ((100, 3.49), (500, 5.1), (1000, 5.8), (5000, 7.4)):  # audits.md 4.4
        assert one_run_epsilon(guesses, guesses, canaries=guesses) == pytest.approx(ceiling, abs=0.05)
    for guesses, share, epsilon in ((100, 75, 0.70), (1000, 75, 0.98), (100, 60, 0.05), (1000, 60, 0.30)):
        found = one_run_epsilon(guesses * share // 100, guesses, canaries=guesses)
        assert found == pytest.approx(epsilon, abs=0.005)


@pytest.mark.parametrize(("correct", "guesses", "canaries"), [(7, 9, 20), (1, 1, 1), (0, 3, 5), (30, 40, 40)])
@pytest.mark.parametrize("delta", [0.0, 1e-3])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
def test_one_run_p_is_formula_4_4(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> None:
    q = 1 / (1 + math.exp(-epsilon))
    law = [math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(guesses + 1)]
    worst = max((sum(law[correct - i : correct]) / i for i in range(1, correct + 1)), default=0.0)
    expected = min(1.0, sum(law[correct:]) + 2 * canaries * delta * worst)
    found = one_run_p(correct, guesses, canaries=canaries, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize(("correct", "guesses"), [(60, 100), (100, 100), (23, 35), (3, 3)])
def test_one_run_epsilon_is_the_first_crossing(correct: int, guesses: int, delta: float) -> None:
    grid = np.linspace(0.0, 8.0, 400)
    p = [one_run_p(correct, guesses, canaries=500, epsilon=float(e), delta=delta) for e in grid]
    accepted = np.flatnonzero(np.array(p) >= 0.05)
    found = one_run_epsilon(correct, guesses, canaries=500, delta=delta)
    assert grid[max(accepted[0] - 1, 0)] <= found <= grid[accepted[0]]
    assert np.all(np.diff(accepted) == 1)


# -- one run, a split of fixed size --------------------------------------------------------------------------------


def enumerated(m: int, split: Split, epsilon: float) -> list[float]:
    """Law of right guesses of independent coins, each told truly with odds e**epsilon, given that h fall heads."""
    law = [0.0] * (m + 1)
    for coins in itertools.product((True, False), repeat=m):
        if sum(coins) == split.heads:
            right = sum(coin == (i < split.called) for i, coin in enumerate(coins))
            law[right] += math.exp(epsilon * right)
    return [weight / sum(law) for weight in law]


@pytest.mark.parametrize(("m", "split"), [(6, Split(3, 3)), (7, Split(3, 2)), (7, Split(2, 5)), (8, Split(6, 5))])
@pytest.mark.parametrize("epsilon", [0.0, 0.4, 2.0])
def test_a_split_is_independent_coins_given_their_sum(m: int, split: Split, epsilon: float) -> None:
    law = enumerated(m, split, epsilon)
    for correct in (v for v, chance in enumerate(law) if chance > 0):
        found = one_run_p(correct, m, canaries=m, epsilon=epsilon, split=split)
        assert found == pytest.approx(sum(law[correct:]), rel=1e-9)
        if correct:  # a guess that a tie left out is a wrong one
            assert one_run_p(correct - 1, m, canaries=m, epsilon=epsilon, split=split) == pytest.approx(found)


@pytest.mark.parametrize(("m", "split", "correct"), [(80, Split(40, 40), 50), (200, Split(100, 90), 120)])
def test_a_split_follows_fishers_law(m: int, split: Split, correct: int) -> None:
    hits = (correct - m + split.heads + split.called) // 2
    for epsilon in (0.0, 0.1, 1.0):
        law = stats.nchypergeom_fisher(m, split.heads, split.called, math.exp(2 * epsilon))
        found = one_run_p(correct, m, canaries=m, epsilon=epsilon, split=split)
        assert found == pytest.approx(law.sf(hits - 1), rel=1e-6)
    assert one_run_p(m, m, canaries=m, epsilon=500.0, split=Split(m // 2, m // 2)) == pytest.approx(1.0)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize(("m", "split", "correct"), [(20, Split(10, 10), 14), (30, Split(12, 15), 19)])
def test_no_law_that_swaps_allow_has_a_larger_tail(m: int, split: Split, correct: int, epsilon: float) -> None:
    """The largest tail of all laws that the swap inequality allows, by linear programming: at delta 0 the very same."""
    h, g = split.heads, split.called
    k = np.arange(max(0, g + h - m), min(g, h) + 1)
    n = k.size
    for delta, room in ((0.0, 1.0 + 1e-6), (1e-5, 1.001), (1e-3, 1.15)):
        budget = h * (m - h) * (1 + math.exp(epsilon)) * delta
        swaps = np.zeros((n, 2 * n - 1))  # of the law, and what delta adds at every step
        for i in range(n - 1):
            swaps[i, i + 1] = k[i + 1] * (m - g - h + k[i + 1])
            swaps[i, i] = -math.exp(2 * epsilon) * (g - k[i]) * (h - k[i])
            swaps[i, n + i] = -1.0
        swaps[n - 1, n:] = 1.0
        tail = 2 * k + m - g - h >= correct
        found = optimize.linprog(
            -np.concatenate([tail, np.zeros(n - 1)]),
            A_ub=swaps,
            b_ub=np.append(np.zeros(n - 1), budget),
            A_eq=[np.concatenate([np.ones(n), np.zeros(n - 1)])],
            b_eq=[1.0],
        )
        p = one_run_p(correct, m, canaries=m, epsilon=epsilon, delta=delta, split=split)
        assert -found.fun * (1 - 1e-6) <= p <= -found.fun * room


def test_a_split_shows_a_little_less_than_coins() -> None:
    for correct, m in ((50, 80), (120, 200), (560, 1000)):
        half = Split(m // 2, m // 2)
        for delta in (0.0, 1e-5):
            coins, fixed = (one_run_epsilon(correct, m, canaries=m, delta=delta, split=s) for s in (None, half))
            assert 0 < coins - 0.03 < fixed < coins
    # All right: sum_j C(50, j)**2 e**(-2 j epsilon), about I_0(100 e**-epsilon), is 1 / alpha = 20; coins show 3.49.
    assert one_run_epsilon(100, 100, canaries=100, split=Split(50, 50)) == pytest.approx(
        optimize.brentq(lambda e: special.i0(100 * math.exp(-e)) - 20, 1, 5), abs=0.05
    )


@pytest.mark.parametrize(
    ("correct", "guesses", "split", "message"),
    [
        (5, 8, Split(5, 5), "of 10 canaries 5 are heads and 5 are called so; then all must be guessed, and at most 10"),
        (9, 10, Split(5, 3), "and at most 8 guesses can be right, got 9 of 10"),
        (5, 10, Split(11, 5), "of 10 canaries 11 are heads"),
    ],
)
def test_splits_that_cannot_be(correct: int, guesses: int, split: Split, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        one_run_p(correct, guesses, canaries=10, epsilon=0.0, split=split)
    with pytest.raises(UsageError, match="split: counts must not be negative, got -1 heads and 3 called"):
        Split(-1, 3)


# -- known truth ---------------------------------------------------------------------------------------------------


def violations(bounds: list[float], truth: float) -> int:
    return sum(bound > truth for bound in bounds)


def most_violations(runs: int, alpha: float = 0.05) -> int:
    return int(stats.binom.ppf(0.999, runs, alpha))  # audits.md 4.7: 21 of 200


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 2.0, 4.0])
def test_randomized_response_is_never_exceeded_and_is_seen(epsilon: float) -> None:
    rng, runs, right = np.random.default_rng(int(epsilon)), 250, float(expit(epsilon))
    two, one = [], []
    for _ in range(runs):
        hits, rejections = (int(k) for k in rng.binomial(200, right, 2))
        confusion = Confusion(hits, 200 - hits, 200 - rejections, rejections)
        two.append(two_world_epsilon(confusion))
        one.append(one_run_epsilon(int(rng.binomial(200, right)), 200, canaries=200, delta=1e-6))
    for found in (two, one):
        assert violations(found, epsilon) <= most_violations(runs)
        if epsilon >= 2:
            assert np.mean(np.array(found) > 0.0) > 0.95
        if epsilon == 0:
            assert np.mean(np.array(found) == 0.0) >= 0.95


@pytest.mark.parametrize("ties", [False, True])
def test_one_run_guesses_are_the_naive_ones(ties: bool) -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        m = int(rng.integers(1, 12))
        scores = rng.integers(0, 4, m).astype(np.float64) if ties else rng.normal(size=m)
        heads = rng.random(m) < 0.5
        positive = int(rng.integers(0, m + 1))
        negative = int(rng.integers(0 if positive else 1, m - positive + 1))
        right = 0
        for i in range(m):
            # certainly among the highest, and the lowest, however ties are broken
            high = sum(s >= scores[i] for s in scores) <= positive
            low = sum(s <= scores[i] for s in scores) <= negative
            right += (high and bool(heads[i])) or (low and not heads[i])
        assert one_run_guesses(scores, heads, positive=positive, negative=negative) == (right, positive + negative)


def test_ties_cannot_be_guessed_from_the_order_of_the_canaries() -> None:
    heads = np.arange(20) < 10  # heads first
    assert one_run_guesses(np.zeros(20), heads, positive=5, negative=5) == (0, 10)
    scores = floats(*[2.0] * 4, *[1.0] * 12, *[0.0] * 4)
    assert one_run_guesses(scores, heads, positive=4, negative=4) == (8, 8)
    assert one_run_guesses(scores, heads, positive=5, negative=3) == (4, 8)  # the fifth, and three of the four, tie
    assert one_run_guesses(scores, heads, positive=10, negative=10) == (8, 20)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_registered_guesses_never_exceed_randomized_response(epsilon: float) -> None:
    rng, found, runs = np.random.default_rng(int(epsilon)), [], 250
    for _ in range(runs):
        heads = rng.random(200) < 0.5
        scores = (heads ^ (rng.random(200) >= expit(epsilon))) + rng.random(200)
        correct, guesses = one_run_guesses(scores, heads, positive=60, negative=40)
        found.append(one_run_epsilon(correct, guesses, canaries=200, delta=1e-6))
    assert violations(found, epsilon) <= most_violations(runs)
    assert np.mean(np.array(found) > 0.0) > (0.95 if epsilon > 1 else 0.0)


@pytest.mark.parametrize(
    ("scores", "heads", "positive", "negative", "message"),
    [
        (np.zeros(0), np.zeros(0, dtype=bool), 1, 1, "scores must"),
        (floats(1.0, math.nan), np.array([True, False]), 1, 1, "scores must"),
        (floats(1.0, 2.0), np.array([True]), 1, 1, r"heads must be one bool per score, shape \(2,\), got shape \(1,\)"),
        (floats(1.0, 2.0), np.array([True, False]), -1, 2, "add up to 1 to 2, the number of canaries, got -1 and 2"),
        (floats(1.0, 2.0), np.array([True, False]), 0, 0, "add up to 1 to 2, the number of canaries, got 0 and 0"),
        (floats(1.0, 2.0), np.array([True, False]), 2, 1, "add up to 1 to 2, the number of canaries, got 2 and 1"),
    ],
)
def test_guesses_that_make_no_sense(
    scores: Array, heads: NDArray[np.bool_], positive: int, negative: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        one_run_guesses(scores, heads, positive=positive, negative=negative)


def test_the_credible_limit_exceeds_the_truth_as_often_as_documented() -> None:
    """Both sides of formula 4.1 meet the truth, and P[U V < a] of two uniforms is a (1 + ln(1/a)), not a."""
    rng, runs, a = np.random.default_rng(9), 400, 0.05
    exceeded = 0
    for hits, rejections in rng.binomial(200, expit(4.0), (runs, 2)):
        confusion = Confusion(int(hits), 200 - int(hits), 200 - int(rejections), int(rejections))
        exceeded += posterior_mass(confusion, epsilon=4.0) < a  # that is, the lower limit lies above 4
    assert most_violations(runs, a) < exceeded <= most_violations(runs, a * (1 - math.log(a)))


def test_gaussian_mechanism_is_never_exceeded_though_the_rule_is_chosen() -> None:
    rng, truth, delta, runs = np.random.default_rng(7), gaussian_epsilon(2.0, delta=1e-3), 1e-3, 200
    bounds, modeled = [], []
    for seed in range(runs):
        found = split_epsilon(rng.normal(2.0, 1.0, 300), rng.normal(0.0, 1.0, 300), delta=delta, seed=seed)
        bounds.append(found.epsilon)
        modeled.append(gaussian_bound(found.confusion, delta=delta).epsilon)
    assert violations(bounds, truth) <= most_violations(runs)
    assert violations(modeled, truth) <= most_violations(runs)
    assert np.mean(np.array(bounds) > 0.5) > 0.95
    assert np.median(modeled) > np.median(bounds)  # what the assumption buys


def test_no_leak_gives_zero_though_the_rule_is_chosen() -> None:
    rng, runs = np.random.default_rng(8), 300
    positive = sum(
        split_epsilon(rng.normal(size=60), rng.normal(size=60), seed=seed).epsilon > 0.0 for seed in range(runs)
    )
    assert positive <= most_violations(runs)


# -- power ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "nonmembers"), [(30, 30), (12, 40), (1, 5)])
@pytest.mark.parametrize(("tolerance", "delta"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.02)])
def test_two_world_power_is_the_sum_over_all_tables(
    members: int, nonmembers: int, tolerance: float, delta: float
) -> None:
    error = 1 / (1 + math.exp(1.7))
    expected = sum(
        float(stats.binom.pmf(misses, members, error) * stats.binom.pmf(alarms, nonmembers, error))
        for misses in range(members + 1)
        for alarms in range(nonmembers + 1)
        if two_world_epsilon(Confusion(members - misses, misses, alarms, nonmembers - alarms), delta=delta) > tolerance
    )
    found = two_world_power(1.7, members=members, nonmembers=nonmembers, tolerance=tolerance, delta=delta)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("tolerance", "delta"), [(0.0, 0.0), (0.5, 1e-4)])
def test_one_run_power_is_the_sum_over_all_counts(tolerance: float, delta: float) -> None:
    expected = sum(
        float(stats.binom.pmf(v, 40, expit(1.2)))
        for v in range(41)
        if one_run_epsilon(v, 40, canaries=60, delta=delta) > tolerance
    )
    found = one_run_power(1.2, guesses=40, canaries=60, tolerance=tolerance, delta=delta)
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_smallest_detectable_epsilon_has_the_power_asked_for() -> None:
    sizes = {"members": 200, "nonmembers": 100}
    found = two_world_mde(**sizes, tolerance=0.5, power=0.9)
    assert found is not None
    assert two_world_power(found, **sizes, tolerance=0.5) == pytest.approx(0.9, abs=1e-6)
    assert two_world_mde(members=16, nonmembers=16, tolerance=1.36) is None  # the ceiling is 1.35
    found = one_run_mde(guesses=100, canaries=200, delta=1e-5, tolerance=0.5)
    assert found is not None
    assert one_run_power(found, guesses=100, canaries=200, delta=1e-5, tolerance=0.5) == pytest.approx(0.8, abs=1e-6)
    assert one_run_mde(guesses=100, canaries=100, tolerance=3.5) is None  # the ceiling is 3.49


@pytest.mark.parametrize(("epsilon", "tolerance"), [(1.0, 0.0), (0.5, 0.2), (4.0, 3.0)])
def test_as_many_points_as_stated_suffice_and_one_less_does_not(epsilon: float, tolerance: float) -> None:
    runs = two_world_runs(epsilon, tolerance=tolerance)
    enough, short = (two_world_power(epsilon, members=n, nonmembers=n, tolerance=tolerance) for n in (runs, runs - 1))
    assert enough >= 0.8 > short
    count = one_run_canaries(epsilon, tolerance=tolerance, delta=1e-6)
    enough, short = (
        one_run_power(epsilon, guesses=n, canaries=n, tolerance=tolerance, delta=1e-6) for n in (count, count - 1)
    )
    assert enough >= 0.8 > short


def test_guess_accuracy_table() -> None:
    table = {50: 0.685, 100: 0.626, 200: 0.592, 500: 0.556, 1000: 0.540, 2000: 0.528, 5000: 0.518}  # audits.md 4.6
    for guesses, share in table.items():
        found = guess_accuracy_mde(guesses)
        assert found == pytest.approx(share, abs=5.1e-4)
        critical = critical_guesses(guesses, significance=0.05)
        assert stats.binom.sf(critical - 1, guesses, found) == pytest.approx(0.8)


# -- misuse --------------------------------------------------------------------------------------------------------

SOME, OTHER = floats(0.0, 1.0, 2.0), floats(0.5, 1.5)
EVEN = Confusion(5, 5, 5, 5)


def one(**changes: Any) -> Callable[[], object]:
    return lambda: one_run_p(**{"correct": 1, "guesses": 2, "canaries": 3, "epsilon": 0.0, **changes})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Confusion(-1, 5, 5, 5), r"confusion: counts must not be negative, got \(-1, 5"),
        (lambda: Confusion(0, 0, 5, 5), "both worlds need at least one run, got 0 with the example and 10 without"),
        (lambda: Rule(math.inf), "rule: threshold must be finite, got inf; a rule calls some"),
        (
            lambda: two_world_epsilon(EVEN, confidence=95.0),
            "confidence must lie strictly.*got 95.0; write 5 percent as",
        ),
        (lambda: two_world_epsilon(EVEN, delta=1.0), r"delta must lie in \[0, 1\), got 1.0; use 0 or 1e-5"),
        (lambda: choose_rule(SOME, floats()), "nonmembers must hold at least one score, got none"),
        (lambda: choose_rule(SOME, SOME, confidence=0.0), "confidence must lie strictly"),
        (lambda: choose_rule(SOME, SOME, delta=-0.1), r"delta must lie in \[0, 1\), got -0.1"),
        (lambda: rule_epsilon(Rule(1.0), floats(np.nan), SOME), "members must be finite, got 1 NaN"),
        (lambda: rule_epsilon(Rule(1.0), SOME, SOME, confidence=2.0), "confidence must lie strictly"),
        (
            lambda: split_epsilon(SOME, floats(1.0), seed=0),
            "nonmembers must hold at least two scores to be split, got 1",
        ),
        (lambda: split_epsilon(SOME, floats(1.0, np.inf), seed=0), "nonmembers must be finite, got 1 NaN or infinite"),
        (lambda: posterior_mass(EVEN, epsilon=-1.0), "epsilon must be at least 0 nats and finite, got -1.0"),
        (lambda: joint_epsilon(EVEN, confidence=90.0), "confidence must lie strictly"),
        (lambda: joint_epsilon(EVEN, delta=1.5), r"delta must lie in \[0, 1\), got 1.5"),
        (lambda: gaussian_bound(EVEN, delta=0.0), r"delta must lie in \(0, 1\), got 0.0; a Gaussian mechanism has no"),
        (lambda: gaussian_bound(EVEN, delta=0.1, confidence=1.0), "confidence must lie strictly"),
        (lambda: gaussian_epsilon(-1.0, delta=0.1), "mu must be at least 0 and finite, got -1.0"),
        (lambda: gaussian_mu(math.inf, delta=0.1), "epsilon must be at least 0 nats and finite, got inf"),
        (lambda: gaussian_mu(1.0, delta=1.0), r"delta must lie in \(0, 1\), got 1.0"),
        (one(guesses=4), "guesses must lie between 1 and canaries = 3, got 4; guess a canary once"),
        (one(guesses=0, correct=0), "guesses must lie between 1 and canaries = 3, got 0"),
        (one(correct=3), "correct must lie between 0 and guesses = 2, got 3; pass counts, not shares"),
        (one(epsilon=-0.5), "epsilon must be at least 0 nats"),
        (one(delta=1.0), r"delta must lie in \[0, 1\), got 1.0"),
        (lambda: one_run_epsilon(1, 2, canaries=1), "guesses must lie between 1 and canaries = 1, got 2"),
        (lambda: one_run_epsilon(1, 2, canaries=2, confidence=95.0), "confidence must lie strictly"),
        (lambda: two_world_power(1.0, members=0, nonmembers=5), "members must be a count of at least 1, got 0"),
        (lambda: two_world_power(1.0, members=5, nonmembers=0), "nonmembers must be a count of at least 1, got 0"),
        (lambda: two_world_power(1.0, members=5, nonmembers=5, tolerance=-1.0), "tolerance must be at least 0 nats"),
        (lambda: two_world_mde(members=5, nonmembers=5, power=80.0), "power must lie strictly"),
        (lambda: two_world_mde(members=0, nonmembers=5), "members must be a count of at least 1, got 0"),
        (lambda: two_world_runs(1.0, tolerance=1.0), "tolerance must lie below epsilon = 1.0, got 1.0; nothing beyond"),
        (lambda: two_world_runs(1.0, tolerance=0.99, delta=0.1), "delta, tolerance: more than .* would be needed"),
        (lambda: one_run_power(1.0, guesses=3, canaries=2), "guesses must lie between 1 and canaries = 2, got 3"),
        (lambda: one_run_mde(guesses=3, canaries=3, power=1.0), "power must lie strictly"),
        (lambda: one_run_canaries(1.0, tolerance=-1.0), "tolerance must be at least 0 nats"),
        (lambda: guess_accuracy_mde(3), "guesses must be at least 5 at significance"),
        (lambda: guess_accuracy_mde(100, power=0.0), "power must lie strictly"),
    ],
)
def test_misuse_is_answered_with_a_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
