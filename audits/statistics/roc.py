"""ROC staircase, AUC and operating points of a membership score, each with limits that hold for the sample at hand.

Score direction everywhere: higher = more like a trained-on example. "Member" is the side that was trained on.

Deviations from DeLong (1988): limits are set on the logit scale, and an interval is never narrower towards 0 or 1 than
what perfect separation of the same number of scores would allow (see `auc_interval`), because the DeLong variance tends
to 0 there.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from unlearnkit.result import Interval, UsageError

_BLOCK = 1 << 16  # draws held at once: the working arrays stay in a core's cache


@dataclass(frozen=True, eq=False)
class Roc:
    """The exact ROC staircase: one point per distinct score, from (0, 0) at threshold +inf down to (1, 1).

    `fpr`, `tpr`, `thresholds`: float64 [points]; a score >= threshold is called a member. Tied scores are one step in
    which both coordinates may move. No point is dropped and no hull is taken.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoint:
    """True-positive rate at the largest empirical false-positive rate that does not exceed the target.

    `threshold` is the smallest observed score called a member, `None` where nothing is called a member.
    """

    target_fpr: float
    fpr: float
    threshold: float | None
    tpr: Interval


def check_share(name: str, value: float) -> None:
    """Raise `UsageError` unless `value` lies strictly between 0 and 1 (a confidence, significance or power)."""
    if not 0.0 < value < 1.0:
        raise UsageError(f"{name} must lie strictly between 0 and 1, got {value}; write 5 percent as 0.05")


def check_scores(name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `scores` as float64 [n] or raise `UsageError` unless they are 1-D, non-empty and finite."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise UsageError(f"{name} must be a 1-D array with one score per example, got shape {array.shape}; flatten it")
    if array.size == 0:
        raise UsageError(f"{name} must hold at least one score, got none; pass the scores of both sides")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise UsageError(
            f"{name} must be finite, got {bad} NaN or infinite of {array.size}; compute scores in float64 and clip them"
        )
    return array


def roc(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> Roc:
    """Exact ROC staircase of scores [m] and [n] over every distinct threshold (Fawcett 2006, algorithm 1).

    Raises `UsageError` unless both sides are 1-D, non-empty and finite.
    """
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    values = np.unique(np.concatenate([members, nonmembers]))[::-1]
    # Called a member: score >= value, so count what is not strictly below.
    true = members.size - np.searchsorted(np.sort(members), values, side="left")
    false = nonmembers.size - np.searchsorted(np.sort(nonmembers), values, side="left")
    return Roc(
        fpr=np.concatenate([[0.0], false / nonmembers.size]),
        tpr=np.concatenate([[0.0], true / members.size]),
        thresholds=np.concatenate([[np.inf], values]),
    )


def auc(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> float:
    """P(member > non-member) + P(tie) / 2 of scores [m] and [n], counted by sorting (Mann & Whitney 1947).

    Raises `UsageError` unless both sides are 1-D, non-empty and finite.
    """
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    pairs = members.size * nonmembers.size
    few, many = (members, nonmembers) if members.size < nonmembers.size else (nonmembers, members)
    # Sorting is cheaper than searching: the smaller side is looked up, in order, so that a search begins near the last.
    few_ordered, ordered = np.sort(few), np.sort(many)
    twice = sum(int(np.searchsorted(ordered, few_ordered, side=side).sum()) for side in ("left", "right"))
    return (twice if few is members else 2 * pairs - twice) / 2 / pairs  # half-integers: exact


def auc_standard_error(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> float | None:
    """DeLong standard error of the AUC of scores [m] and [n], midrank form (DeLong 1988; Sun & Xu 2014, eq. 8-10).

    `None` where the estimate says nothing: fewer than two scores on a side, perfect separation (AUC 0 or 1), or all
    scores equal. These last two are exactly the cases in which the DeLong variance is 0.
    Raises `UsageError` unless both sides are 1-D, non-empty and finite.
    """
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    m, n = members.size, nonmembers.size
    if min(m, n) < 2 or _constant(members, nonmembers) or auc(members, nonmembers) in (0.0, 1.0):
        return None
    below_member, above_nonmember = _placements(members, nonmembers)
    return math.sqrt(float(np.var(below_member, ddof=1)) / m + float(np.var(above_nonmember, ddof=1)) / n)


def auc_interval(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, confidence: float = 0.95
) -> Interval:
    """Two-sided interval for the AUC of scores [m] and [n]: DeLong (Sun & Xu 2014) on the logit scale (Pepe 2003).

    logit(AUC) +- z se / (AUC (1 - AUC)) stays inside (0, 1) and errs equally on both sides. Plain AUC +- z se does not:
    at AUC 0.95 with 100 + 100 normal scores its lower limit lies above the truth in 6.8 % of all samples instead of
    2.5 %, that is, it claims a leak too often; on the logit scale it does in 2.7 %.

    Where DeLong has no width the limits come from k = min(m, n) independent pairs instead, with a = 1 - confidence:

    - perfect separation: all k pairs are ordered the same way, which has probability at most AUC**k, so the exact
      (Clopper-Pearson) limit of k successes in k trials, (a/2)**(1/k), is a conservative limit of the AUC;
    - all scores equal: all k pairs are tied, so P(tie) >= a**(1/k) and |AUC - 0.5| <= (1 - a**(1/k)) / 2; a score that
      never distinguishes anything is evidence for 0.5, but only as much as k pairs are;
    - fewer than two scores on a side without either: [0, 1], no variance can be estimated.

    No other interval comes closer to 0 or 1 than perfect separation would put it, so limits stay monotone.
    Raises `UsageError` for scores that are not 1-D, non-empty, finite, or a confidence outside (0, 1).
    """
    check_share("confidence", confidence)
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    value = auc(members, nonmembers)
    if _constant(members, nonmembers):
        tied = float((1.0 - confidence) ** (1.0 / min(members.size, nonmembers.size)))
        return Interval(tied / 2, value, 1.0 - tied / 2, confidence)
    separated = _separated(members, nonmembers, confidence)
    if value == 1.0:
        return Interval(separated, value, 1.0, confidence)
    if value == 0.0:
        return Interval(0.0, value, 1.0 - separated, confidence)
    error = auc_standard_error(members, nonmembers)
    if error is None:
        return Interval(0.0, value, 1.0, confidence)
    center = float(special.logit(value))
    reach = float(stats.norm.isf((1.0 - confidence) / 2)) * error / (value * (1.0 - value))
    low, high = float(special.expit(center - reach)), float(special.expit(center + reach))
    return Interval(min(low, separated), value, max(high, 1.0 - separated), confidence)


def partial_auc(members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, max_fpr: float) -> float:
    """Standardized area under the ROC of scores [m] and [n] left of `max_fpr` (a share): chance 0.5, perfect 1.

    (1 + (area - chance) / (max_fpr - chance)) / 2 with chance = max_fpr**2 / 2 (McClish 1989). Points of
    the staircase are joined by straight lines, so ties count half; `max_fpr=1` gives the AUC.
    Raises `UsageError` for a `max_fpr` outside (0, 1], and unless both sides are 1-D, non-empty and finite.
    """
    if not 0.0 < max_fpr <= 1.0:
        raise UsageError(f"max_fpr must lie in (0, 1], got {max_fpr}; write 1 percent as 0.01")
    curve = roc(members, nonmembers)
    inside = int(np.searchsorted(curve.fpr, max_fpr, side="right"))
    fpr, tpr = np.append(curve.fpr[:inside], max_fpr), curve.tpr[:inside]
    tpr = np.append(tpr, np.interp(max_fpr, curve.fpr[inside - 1 : inside + 1], curve.tpr[inside - 1 : inside + 1]))
    area, chance = float(np.trapezoid(tpr, fpr)), max_fpr**2 / 2
    return (1.0 + (area - chance) / (max_fpr - chance)) / 2


def auc_resamples(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, count: int, first: int = 0, seed: int
) -> NDArray[np.float64]:
    """AUC of bootstrap resamples `first` .. `first + count - 1` of scores [m] and [n], float64 [count].

    Each side is drawn with replacement by itself (stratified). Resample b owns its own piece of a counter-based stream
    (Philox, Salmon 2011), so it is the same resample wherever and in whatever pieces the work is done, and it does not
    depend on the order of the scores. O(m + n) each, ties exact; an example is drawn with probability within 2**-32 of
    1/m or 1/n.
    Raises `UsageError` for a count below 1, a negative `first`, and unless both sides are 1-D, non-empty and finite.
    """
    members, nonmembers = np.sort(check_scores("members", members)), np.sort(check_scores("nonmembers", nonmembers))
    if count < 1 or first < 0:
        raise UsageError(f"count must be at least 1 and first at least 0, got {count} and {first}; number them from 0")
    m, n = members.size, nonmembers.size
    below, up_to = (np.searchsorted(nonmembers, members, side=side) for side in ("left", "right"))
    tied = bool(np.any(below != up_to))
    twice = np.empty(count, dtype=np.int64)  # twice the wins plus the ties: an integer, no rounding
    rows = max(1, _BLOCK // (m + n))
    for start in range(0, count, rows):
        block = min(rows, count - start)
        picked_members, picked = _draws(m, n, first=first + start, count=block, seed=seed)
        picked += n * np.arange(block)[:, None]
        picked_members += m * np.arange(block)[:, None]
        drawn = np.bincount(picked.ravel(), minlength=block * n).reshape(block, n)
        counted = np.zeros((block, n + 1), dtype=np.int64)  # entry k: drawn among the k lowest non-members
        np.cumsum(drawn, axis=1, out=counted[:, 1:])
        wins = counted.take(below, axis=1)
        wins += counted.take(up_to, axis=1) if tied else wins
        twice[start : start + block] = wins.take(picked_members).sum(axis=1)
    return twice / (2 * m * n)


def auc_bootstrap(
    members: NDArray[np.float64],
    nonmembers: NDArray[np.float64],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Interval:
    """Two-sided BCa bootstrap interval for the AUC of scores [m] and [n], stratified (Efron 1987; `auc_resamples`).

    Acceleration is the jackknife's, in closed form: leaving one score out moves the AUC by its placement value. Where
    no resample could differ (perfect separation, all scores equal, one score on a side) the limits are those of
    `auc_interval`, and as there none comes closer to 0 or 1 than perfect separation would put it.
    It is the error of examples alone: scores of one model hold for that model, not for the next training.
    Raises `UsageError` for fewer than 100 resamples, a confidence outside (0, 1), and unless both sides are 1-D,
    non-empty and finite.
    """
    if resamples < 100:
        raise UsageError(f"resamples must be at least 100, got {resamples}; 2000 settle the second digit of a limit")
    exact = auc_interval(members, nonmembers, confidence=confidence)
    if auc_standard_error(members, nonmembers) is None:
        return exact
    drawn = auc_resamples(members, nonmembers, count=resamples, seed=seed)
    below_member, above_nonmember = _placements(members, nonmembers)
    lower = float(np.count_nonzero(drawn < exact.value) + np.count_nonzero(drawn <= exact.value)) / 2
    shares = _bca_shares(
        (lower + 0.5) / (resamples + 1),
        _acceleration(below_member - exact.value, above_nonmember - exact.value),
        confidence,
    )
    low, high = (float(limit) for limit in np.quantile(drawn, shares))
    separated = _separated(members, nonmembers, confidence)
    return Interval(min(low, separated), exact.value, max(high, 1.0 - separated), confidence)


def auc_mde(members: int, nonmembers: int, *, significance: float = 0.05, power: float = 0.8) -> float:
    """Smallest |AUC - 0.5| that a two-sided test of AUC = 0.5 finds with `power`, for counts m and n of scores.

    Normal approximation with the exact null standard error sqrt((m + n + 1) / (12 m n)) of the rank-sum statistic
    (Mann & Whitney 1947). A value above 0.5 means that no leak, however large, is found with that power.
    Raises `UsageError` for counts below 1 or shares outside (0, 1).
    """
    for name, count in (("members", members), ("nonmembers", nonmembers)):
        if count < 1:
            raise UsageError(f"{name} must be a count of at least 1, got {count}; pass the number of scores")
    check_share("significance", significance)
    check_share("power", power)
    error = math.sqrt((members + nonmembers + 1) / (12 * members * nonmembers))
    return float(stats.norm.isf(significance / 2) + stats.norm.ppf(power)) * error


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Exact two-sided binomial interval for a share (Clopper & Pearson 1934); each limit is one-sided at half the rest.

    For a one-sided limit at 95 % ask for `confidence=0.90` and read one end. Both limits always exist.
    Raises `UsageError` unless 0 <= successes <= trials, trials >= 1 and confidence lies in (0, 1).
    """
    if trials < 1:
        raise UsageError(f"trials must be at least 1, got {trials}; without a trial there is no share")
    if not 0 <= successes <= trials:
        raise UsageError(
            f"successes must lie between 0 and trials = {trials}, got {successes}; pass counts, not shares"
        )
    check_share("confidence", confidence)
    low, high = binomial_limits(np.array([successes]), trials, tail=(1.0 - confidence) / 2)
    return Interval(float(low[0]), successes / trials, float(high[0]), confidence)


def binomial_limits(
    successes: NDArray[np.int64], trials: int, *, tail: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`clopper_pearson` for many counts [k] at once, unchecked: lower and upper limits [k], `tail` beyond each."""
    low = stats.beta.ppf(tail, np.maximum(successes, 1), trials - np.maximum(successes, 1) + 1)
    high = stats.beta.isf(tail, np.minimum(successes, trials - 1) + 1, trials - np.minimum(successes, trials - 1))
    return np.where(successes == 0, 0.0, low), np.where(successes == trials, 1.0, high)


def tpr_at_fpr(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, fpr: float, confidence: float = 0.95
) -> OperatingPoint:
    """True-positive rate of scores [m], [n] at the largest empirical false-positive rate <= `fpr` (a share, not %).

    Never interpolated. The rule depends on the non-members alone (call everything above the first non-member that may
    not be called), so the Clopper-Pearson limits of the true-positive rate hold given the non-members; they do not
    cover the error of the false-positive rate itself.
    Raises `UsageError` for a target outside (0, 1], for a target below 1 / n, which no n scores can show, for a
    confidence outside (0, 1), and unless both sides are 1-D, non-empty and finite.
    """
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    check_share("confidence", confidence)
    if not 0.0 < fpr <= 1.0:
        raise UsageError(f"fpr must lie in (0, 1], got {fpr}; write 1 percent as 0.01")
    # `fpr < 1 / n` and not `fpr * n < 1`: 1 / 1000 and 0.001 are the same double, 29 == 0.29 * 100 is false.
    if fpr < 1.0 / nonmembers.size:
        raise UsageError(
            f"fpr must be at least 1 / nonmembers = {1.0 / nonmembers.size:.3g}, got {fpr}; "
            f"raise it or score at least {math.ceil(1.0 / fpr - 1e-9)} nonmembers"
        )
    curve = roc(members, nonmembers)
    last = int(np.flatnonzero(curve.fpr <= fpr)[-1])
    called = round(float(curve.tpr[last]) * members.size)
    return OperatingPoint(
        target_fpr=fpr,
        fpr=float(curve.fpr[last]),
        threshold=None if last == 0 else float(curve.thresholds[last]),
        tpr=clopper_pearson(called, members.size, confidence=confidence),
    )


def tpr_bootstrap(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, fpr: float, confidence: float = 0.95
) -> Interval:
    """Two-sided BCa bootstrap interval for the rate of `tpr_at_fpr`, the choice of the threshold included, stratified.

    The bootstrap law is computed, not drawn (no seed, no Monte-Carlo error): with k false positives allowed the
    threshold of a resample lies just above its (k + 1)-th largest non-member, whose place among the sorted scores has a
    beta law, and given the threshold the resampled members above it are binomial. Acceleration is the jackknife's, in
    closed form; its non-member part rests on one or two neighboring scores and is rough, as it is for every quantile.
    Never narrower than the Clopper-Pearson limits of `tpr_at_fpr`, which hold for a threshold that is given.
    Raises `UsageError` as `tpr_at_fpr` does.
    """
    point = tpr_at_fpr(members, nonmembers, fpr=fpr, confidence=confidence)
    members, nonmembers = np.asarray(members, dtype=np.float64), np.sort(np.asarray(nonmembers, dtype=np.float64))[::-1]
    m, n = members.size, nonmembers.size
    allowed = _false_positives(fpr, n)
    if allowed == n:
        return point.tpr  # everything may be called: there is no threshold to choose
    above = m - np.searchsorted(np.sort(members), nonmembers, side="right")  # members above each non-member
    # The (allowed + 1)-th largest of n draws lies among the j + 1 largest scores iff allowed + 1 draws do.
    reached = special.betainc(allowed + 1, n - allowed, np.arange(n + 1) / n)
    called, law = np.unique(above, return_inverse=True)
    weights = np.bincount(law, weights=np.diff(reached))
    called, weights = called[weights > 1e-14], weights[weights > 1e-14]  # the rest together weighs nothing

    def at_most(count: int) -> float:
        return float(weights @ stats.binom.cdf(count, m, called / m))

    observed = int(above[allowed])
    left = _false_positives(fpr, n - 1)
    without = np.where(np.arange(n) <= left, above[left + 1], above[left]) / m  # the rate without the j-th non-member
    influence = np.asarray((n - 1) * (without.mean() - without), dtype=np.float64)
    low_share, high_share = _bca_shares(
        (at_most(observed - 1) + at_most(observed)) / 2,
        _acceleration(np.where(np.arange(m) < observed, 1.0, 0.0) - observed / m, influence),
        confidence,
    )
    counts = range(m + 1)
    low, high = (bisect.bisect_left(counts, share, key=at_most) / m for share in (low_share, high_share))
    return Interval(
        min(low, point.tpr.low or 0.0),
        point.tpr.value,
        max(high, 1.0 if point.tpr.high is None else point.tpr.high),
        confidence,
    )


def _false_positives(fpr: float, nonmembers: int) -> int:
    """The largest count of false positives whose share does not exceed the target, by the comparison `roc` makes."""
    return int(np.searchsorted(np.arange(nonmembers + 1) / nonmembers, fpr, side="right")) - 1


def _draws(m: int, n: int, *, first: int, count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the examples drawn with replacement by resamples first .. first + count - 1: [count, m], [count, n].

    The counter of the generator is set to the resample's own place; 32 random bits a draw, eight draws a step.
    """
    steps = -(-(m + n) // 8)
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    words = np.random.Philox(key=key, counter=first * steps).random_raw(4 * steps * count).view(np.uint32)
    words = words.reshape(count, 8 * steps)

    def places(columns: NDArray[np.uint32], size: int) -> NDArray[np.int64]:
        scaled = np.multiply(columns, np.uint64(size), dtype=np.uint64)
        scaled >>= np.uint64(32)
        return scaled.view(np.int64)

    return places(words[:, :m], m), places(words[:, m : m + n], n)


def _placements(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of non-members below each member and of members above each non-member, ties half; both average the AUC."""
    m, n = members.size, nonmembers.size
    ranks = stats.rankdata(np.concatenate([members, nonmembers]))
    below_member = (ranks[:m] - stats.rankdata(members)) / n
    above_nonmember = 1.0 - (ranks[m:] - stats.rankdata(nonmembers)) / m
    return below_member, above_nonmember


def _separated(members: NDArray[np.float64], nonmembers: NDArray[np.float64], confidence: float) -> float:
    """Lower limit of the AUC after perfect separation: Clopper-Pearson for k successes in k trials."""
    return float(((1.0 - confidence) / 2) ** (1.0 / min(members.size, nonmembers.size)))


def _acceleration(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> float:
    """BCa acceleration of two samples from the influence of each example (Davison & Hinkley 1997, ch. 5)."""
    third, second = (
        sum(float(np.sum(side**power)) / side.size**power for side in (members, nonmembers)) for power in (3, 2)
    )
    return third / (6.0 * second**1.5) if second > 0.0 else 0.0


def _bca_shares(lower: float, acceleration: float, confidence: float) -> tuple[float, float]:
    """Which quantiles of the bootstrap law are the limits; `lower`: its share below the estimate (Efron 1987)."""
    bias = float(stats.norm.ppf(min(max(lower, 1e-9), 1.0 - 1e-9)))
    reach = float(stats.norm.isf((1.0 - confidence) / 2))

    def share(z: float) -> float:
        damping = 1.0 - acceleration * (bias + z)
        if damping <= 0.0:  # beyond the reach of the approximation: the end of the law
            return float(z > 0.0)
        return float(stats.norm.cdf(bias + (bias + z) / damping))

    return share(-reach), share(reach)


def _constant(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> bool:
    return bool(np.all(members == members[0]) and np.all(nonmembers == members[0]))
