"""ROC staircase, AUC and operating points of a membership score, each with limits that hold for the sample at hand.

Score direction everywhere: higher = more like a trained-on example. "Member" is the side that was trained on.

Deviation from DeLong (1988): an interval is never narrower towards 0 or 1 than what perfect separation of the same
number of scores would allow (see `auc_interval`), because the DeLong variance tends to 0 there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.result import Interval, UsageError


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
    """P(member > non-member) + P(tie) / 2 of scores [m] and [n], from midranks in O(n log n) (Mann & Whitney 1947).

    Raises `UsageError` unless both sides are 1-D, non-empty and finite.
    """
    members, nonmembers = check_scores("members", members), check_scores("nonmembers", nonmembers)
    m, n = members.size, nonmembers.size
    rank_sum = float(stats.rankdata(np.concatenate([members, nonmembers]))[:m].sum())  # half-integers: exact
    return (rank_sum - m * (m + 1) / 2) / (m * n)


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
    ranks = stats.rankdata(np.concatenate([members, nonmembers]))
    below_member = (ranks[:m] - stats.rankdata(members)) / n  # share of non-members below each member, ties half
    above_nonmember = 1.0 - (ranks[m:] - stats.rankdata(nonmembers)) / m
    return math.sqrt(float(np.var(below_member, ddof=1)) / m + float(np.var(above_nonmember, ddof=1)) / n)


def auc_interval(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], *, confidence: float = 0.95
) -> Interval:
    """Two-sided interval for the AUC of scores [m] and [n]: DeLong (Sun & Xu 2014), clipped to [0, 1].

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
    value, pairs = auc(members, nonmembers), min(members.size, nonmembers.size)
    if _constant(members, nonmembers):
        tied = float((1.0 - confidence) ** (1.0 / pairs))
        return Interval(tied / 2, value, 1.0 - tied / 2, confidence)
    separated = float(((1.0 - confidence) / 2) ** (1.0 / pairs))  # Clopper-Pearson for k successes in k trials
    if value == 1.0:
        return Interval(separated, value, 1.0, confidence)
    if value == 0.0:
        return Interval(0.0, value, 1.0 - separated, confidence)
    error = auc_standard_error(members, nonmembers)
    if error is None:
        return Interval(0.0, value, 1.0, confidence)
    reach = float(stats.norm.isf((1.0 - confidence) / 2)) * error
    return Interval(
        max(0.0, min(value - reach, separated)), value, min(1.0, max(value + reach, 1.0 - separated)), confidence
    )


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
    half = (1.0 - confidence) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(half, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.isf(half, successes + 1, trials - successes))
    return Interval(low, successes / trials, high, confidence)


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


def _constant(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> bool:
    return bool(np.all(members == members[0]) and np.all(nonmembers == members[0]))
