"""The coin-flip canary test: does the model still know which half of the canaries it was trained on and told to forget?

Canaries are candidates of which a random subset of fixed size (heads) was trained on and later deleted, while the rest
(tails) was never used. If deletion was exact, the scores carry no information on the coins, so every re-draw of the
coins is equally likely: the permutation law is exact whatever the model and the score (audits.md 4.6, A2, A3).

Score direction: higher = more like a trained-on example.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from unlearnkit.audits.statistics.roc import auc, auc_interval, auc_mde, auc_standard_error, check_scores, check_share
from unlearnkit.result import Interval, UsageError

_BLOCK = 1 << 21  # numbers shuffled at once: 16 MiB


@dataclass(frozen=True)
class CoinResult:
    """What the coins say. Shares, probabilities and nats; never NaN or infinite.

    `auc`: heads against tails with DeLong limits. `p`: exact two-sided permutation p-value of "the scores know nothing
    of the coins". `p_tolerance`: p-value of "|AUC - 0.5| is at most the tolerance". `mde`: smallest |AUC - 0.5| found
    with the given power; above 0.5 nothing can be found. `guesses`, `correct`: every canary is guessed heads or tails,
    `called` of them heads.
    `p_guesses`: exact one-sided tail of `correct` (too many right guesses; heads scored lower is for `p` to see).
    `epsilon_set`: lower confidence limit in nats for the joint deletion of all heads, not for one record.
    """

    auc: Interval
    p: float
    p_tolerance: float
    mde: float
    heads: int
    tails: int
    guesses: int
    correct: int
    p_guesses: float
    epsilon_set: float
    called: int


def coin_test(
    scores: NDArray[np.float64],
    heads: NDArray[np.bool_],
    *,
    tolerance: float,
    strata: NDArray[Any] | None = None,
    permutations: int = 9999,
    confidence: float = 0.95,
    power: float = 0.8,
    delta: float = 0.0,
    seed: int,
) -> CoinResult:
    """Test scores [n] against sealed coins [n] (True = trained on, then deleted), two-sided (audits.md 4.6, A2).

    `p` = (1 + #{permutations at least as extreme}) / (permutations + 1) for the distance of the rank sum of the heads
    from its permutation mean, which is |AUC - 0.5| without strata and with the same share of heads in every stratum.
    Rank sums are compared as integers, so floating-point ties count as ties. `strata` [n] (any labels) keeps the
    shuffles within groups; if the coins were drawn within strata on purpose with unequal shares of heads, `p`,
    `p_guesses` and `epsilon_set` stay exact but `auc` and `p_tolerance`, which read the pooled AUC, do not.

    `p_tolerance` (AUC units, 0 <= tolerance < 0.5) is the two-sided minimum-effect test
    Phi(-(|d| - tolerance) / se) + Phi(-(|d| + tolerance) / se), d = AUC - 0.5, with the DeLong se. It never falls below
    (0.5 + tolerance)**k + (0.5 - tolerance)**k, k = min(heads, tails): the chance that k independent pairs are all
    ordered the same way, which is what perfect separation shows, where se does not exist. Without a se and without
    separation (constant scores, one coin on a side) it is 1.

    Guesses, registered here: in every stratum the g highest scores are guessed heads, all others tails, with g the
    size nearest to the number of heads there that cuts no tie (tied scores are guessed alike, all equal: all heads).
    g depends on scores only, and given the scores the coins are a uniform draw of fixed size, so the number of heads
    among the g is hypergeometric, independent between strata: `p_guesses` is its exact upper tail (summed over strata
    by convolution). For (epsilon, delta)-unlearning of the whole request P[p_guesses <= t] <= e**epsilon t + delta,
    hence `epsilon_set` = max(0, ln(alpha - delta) - ln p_guesses), alpha = 1 - confidence, at that confidence.

    Raises `UsageError` for scores, heads or strata of wrong shape, non-finite scores, coins all on one side, a
    tolerance outside [0, 0.5), fewer than one permutation, a confidence outside (0, 1) or a delta not below alpha.
    """
    [found] = coin_tests(
        [scores],
        heads,
        tolerance=tolerance,
        strata=strata,
        permutations=permutations,
        confidence=confidence,
        power=power,
        delta=delta,
        seed=seed,
    )
    return found


def coin_tests(
    several: Sequence[NDArray[np.float64]],
    heads: NDArray[np.bool_],
    *,
    tolerance: float,
    strata: NDArray[Any] | None = None,
    permutations: int = 9999,
    confidence: float = 0.95,
    power: float = 0.8,
    delta: float = 0.0,
    seed: int,
) -> tuple[CoinResult, ...]:
    """`coin_test` of several scores of the same coins, in less time: the coins are shuffled once for all of them.

    Each result is the one that `coin_test` gives with this seed, and each p keeps its exact law by itself. Raises
    `UsageError` as that does, and for no scores at all.
    """
    if not len(several):
        raise UsageError("scores must be those of at least one score, got none; pass [score], each with every canary")
    several = [check_scores("scores", scores) for scores in several]
    scores = several[0]
    for one in several:
        _check_labels("heads", heads, one.size)
    heads = np.asarray(heads).astype(np.bool_)
    groups = np.zeros(scores.size, dtype=np.int64)
    if strata is not None:
        groups = np.unique(_check_labels("strata", strata, scores.size), return_inverse=True)[1].astype(np.int64)
    head_count = int(np.count_nonzero(heads))
    tail_count = scores.size - head_count
    if min(head_count, tail_count) == 0:
        raise UsageError(
            f"heads must hold True and False, got {head_count} True and {tail_count} False; "
            "pass the whole pool, trained and held out"
        )
    if not 0.0 <= tolerance < 0.5:
        raise UsageError(f"tolerance must lie in [0, 0.5) in units of AUC, got {tolerance}; 0.05 allows an AUC of 0.55")
    if permutations < 1:
        raise UsageError(f"permutations must be at least 1, got {permutations}; 9999 resolves p = 0.0001")
    check_share("confidence", confidence)
    significance = 1.0 - confidence
    _check_delta(delta, significance)
    p = _permutation_p(several, heads, groups, permutations=permutations, rng=np.random.default_rng(seed))

    def result(scores: NDArray[np.float64], p: float) -> CoinResult:
        members, nonmembers = scores[heads], scores[~heads]
        correct, called, log_tail = _guess(scores, heads, groups)
        return CoinResult(
            auc=auc_interval(members, nonmembers, confidence=confidence),
            p=p,
            p_tolerance=_tolerance_p(members, nonmembers, tolerance=tolerance),
            mde=auc_mde(head_count, tail_count, significance=significance, power=power),
            heads=head_count,
            tails=tail_count,
            guesses=scores.size,
            correct=correct,
            p_guesses=max(math.exp(log_tail), sys.float_info.min),  # a p-value is never 0
            epsilon_set=_epsilon(log_tail, significance=significance, delta=delta),
            called=called,
        )

    return tuple(result(*pair) for pair in zip(several, p, strict=True))


def epsilon_set(correct: int, guesses: int, *, significance: float = 0.05, delta: float = 0.0) -> float:
    """Lower confidence limit (nats, at 1 - significance) of the set-level epsilon from guesses of independent coins.

    max(0, ln(significance - delta) - ln P[Bin(guesses, 1/2) >= correct]) (audits.md 4.6, A3). This is for coins thrown
    one by one; `coin_test` uses the law of its fixed-size split. It is the epsilon of the joint deletion of all heads.
    Raises `UsageError` unless 0 <= correct <= guesses, guesses >= 1 and 0 <= delta < significance < 1.
    """
    _check_guesses(guesses)
    if not 0 <= correct <= guesses:
        raise UsageError(f"correct must lie between 0 and guesses = {guesses}, got {correct}; pass counts, not shares")
    check_share("significance", significance)
    _check_delta(delta, significance)
    right = np.arange(correct, guesses + 1)
    return _epsilon(
        _log_sum(_log_choose(guesses, right) - guesses * math.log(2.0)), significance=significance, delta=delta
    )


def critical_guesses(guesses: int, *, significance: float = 0.05) -> int:
    """Smallest number of right guesses of `guesses` independent fair coins with tail <= significance (audits.md 4.6).

    Raises `UsageError` for a significance outside (0, 1), or if even all guesses right would not be significant.
    """
    _check_guesses(guesses)
    check_share("significance", significance)
    if math.ldexp(1.0, -guesses) > significance:
        raise UsageError(
            f"guesses must be at least {math.ceil(-math.log2(significance))} at significance {significance}, "
            f"got {guesses}; plant more canaries"
        )
    tails = stats.binom.sf(np.arange(guesses), guesses, 0.5)  # entry v - 1 is P[Bin >= v]
    return 1 + int(np.argmax(tails <= significance))


def canaries_needed(effect: float, *, significance: float = 0.05, power: float = 0.8) -> int:
    """Canaries per arm (as many heads as tails) needed so that `auc_mde` <= effect, an |AUC - 0.5|.

    Solves (z_{1 - significance/2} + z_power) sqrt((2 m + 1) / (12 m**2)) <= effect for the smallest integer m.
    Raises `UsageError` for an effect outside (0, 0.5] or shares outside (0, 1).
    """
    if not 0.0 < effect <= 0.5:
        raise UsageError(f"effect must lie in (0, 0.5] in units of AUC, got {effect}; 0.05 means an AUC of 0.55")
    check_share("significance", significance)
    check_share("power", power)
    z = float(stats.norm.isf(significance / 2) + stats.norm.ppf(power))
    if z <= 0.0:  # a power below the significance: any size will do
        return 1
    square = (effect / z) ** 2
    count = max(1, math.ceil((1.0 + math.sqrt(1.0 + 12.0 * square)) / (12.0 * square)) - 1)
    while auc_mde(count, count, significance=significance, power=power) > effect:  # at most twice: rounding
        count += 1
    return count


def _check_labels(name: str, labels: NDArray[Any], size: int) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.shape != (size,):
        raise UsageError(f"{name} must have one entry per score, shape ({size},), got {array.shape}; align the arrays")
    return array


def _check_guesses(guesses: int) -> None:
    if guesses < 1:
        raise UsageError(f"guesses must be at least 1, got {guesses}; plant canaries before training")


def _check_delta(delta: float, significance: float) -> None:
    if not 0.0 <= delta < significance:
        raise UsageError(
            f"delta must be at least 0 and below the significance {significance:.3g}, got {delta}; use 0 or 1e-5"
        )


def _permutation_p(
    several: Sequence[NDArray[np.float64]],
    heads: NDArray[np.bool_],
    groups: NDArray[np.int64],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> list[float]:
    """p of each score; all of them see the same shuffles."""
    # Midranks are half-integers: twice is exact. [score, canary]
    doubled = np.stack([np.rint(2.0 * stats.rankdata(scores)).astype(np.int64) for scores in several])
    parts = [(doubled[:, groups == g], int(np.count_nonzero(heads[groups == g]))) for g in range(int(groups.max()) + 1)]
    observed = [int(value) for value in doubled[:, heads].sum(axis=1)]
    centers = [
        sum((Fraction(int(ranks[i].sum()) * count, ranks.shape[1]) for ranks, count in parts), Fraction(0))
        for i in range(len(several))
    ]
    # |x - center| >= |observed - center| in integers: x outside (low, high), mirrored about the exact rational center.
    ends = [(2 * center - value, Fraction(value)) for center, value in zip(centers, observed, strict=True)]
    high = np.array([[math.ceil(max(pair))] for pair in ends])
    low = np.array([[math.floor(min(pair))] for pair in ends])
    extreme, done = np.zeros(len(several), dtype=np.int64), 0
    rows = max(1, _BLOCK // groups.size)
    while done < permutations:
        block = min(rows, permutations - done)
        sums = np.zeros((len(several), block), dtype=np.int64)
        for ranks, count in parts:
            if 0 < count < ranks.shape[1]:
                order = rng.permuted(np.tile(np.arange(ranks.shape[1]), (block, 1)), axis=1)[:, :count]
                for total, own in zip(sums, ranks, strict=True):
                    total += own[order].sum(axis=1)
            elif count:
                sums += ranks.sum(axis=1)[:, None]
        extreme += np.count_nonzero((sums >= high) | (sums <= low), axis=1)
        done += block
    return [(1 + int(count)) / (permutations + 1) for count in extreme]


def _tolerance_p(members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, tolerance: float) -> float:
    value, pairs = auc(members, nonmembers), min(members.size, nonmembers.size)
    bound = (0.5 + tolerance) ** pairs + (0.5 - tolerance) ** pairs
    if value in (0.0, 1.0):
        p = bound
    else:
        error = auc_standard_error(members, nonmembers)
        if error is None:
            return 1.0
        distance = abs(value - 0.5)
        tail = stats.norm.sf((distance - tolerance) / error) + stats.norm.sf((distance + tolerance) / error)
        p = max(float(tail), bound)
    return min(1.0, max(p, sys.float_info.min))


def _guess(scores: NDArray[np.float64], heads: NDArray[np.bool_], groups: NDArray[np.int64]) -> tuple[int, int, float]:
    """Right guesses of all canaries, how many are guessed heads, and the logarithm of the exact upper tail."""
    correct, called, hit, lowest = 0, 0, 0, 0
    law = np.zeros(1)  # log-probabilities of the number of guessed heads that are heads, from `lowest` upwards
    for g in range(int(groups.max()) + 1):
        own, coins = scores[groups == g], heads[groups == g]
        head_count, size = int(np.count_nonzero(coins)), own.size
        cuts = np.unique(own)[::-1]
        sizes = size - np.searchsorted(np.sort(own), cuts, side="left")  # canaries at or above each distinct score
        usable = slice(None, -1) if cuts.size > 1 else slice(None)  # guessing all heads says nothing
        best = int(np.argmin(np.abs(sizes[usable] - head_count)))
        guessed, right = int(sizes[best]), int(np.count_nonzero(coins & (own >= cuts[best])))
        tail_count = size - head_count
        hits = np.arange(max(0, guessed - tail_count), min(guessed, head_count) + 1)
        part = (
            _log_choose(head_count, hits)
            + _log_choose(tail_count, guessed - hits)
            - _log_choose(size, np.array([guessed]))
        )
        law = _log_convolve(law, part)
        lowest += int(hits[0])
        hit += right
        called += guessed
        correct += right + tail_count - (guessed - right)
    return correct, called, min(0.0, _log_sum(law[hit - lowest :]))


def _log_choose(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1), dtype=np.float64)


def _log_sum(logs: NDArray[np.float64]) -> float:
    return float(special.logsumexp(logs))


def _log_convolve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Law of a sum of two independent counts, in logarithms: a linear convolution underflows beyond e**-745."""
    if a.size < b.size:
        a, b = b, a
    total = np.full(a.size + b.size - 1, -np.inf)
    for offset, weight in enumerate(b):
        window = total[offset : offset + a.size]
        np.logaddexp(window, a + weight, out=window)
    return total


def _epsilon(log_tail: float, *, significance: float, delta: float) -> float:
    return max(0.0, math.log(significance - delta) - log_tail)
