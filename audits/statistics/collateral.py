"""Collateral damage: did unlearning cost one class or group more accuracy than retraining does?

Accuracy per group of the audited model is held against the oracles on the same test points (audits.md 7). There are two
sources of chance, and each has its own interval: retraining once more, and drawing the test points once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import rel_entr

from unlearnkit.audits.statistics.distances import farther_p
from unlearnkit.audits.statistics.multiplicity import holm
from unlearnkit.audits.statistics.rank import RankResult, oracle_rank
from unlearnkit.audits.statistics.roc import check_share, clopper_pearson
from unlearnkit.result import Interval, UsageError


@dataclass(frozen=True)
class GroupGap:
    """Accuracy of the audited model in one group; all values are shares of its `points` test points.

    `accuracy`: with exact (Clopper-Pearson) limits over test points. `oracle_low`, `oracle_high`: the worst and the
    best oracle, what retraining gives. `rank`: audited minus oracle mean (negative = lost more than retraining), exact
    limits and p-values over retrainings on these very points; its p_adjusted and p_tolerance cover all groups by maxT.
    `p_holm`: rank.p adjusted by Holm. `gap`: the same difference with limits over test points, paired, for these very
    models.
    """

    name: str
    points: int
    accuracy: Interval
    oracle_low: float
    oracle_high: float
    rank: RankResult
    p_holm: float
    gap: Interval


@dataclass(frozen=True, eq=False)
class Collateral:
    """All groups of one grouping, in the order of their names, and the worst of them; accuracies are shares.

    `worst`: the group that lost most against the mean of the oracles, and `worst_drop` how much (negative: no group
    lost). `floor` [oracle]: the largest drop of each oracle against the n other models, so `p_worst`, the one-sided
    rank p-value of the worst drop, is exact although the group was picked afterwards. `lowest`, `lowest_oracles`
    [oracle]: accuracy in the group in which a model is worst.
    """

    groups: tuple[GroupGap, ...]
    worst: str
    worst_drop: float
    floor: NDArray[np.float64]
    p_worst: float
    lowest: float
    lowest_oracles: NDArray[np.float64]


def collateral(
    correct: NDArray[np.bool_],
    group: NDArray[np.int64],
    names: Sequence[str],
    *,
    tolerance: float = 0.02,
    confidence: float = 0.95,
    power: float = 0.8,
) -> Collateral:
    """Compare right answers `correct` [1 + oracle, point], row 0 audited, per `group` [point], 0 .. len(names) - 1.

    Over retrainings: `oracle_rank` of the group accuracies with `tolerance` (a share). Holm over groups needs
    len(names) / (1 - confidence) - 1 oracles before any group can become significant; `p_worst` and maxT do not.
    Over points: with a right and s the share of oracles right, the gap is mean a (1 - s) - mean (1 - a) s, two means of
    independent points in [0, 1], each limited by Hoeffding's (1963, eq. 2.1) exact inequality at a quarter of the error
    per side. Raises `UsageError` for arrays of wrong shape, fewer than 2 oracles, a group number without a name, names
    that are not unique, a named group without points, and shares outside (0, 1).
    """
    correct, group = np.asarray(correct), np.asarray(group)
    _check(correct, group, names)
    check_share("tolerance", tolerance)
    masks = [group == g for g in range(len(names))]
    accuracy = np.stack([correct[:, mask].mean(axis=1) for mask in masks], axis=1)
    ranks = oracle_rank(accuracy, tolerances=np.full(len(names), tolerance), confidence=confidence, power=power)
    p_holm = holm(np.array([rank.p for rank in ranks]))
    models = len(correct)
    drops = (accuracy.sum(axis=0) - accuracy) / (models - 1) - accuracy  # against the mean of the other models
    largest = drops.max(axis=1)
    lowest = accuracy.min(axis=1)
    return Collateral(
        groups=tuple(
            GroupGap(
                name=name,
                points=int(mask.sum()),
                accuracy=clopper_pearson(int(correct[0, mask].sum()), int(mask.sum()), confidence=confidence),
                oracle_low=float(own[1:].min()),
                oracle_high=float(own[1:].max()),
                rank=rank,
                p_holm=float(p),
                gap=paired_gap(correct[:, mask], confidence=confidence),
            )
            for name, mask, own, rank, p in zip(names, masks, accuracy.T, ranks, p_holm, strict=True)
        ),
        worst=names[int(drops[0].argmax())],
        worst_drop=float(largest[0]),
        floor=largest[1:],
        p_worst=farther_p(largest),
        lowest=float(lowest[0]),
        lowest_oracles=lowest[1:],
    )


def paired_gap(correct: NDArray[np.bool_], *, confidence: float = 0.95) -> Interval:
    """Accuracy of the audited model minus the mean of the others, from right answers [1 + oracle, point].

    Limits over test points, for these very models; conservative at every sample size (see `collateral`).
    """
    audited, others = correct[0].astype(np.float64), correct[1:].mean(axis=0)
    gained, lost = float((audited * (1.0 - others)).mean()), float(((1.0 - audited) * others).mean())
    bound = math.log(4.0 / (1.0 - confidence)) / audited.size
    return Interval(
        _lower(gained, bound) - (1.0 - _lower(1.0 - lost, bound)),
        gained - lost,
        (1.0 - _lower(1.0 - gained, bound)) - _lower(lost, bound),
        confidence,
    )


def _lower(mean: float, bound: float) -> float:
    """Smallest mu with KL(mean || mu) <= bound, KL of two coins with these chances of heads."""

    def excess(mu: float) -> float:
        return float(rel_entr(mean, mu) + rel_entr(1.0 - mean, 1.0 - mu)) - bound

    tiny = 1e-300  # at 0 the divergence is infinite
    return float(optimize.brentq(excess, tiny, mean)) if mean > 0.0 and excess(tiny) > 0.0 else 0.0


def _check(correct: NDArray[np.bool_], group: NDArray[np.int64], names: Sequence[str]) -> None:
    if correct.ndim != 2 or correct.dtype != np.bool_:
        raise UsageError(
            f"correct must be a 2-D array of True and False, one row per model, got {correct.dtype} of shape "
            f"{correct.shape}; put the audited model in row 0"
        )
    if group.shape != correct.shape[1:]:
        raise UsageError(f"group must have one entry per point, shape {correct.shape[1:]}, got {group.shape}; align it")
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"names must be unique, at least one, got {list(names)}; name every group once")
    unnamed = sorted(set(np.unique(group).tolist()) - set(range(len(names))))
    if unnamed:
        raise UsageError(f"group must be 0 to {len(names) - 1}, one number per name, got {unnamed[0]}; name that group")
    counts = np.bincount(group, minlength=len(names))
    if not counts.all():
        empty = names[int(counts.argmin())]
        raise UsageError(f"group: {empty!r} has no test point; leave that name out, an empty group has no accuracy")
