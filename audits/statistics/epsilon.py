"""Lower limits of epsilon from what attacks got right: two worlds, one training run, or a Gaussian trade-off curve.

Epsilon is in nats. Score direction: higher = more like a trained-on example; "member" is the world with the example.
A lower limit says how much leaks at least; none of these is an upper limit. The set-level limit of a coin-flip pool is
`coin.epsilon_set`.

A rule must not be chosen on the scores that it is then counted on: the best of all thresholds on the same data shows a
leak where there is none (audits.md 4.1). `split_epsilon` splits by itself, `rule_epsilon` refuses the scores its rule
was chosen on.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from unlearnkit.audits.statistics.coin import critical_guesses
from unlearnkit.audits.statistics.roc import binomial_limits, check_scores, check_share, clopper_pearson, roc
from unlearnkit.result import Interval, UsageError

INDEPENDENT = "assumes that every score comes from a training run of its own, independent of all others"
GAUSSIAN = (
    "assumes that the mechanism's trade-off curve is Gaussian (Gaussian differential privacy), which nothing in "
    "unlearning guarantees: a figure of that model, not a bound"
)
_MOST_RUNS = 1 << 20
_PANELS, _NODES = 500, 8


# -- two worlds: many runs with and without the example ------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """How a rule fixed beforehand called independent runs of both worlds.

    Raises `UsageError` for a negative count or a world without runs.
    """

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    def __post_init__(self) -> None:
        counts = (self.true_positives, self.false_negatives, self.false_positives, self.true_negatives)
        if min(counts) < 0:
            raise UsageError(f"confusion: counts must not be negative, got {counts}; count the runs")
        if min(self.members, self.nonmembers) == 0:
            raise UsageError(
                f"confusion: both worlds need at least one run, got {self.members} with the example and "
                f"{self.nonmembers} without; run both"
            )

    @property
    def members(self) -> int:
        """Runs of the world with the example."""
        return self.true_positives + self.false_negatives

    @property
    def nonmembers(self) -> int:
        """Runs of the world without it."""
        return self.false_positives + self.true_negatives


@dataclass(frozen=True)
class Rule:
    """A decision rule on scores, fixed before the scores it is counted on are seen.

    above: a score >= `threshold` is called a member; otherwise one <= `threshold` is (over-forgotten examples score
    lower). `digest`: SHA-256 of the scores it was chosen on, `None` for a rule registered by hand.
    There is no region of abstention: the limit rests on one event, "called a member" or its complement, and a second
    threshold only takes confidence away from it.
    Raises `UsageError` for a threshold that is not finite.
    """

    threshold: float
    above: bool = True
    digest: str | None = None
    untied: frozenset[float] = field(default=frozenset(), repr=False, compare=False)  # of the scores it was chosen on

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise UsageError(f"rule: threshold must be finite, got {self.threshold}; a rule calls some and not others")


@dataclass(frozen=True)
class EpsilonBound:
    """A lower confidence limit of epsilon (nats) at `delta`, with the rule and the counts behind it.

    `ceiling`: the limit that not a single error in as many runs would have given; no leak beyond it can be shown.
    `assumption` must be shown with the figure.
    """

    epsilon: float
    ceiling: float
    delta: float
    confidence: float
    rule: Rule
    confusion: Confusion
    assumption: str = INDEPENDENT


def two_world_epsilon(confusion: Confusion, *, confidence: float = 0.95, delta: float = 0.0) -> float:
    """Lower confidence limit of epsilon (nats) from exact limits of the error rates (Jagielski 2020; audits.md 4.1).

    max(ln((1 - delta - FNR) / FPR), ln((1 - delta - FPR) / FNR), 0) of the upper Clopper-Pearson limits of both error
    rates at alpha / 2 each, which hold together: (epsilon, delta) bounds both ratios for any fixed rule.
    The rule must have been fixed on other runs; examples of one model are not independent runs.
    Raises `UsageError` for a confidence outside (0, 1) or a delta outside [0, 1).
    """
    check_share("confidence", confidence)
    _check_delta(delta)
    half = (1.0 - confidence) / 2
    false_negative, false_positive = (
        binomial_limits(np.array([errors]), runs, tail=half)[1]
        for errors, runs in (
            (confusion.false_negatives, confusion.members),
            (confusion.false_positives, confusion.nonmembers),
        )
    )
    return max(0.0, float(_log_ratio(false_negative, false_positive, delta=delta)[0]))


def choose_rule(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, confidence: float = 0.95, delta: float = 0.0
) -> Rule:
    """The rule with the largest `two_world_epsilon` on scores [m] and [n], which it must then not be counted on.

    Every distinct score is tried in both directions; the threshold stands midway to the next score.
    Raises `UsageError` as `two_world_epsilon` does, and unless both sides are 1-D, non-empty and finite.
    """
    check_share("confidence", confidence)
    _check_delta(delta)
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    half = (1.0 - confidence) / 2
    of_members, of_nonmembers = (
        binomial_limits(np.arange(side.size + 1), side.size, tail=half)[1] for side in (members, nonmembers)
    )
    best, rule = -math.inf, Rule(0.0)  # stays only where delta is too large for any rule
    for above in (True, False):
        sign = 1.0 if above else -1.0
        curve = roc(sign * members, sign * nonmembers)
        scores = curve.thresholds[1:]  # the first calls nothing a member
        thresholds = np.append(scores[:-1] / 2 + scores[1:] / 2, scores[-1])
        misses = np.rint((1.0 - curve.tpr[1:]) * members.size).astype(np.int64)
        alarms = np.rint(curve.fpr[1:] * nonmembers.size).astype(np.int64)
        values = _log_ratio(of_members[misses], of_nonmembers[alarms], delta=delta)
        top = int(np.argmax(values))
        if values[top] > best:
            best, rule = float(values[top]), Rule(float(sign * thresholds[top]), above)
    untied = frozenset(_untied(members) + _untied(nonmembers))
    return dataclasses.replace(rule, digest=_digest(members, nonmembers), untied=untied)


def rule_epsilon(
    rule: Rule,
    members: NDArray[np.float64],
    nonmembers: NDArray[np.float64],
    *,
    confidence: float = 0.95,
    delta: float = 0.0,
) -> EpsilonBound:
    """`two_world_epsilon` of a rule fixed beforehand on the scores [m] and [n] of other runs.

    Refuses the scores the rule was chosen on, in any order: the same scores as a whole, or more than a third of a side
    among them, counting scores that are tied with no other. A score that takes few values can repeat itself as a whole
    by chance; `split_epsilon`, which makes its own halves, is never refused.
    Raises `UsageError` for that, as `two_world_epsilon` does, and unless both sides are 1-D, non-empty and finite.
    """
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    for name, scores in (("members", members), ("nonmembers", nonmembers)):
        again = sum(score in rule.untied for score in _untied(scores))
        if 3 * again > scores.size or _digest(members, nonmembers) == rule.digest:
            raise UsageError(
                f"{name}: {again or 'all'} of {scores.size} scores are those the rule was chosen on; "
                "pass the scores of other runs, or let split_epsilon split them"
            )
    return _bound(rule, members, nonmembers, confidence=confidence, delta=delta)


def split_epsilon(
    members: NDArray[np.float64],
    nonmembers: NDArray[np.float64],
    *,
    confidence: float = 0.95,
    delta: float = 0.0,
    seed: int,
) -> EpsilonBound:
    """Choose a rule on a random half of the scores [m] and [n] and count it on the other half (audits.md 4.1, A6).

    The scores are sorted before they are split, so their order does not matter. An odd score goes to the counting half.
    Raises `UsageError` as `choose_rule` does, and for fewer than two scores on a side.
    """
    rng = np.random.default_rng(seed)
    choosing, counting = [], []
    for name, scores in (("members", members), ("nonmembers", nonmembers)):
        mixed = rng.permutation(np.sort(check_scores(name, scores)))
        if mixed.size < 2:
            raise UsageError(f"{name} must hold at least two scores to be split, got {mixed.size}; add runs")
        choosing.append(mixed[: mixed.size // 2])
        counting.append(mixed[mixed.size // 2 :])
    rule = choose_rule(*choosing, confidence=confidence, delta=delta)
    return _bound(rule, *counting, confidence=confidence, delta=delta)


def posterior_mass(confusion: Confusion, *, epsilon: float, delta: float = 0.0) -> float:
    """Posterior probability that the two error rates are possible under (epsilon, delta) (Zanella-Beguelin 2023).

    Independent Jeffreys posteriors Beta(1/2 + wrong, 1/2 + right) of the false-positive rate x and the false-negative
    rate y, integrated over the region of (epsilon, delta): x + e**epsilon y >= 1 - delta, y + e**epsilon x >= 1 - delta
    and the same for (1 - x, 1 - y).
    Raises `UsageError` for a negative epsilon or a delta outside [0, 1).
    """
    _check_delta(delta)
    _check_epsilon(epsilon)
    ratio = math.exp(-min(epsilon, 700.0))  # its inverse must stay finite
    wrong, right = confusion.false_negatives + 0.5, confusion.true_positives + 0.5
    # Gauss-Legendre in equal panels of the probability of x: the integrand is bounded, so no corner of the region and
    # no posterior much narrower than the other can cost more than a part of one panel.
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    shares = (np.arange(_PANELS)[:, None] + (nodes + 1.0) / 2) / _PANELS
    x = special.betaincinv(confusion.false_positives + 0.5, confusion.true_negatives + 0.5, shares)
    low = np.maximum(np.maximum(ratio * (1.0 - delta - x), 1.0 - delta - x / ratio), 0.0)
    high = np.minimum(np.minimum(1.0 - ratio * (x - delta), delta + (1.0 - x) / ratio), 1.0)
    inside = special.betainc(wrong, right, high) - special.betainc(wrong, right, low)
    return min(1.0, max(0.0, float(np.sum(inside @ weights)) / (2 * _PANELS)))


def joint_epsilon(confusion: Confusion, *, confidence: float = 0.95, delta: float = 0.0) -> Interval:
    """Credible interval of epsilon (nats) from the joint posterior of both error rates (audits.md 4.2).

    low, value and high are the epsilons at which `posterior_mass` reaches alpha / 2, 1/2 and 1 - alpha / 2 (0 where it
    does at 0 already). Tighter than `two_world_epsilon`, but credible, no more: where both sides of formula 4.1 meet
    the truth, as in randomized response, `low` at alpha / 2 = a exceeds it in up to a (1 + ln(1/a)) of all audits, 20 %
    for a = 5 %. No verdict may rest on it.
    Raises `UsageError` as `posterior_mass` does, and for a confidence outside (0, 1).
    """
    check_share("confidence", confidence)
    half = (1.0 - confidence) / 2

    def quantile(share: float) -> float:
        return _crossing(lambda epsilon: posterior_mass(confusion, epsilon=epsilon, delta=delta) >= share)

    return Interval(quantile(half), quantile(0.5), quantile(1.0 - half), confidence)


# -- Gaussian differential privacy ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class GaussianBound:
    """Lower limits of mu, and of epsilon (nats) at `delta`; `assumption` must be shown with them."""

    mu: float
    epsilon: float
    delta: float
    confidence: float
    assumption: str = GAUSSIAN


def gaussian_bound(confusion: Confusion, *, confidence: float = 0.95, delta: float) -> GaussianBound:
    """mu >= Phi^-1(1 - FPR) - Phi^-1(FNR) from Clopper-Pearson limits at alpha / 2 each (Nasr 2023; audits.md 4.3).

    Only for mechanisms known to be Gaussian: without an error in 1000 + 1000 runs it shows an epsilon of about 36,
    where `two_world_epsilon` shows 5.6.
    Raises `UsageError` for a confidence or a delta outside (0, 1).
    """
    check_share("confidence", confidence)
    false_positive = clopper_pearson(confusion.false_positives, confusion.nonmembers, confidence=confidence).high
    false_negative = clopper_pearson(confusion.false_negatives, confusion.members, confidence=confidence).high
    mu = 0.0
    if false_positive is not None and false_negative is not None and max(false_positive, false_negative) < 1.0:
        mu = max(0.0, float(stats.norm.isf(false_positive) - stats.norm.ppf(false_negative)))
    return GaussianBound(mu, gaussian_epsilon(mu, delta=delta), delta, confidence)


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """Epsilon (nats) of mu-GDP at delta: delta = Phi(mu/2 - eps/mu) - e**eps Phi(-mu/2 - eps/mu) (Dong 2022, cor. 1).

    Raises `UsageError` for a mu that is negative or not finite, or a delta outside (0, 1).
    """
    if not 0.0 <= mu < math.inf:
        raise UsageError(f"mu must be at least 0 and finite, got {mu}; 0 leaks nothing")
    _check_positive_delta(delta)
    return _crossing(lambda epsilon: _gaussian_log_delta(mu, epsilon) <= math.log(delta)) if mu else 0.0


def gaussian_mu(epsilon: float, *, delta: float) -> float:
    """The largest mu whose `gaussian_epsilon` at delta does not exceed epsilon (nats).

    Raises `UsageError` for an epsilon that is negative or not finite, or a delta outside (0, 1).
    """
    _check_epsilon(epsilon)
    _check_positive_delta(delta)
    return _crossing(lambda mu: mu > 0.0 and _gaussian_log_delta(mu, epsilon) > math.log(delta))


# -- one training run ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Coins of which a fixed number fall heads, every such set being equally likely, as `canaries.draw` tosses them.

    called: how many canaries are guessed heads; all others are guessed tails, and none is left out. Raises `UsageError`
    for a negative count.
    """

    heads: int
    called: int

    def __post_init__(self) -> None:
        if min(self.heads, self.called) < 0:
            raise UsageError(f"split: counts must not be negative, got {self.heads} heads and {self.called} called")


def one_run_p(
    correct: int, guesses: int, *, canaries: int, epsilon: float, delta: float = 0.0, split: Split | None = None
) -> float:
    """P-value of "(epsilon, delta)-DP for every single canary" from `correct` of `guesses` coins (Steinke 2023).

    min(1, P[B >= v] + 2 m delta max_{1 <= i <= v} P[v > B >= v - i] / i) with B ~ Bin(r, 1 / (1 + e**-epsilon)),
    r guesses, v of them right, m canaries each thrown in by a fair coin of its own (audits.md 4.4). Which canaries are
    guessed and how many must be fixed without the coins; for the best of several (r, v) it does not hold.

    split: the coins were not thrown one by one, but a set of h heads was drawn among m canaries, all of them guessed, g
    of them heads. Then the count K of heads among the g follows at most Fisher's noncentral hypergeometric law f with
    odds e**(2 epsilon), f(k) ~ C(g, k) C(m - g, h - k) e**(2 epsilon k): independent coins given their sum have just
    this law, and no mechanism has a larger tail. Proof by swaps. Let Q(k) = P[K = k], a(k) = k (m - g - h + k) and
    b(k) = (g - k)(h - k). A set S of heads with K = k + 1 has a(k + 1) neighbors with K = k, one of its called heads
    traded for an uncalled tail; one with K = k is such a neighbor b(k) times. Taking one canary out and putting another
    in changes every probability by at most a factor e**(2 epsilon) and (1 + e**epsilon) delta. At delta = 0 therefore
    a(k + 1) Q(k + 1) <= e**(2 epsilon) b(k) Q(k), with equality for f: the likelihood ratio Q / f falls, and
    P[K >= k] <= F = f[K >= k]. For delta > 0 sum the same over k with weights c(k) >= 0, where c solves
    c(k - 1) a(k) - e**(2 epsilon) b(k) c(k) = 1[k >= v] - F (Stein's equation): all h (m - h) swaps of a set together
    add at most their delta times the largest weight, so that

        P[K >= v] <= F + h (m - h)(1 + e**epsilon) delta max c,
        c(k - 1) = (f[K >= max(k, v)] - F f[K >= k]) / (a(k) f(k)).

    Nothing else is assumed, except that for delta > 0 g does not follow from the scores: it is the registered number,
    and scores that are tied across that place are the exception. Guesses that such ties leave out count as wrong.

    Raises `UsageError` unless 0 <= correct <= guesses <= canaries, guesses >= 1, epsilon >= 0 and delta lies in [0, 1),
    and for a split whose guesses are not all canaries, or cannot be right so often.
    """
    _check_guesses(correct, guesses, canaries)
    _check_epsilon(epsilon)
    _check_delta(delta)
    if split is not None:
        return _split_p(correct, guesses, canaries, split, epsilon=epsilon, delta=delta)
    right = float(special.expit(epsilon))
    p = float(stats.binom.sf(correct - 1, guesses, right))
    if delta > 0.0 and correct:
        just_below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
        p += 2 * canaries * delta * float(np.max(just_below / np.arange(1, correct + 1)))
    return min(1.0, p)


def _split_p(correct: int, guesses: int, canaries: int, split: Split, *, epsilon: float, delta: float) -> float:
    """`one_run_p` of a split of fixed size, in logarithms."""
    m, h, g = canaries, split.heads, split.called
    least, most = max(0, g + h - m), min(g, h)
    hits = max(least, -((m - g - h - correct) // 2))  # right are the called heads and the uncalled tails
    if guesses != m or max(g, h) > m or hits > most:
        raise UsageError(
            f"split: of {m} canaries {h} are heads and {g} are called so; then all must be guessed, and at most "
            f"{2 * min(g, h) + m - g - h} guesses can be right, got {correct} of {guesses}"
        )
    k = np.arange(least, most + 1)
    law = -special.gammaln(k + 1) - special.gammaln(g - k + 1) - special.gammaln(h - k + 1)
    law += -special.gammaln(m - g - h + k + 1) + 2 * epsilon * k
    law -= special.logsumexp(law)
    above = np.minimum(np.logaddexp.accumulate(law[::-1])[::-1], 0.0)  # ln f[K >= k]
    tail, v = float(above[hits - least]), hits - least
    p = math.exp(tail)
    if delta > 0.0 and k.size > 1:
        below = np.logaddexp.accumulate(law)[:-1]  # ln f[K < k], from the second k on
        rest = float(np.logaddexp.reduce(law[:v])) if v else -math.inf
        weights = np.where(np.arange(1, k.size) >= v, above[1:] + rest, below + tail)
        weights -= np.log(k[1:]) + np.log(m - g - h + k[1:]) + law[1:]
        more = float(np.max(weights)) + math.log(h * (m - h) * delta) + float(np.logaddexp(0.0, epsilon))
        p += math.exp(min(more, 0.0))
    return min(1.0, p)


def one_run_epsilon(
    correct: int,
    guesses: int,
    *,
    canaries: int,
    confidence: float = 0.95,
    delta: float = 0.0,
    split: Split | None = None,
) -> float:
    """Lower confidence limit of the per-record epsilon (nats) from one run: the largest with `one_run_p` < alpha.

    split: None for coins thrown one by one; otherwise a set of fixed size was drawn, as `canaries.draw` does.

    Found by bisection: p rises with epsilon as long as B is expected below `correct`, and beyond that it is far above
    any usual alpha. This is the epsilon of one record, not of the whole request (that is `coin.epsilon_set`).
    Raises `UsageError` as `one_run_p` does, and for a confidence outside (0, 1).
    """
    check_share("confidence", confidence)
    _check_guesses(correct, guesses, canaries)
    _check_delta(delta)
    return _crossing(
        lambda epsilon: (
            one_run_p(correct, guesses, canaries=canaries, epsilon=epsilon, delta=delta, split=split)
            >= 1.0 - confidence
        )
    )


class Guesses(NamedTuple):
    """What `one_run_p` is asked about: how many guesses there are, and how many of them are right."""

    correct: int
    guesses: int


def one_run_guesses(scores: NDArray[np.float64], heads: NDArray[np.bool_], *, positive: int, negative: int) -> Guesses:
    """Guess the `positive` highest scores [m] heads and the `negative` lowest tails, against coins [m] (True: heads).

    Both counts must be fixed without the coins: the best of several pairs shows a leak where there is none, in a third
    of all audits (audits.md 4.4). Scores that are tied across the edge of a side are not guessed, for nothing but the
    order of the canaries could choose among them, and canaries may stand in the order of their coins; they still count
    as guesses, so that the number of guesses is the registered one, whatever the scores are.
    Raises `UsageError` for scores that are not 1-D, non-empty and finite, coins of another shape, negative counts, or
    counts that add up to none or to more than there are canaries.
    """
    scores = check_scores("scores", scores)
    heads = np.asarray(heads)
    if heads.shape != scores.shape or heads.dtype != np.bool_:
        raise UsageError(
            f"heads must be one bool per score, shape {scores.shape}, got shape {heads.shape} of {heads.dtype}; "
            "pass True where the canary was trained on"
        )
    if min(positive, negative) < 0 or not 1 <= positive + negative <= scores.size:
        raise UsageError(
            f"positive, negative: must be counts that add up to 1 to {scores.size}, the number of canaries, got "
            f"{positive} and {negative}; guess a canary once"
        )
    ranked = np.sort(scores)
    # The first score on the other side of each edge; a side that takes all scores has none.
    below = ranked[-positive - 1] if positive < scores.size else -math.inf
    above = ranked[negative] if negative < scores.size else math.inf
    called = scores > below if positive else np.zeros(scores.size, dtype=np.bool_)
    refused = scores < above if negative else np.zeros(scores.size, dtype=np.bool_)
    return Guesses(int(np.count_nonzero(called & heads) + np.count_nonzero(refused & ~heads)), positive + negative)


# -- would we have noticed? ----------------------------------------------------------------------------------------


def two_world_power(
    epsilon: float,
    *,
    members: int,
    nonmembers: int,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    delta: float = 0.0,
) -> float:
    """Chance that `two_world_epsilon` of m + n runs exceeds `tolerance` (nats) when the attack meets a true `epsilon`.

    The truth is randomized response told apart by the best rule: both error rates are 1 / (1 + e**epsilon). A weaker
    attack has less power. Exact, from both binomial laws.
    Raises `UsageError` for counts below 1, a negative epsilon or tolerance, a confidence outside (0, 1) or a delta
    outside [0, 1).
    """
    _check_count("members", members)
    _check_count("nonmembers", nonmembers)
    _check_epsilon(epsilon)
    _check_epsilon(tolerance, "tolerance")
    check_share("confidence", confidence)
    _check_delta(delta)
    half, error = (1.0 - confidence) / 2, float(special.expit(-epsilon))
    # False positives that have a chance at all, and the Clopper-Pearson limit of each.
    first, last = (int(stats.binom.ppf(share, nonmembers, error)) for share in (1e-13, 1.0 - 1e-13))
    alarms = np.arange(first, last + 1)
    most = binomial_limits(alarms, nonmembers, tail=half)[1]
    # The limit of epsilon exceeds the tolerance iff that of the false-negative rate stays below this ...
    room = np.maximum(1.0 - delta - math.exp(tolerance) * most, math.exp(-tolerance) * (1.0 - delta - most))
    # ... that is, iff so few false negatives would be rare at such a rate (the duality of test and interval).
    misses = stats.binom.ppf(half, members, np.clip(room, 0.0, 1.0)) - 1
    found = np.where(room > 0.0, stats.binom.cdf(misses, members, error), 0.0)
    return float(np.sum(stats.binom.pmf(alarms, nonmembers, error) * found))


def two_world_mde(
    *,
    members: int,
    nonmembers: int,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    delta: float = 0.0,
    power: float = 0.8,
) -> float | None:
    """Smallest epsilon (nats) that `two_world_power` finds beyond `tolerance` with `power`.

    `None` where even an attack without errors would not exceed the tolerance: more runs are needed, whatever leaks.
    Raises `UsageError` as `two_world_power` does, and for a power outside (0, 1).
    """

    def reaches(epsilon: float) -> bool:
        found = two_world_power(
            epsilon, members=members, nonmembers=nonmembers, tolerance=tolerance, confidence=confidence, delta=delta
        )
        return found >= power

    check_share("power", power)
    _check_count("members", members)
    _check_count("nonmembers", nonmembers)
    ceiling = two_world_epsilon(Confusion(members, 0, 0, nonmembers), confidence=confidence, delta=delta)
    return _crossing(reaches) if ceiling > tolerance else None


def two_world_runs(
    epsilon: float, *, tolerance: float = 0.0, confidence: float = 0.95, delta: float = 0.0, power: float = 0.8
) -> int:
    """Runs needed in each world so that `two_world_power` finds a true `epsilon` beyond `tolerance` with `power`.

    The power of a test of counts is a sawtooth: one run fewer does not suffice, but some smaller number may.
    Raises `UsageError` unless the tolerance lies below epsilon, and as `two_world_mde` does.
    """
    _check_conclusive(epsilon, tolerance, power)
    return _smallest(
        lambda runs: (
            two_world_power(
                epsilon, members=runs, nonmembers=runs, tolerance=tolerance, confidence=confidence, delta=delta
            )
            >= power
        )
    )


def one_run_power(
    epsilon: float,
    *,
    guesses: int,
    canaries: int,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    delta: float = 0.0,
) -> float:
    """Chance that `one_run_epsilon` exceeds `tolerance` (nats) when every canary leaks a true `epsilon` by itself.

    The truth is randomized response on every coin: each guess is right with probability 1 / (1 + e**-epsilon). Training
    makes canaries interfere, so this is the most any attack can hope for. For coins thrown one by one; a split of fixed
    size shows less.
    Raises `UsageError` unless 1 <= guesses <= canaries, for a negative epsilon or tolerance, a confidence outside
    (0, 1) or a delta outside [0, 1).
    """
    _check_guesses(guesses, guesses, canaries)
    _check_epsilon(epsilon)
    check_share("confidence", confidence)
    counts = range(guesses + 1)
    critical = bisect.bisect_left(
        counts,
        True,
        key=lambda v: one_run_p(v, guesses, canaries=canaries, epsilon=tolerance, delta=delta) < 1.0 - confidence,
    )
    return float(stats.binom.sf(critical - 1, guesses, special.expit(epsilon)))


def one_run_mde(
    *,
    guesses: int,
    canaries: int,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    delta: float = 0.0,
    power: float = 0.8,
) -> float | None:
    """Smallest epsilon (nats) that `one_run_power` finds beyond `tolerance` with `power`.

    `None` where not even all guesses right would exceed the tolerance: more canaries are needed, whatever leaks.
    Raises `UsageError` as `one_run_power` does, and for a power outside (0, 1).
    """

    def reaches(epsilon: float) -> bool:
        found = one_run_power(
            epsilon, guesses=guesses, canaries=canaries, tolerance=tolerance, confidence=confidence, delta=delta
        )
        return found >= power

    check_share("power", power)
    ceiling = one_run_epsilon(guesses, guesses, canaries=canaries, confidence=confidence, delta=delta)
    return _crossing(reaches) if ceiling > tolerance else None


def one_run_canaries(
    epsilon: float, *, tolerance: float = 0.0, confidence: float = 0.95, delta: float = 0.0, power: float = 0.8
) -> int:
    """Canaries needed, all of them guessed, so that `one_run_power` finds a true `epsilon` beyond `tolerance`.

    The power of a test of counts is a sawtooth: one canary fewer does not suffice, but some smaller number may.
    Raises `UsageError` unless the tolerance lies below epsilon, as `one_run_mde` does, and for a delta so large that
    no number of canaries suffices.
    """
    _check_conclusive(epsilon, tolerance, power)
    return _smallest(
        lambda count: (
            one_run_power(
                epsilon, guesses=count, canaries=count, tolerance=tolerance, confidence=confidence, delta=delta
            )
            >= power
        )
    )


def guess_accuracy_mde(guesses: int, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """Smallest share of right guesses that `coin.critical_guesses` of fair coins finds with `power` (audits.md 4.6).

    Solves P[Bin(guesses, share) >= critical] = power, which is a beta quantile.
    Raises `UsageError` for shares outside (0, 1), and where not even all guesses right would be significant.
    """
    check_share("confidence", confidence)
    check_share("power", power)
    critical = critical_guesses(guesses, significance=1.0 - confidence)
    return float(stats.beta.ppf(power, critical, guesses - critical + 1))


def _bound(
    rule: Rule, members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, confidence: float, delta: float
) -> EpsilonBound:
    called_members, called_nonmembers = (
        int(np.count_nonzero(scores >= rule.threshold if rule.above else scores <= rule.threshold))
        for scores in (members, nonmembers)
    )
    confusion = Confusion(
        true_positives=called_members,
        false_negatives=members.size - called_members,
        false_positives=called_nonmembers,
        true_negatives=nonmembers.size - called_nonmembers,
    )
    perfect = Confusion(members.size, 0, 0, nonmembers.size)
    return EpsilonBound(
        epsilon=two_world_epsilon(confusion, confidence=confidence, delta=delta),
        ceiling=two_world_epsilon(perfect, confidence=confidence, delta=delta),
        delta=delta,
        confidence=confidence,
        rule=rule,
        confusion=confusion,
    )


def _log_ratio(
    false_negative: NDArray[np.float64], false_positive: NDArray[np.float64], *, delta: float
) -> NDArray[np.float64]:
    """The larger side of formula 4.1 for many pairs of upper limits, -inf where neither says anything."""
    sides = (
        ((1.0 - delta - false_negative) / false_positive),
        ((1.0 - delta - false_positive) / false_negative),
    )
    best = np.maximum(*sides)
    return np.where(best > 0.0, np.log(np.maximum(best, 1e-300)), -np.inf)


def _digest(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> str:
    """SHA-256 of the scores of both sides, whatever their order; adding 0 makes -0.0 and 0.0 the same bytes."""
    found = hashlib.sha256()
    for side in (members, nonmembers):
        found.update(str(side.size).encode() + b":" + (np.sort(side) + 0.0).astype("<f8").tobytes())
    return found.hexdigest()


def _untied(scores: NDArray[np.float64]) -> list[float]:
    values, counts = np.unique(scores, return_counts=True)
    return [float(value) for value in values[counts == 1]]


def _gaussian_log_delta(mu: float, epsilon: float) -> float:
    """ln delta(epsilon) of mu-GDP, -inf where rounding leaves nothing of it."""
    first, second = (float(special.log_ndtr(sign * mu / 2 - epsilon / mu)) for sign in (1.0, -1.0))
    ratio = epsilon + second - first
    return first + math.log(-math.expm1(ratio)) if ratio < 0.0 else -math.inf


def _crossing(holds: Callable[[float], bool]) -> float:
    """The largest x >= 0, to 1e-9 of itself, at which a condition that once true stays true does not hold yet."""
    if holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not holds(high):
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low


def _smallest(suffices: Callable[[int], bool]) -> int:
    """A count that suffices while one less does not."""
    high = 1
    while not suffices(high):
        high *= 2
        if high > _MOST_RUNS:
            raise UsageError(
                f"delta, tolerance: more than {_MOST_RUNS} would be needed; lower either or look for a larger epsilon"
            )
    low = high // 2  # does not suffice, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _check_delta(delta: float) -> None:
    if not 0.0 <= delta < 1.0:
        raise UsageError(f"delta must lie in [0, 1), got {delta}; use 0 or 1e-5")


def _check_positive_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta must lie in (0, 1), got {delta}; a Gaussian mechanism has no epsilon at 0, use 1e-5")


def _check_epsilon(epsilon: float, name: str = "epsilon") -> None:
    if not 0.0 <= epsilon < math.inf:
        raise UsageError(f"{name} must be at least 0 nats and finite, got {epsilon}; 0 leaks nothing")


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise UsageError(f"{name} must be a count of at least 1, got {count}; pass the number of runs")


def _check_guesses(correct: int, guesses: int, canaries: int) -> None:
    if not 1 <= guesses <= canaries:
        raise UsageError(f"guesses must lie between 1 and canaries = {canaries}, got {guesses}; guess a canary once")
    if not 0 <= correct <= guesses:
        raise UsageError(f"correct must lie between 0 and guesses = {guesses}, got {correct}; pass counts, not shares")


def _check_conclusive(epsilon: float, tolerance: float, power: float) -> None:
    _check_epsilon(epsilon)
    _check_epsilon(tolerance, "tolerance")
    check_share("power", power)
    if tolerance >= epsilon:
        raise UsageError(f"tolerance must lie below epsilon = {epsilon}, got {tolerance}; nothing beyond it is there")
