"""Is a set harder than others? Gaps to retraining with their intervals, and the found set among random ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.roc import check_share
from unlearnkit.result import Interval, UsageError

Array = NDArray[np.float64]
Stand = Literal["harder", "easier", "open"]


def mean_gap(audited: Array, oracles: Array, *, confidence: float = 0.95) -> Interval:
    """Mean of audited [k] minus mean of oracles [n], with Welch's interval (Welch 1947) over the models of both sides.

    No limits where a side has one model only. Raises `UsageError` unless both sides hold finite numbers.
    """
    check_share("confidence", confidence)
    for name, side in (("audited", audited), ("oracles", oracles)):
        if side.ndim != 1 or not side.size or not np.isfinite(side).all():
            raise UsageError(f"gap: {name} must be at least one finite number per model, got {side.tolist()}")
    gap = float(audited.mean() - oracles.mean())
    if min(audited.size, oracles.size) < 2:
        return Interval(None, gap, None, confidence)
    own, other = (float(side.var(ddof=1)) / side.size for side in (audited, oracles))
    if own + other == 0.0:
        return Interval(gap, gap, gap, confidence)
    freedom = (own + other) ** 2 / (own**2 / (audited.size - 1) + other**2 / (oracles.size - 1))
    reach = float(stats.t.isf((1 - confidence) / 2, freedom)) * math.sqrt(own + other)
    return Interval(gap - reach, gap, gap + reach, confidence)


def mean_interval(values: Array, *, confidence: float = 0.95) -> Interval:
    """Mean of values [n] with Student's interval; no limits for a single one."""
    check_share("confidence", confidence)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise UsageError(f"mean: give at least one finite number, got {values.tolist()}")
    mean = float(values.mean())
    if values.size < 2:
        return Interval(None, mean, None, confidence)
    reach = float(stats.t.isf((1 - confidence) / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size))
    return Interval(mean - reach, mean, mean + reach, confidence)


def prediction_reach(values: Array, *, confidence: float = 0.95) -> float:
    """How far from 0 one more value of the same normal law may lie: the farther end of Student's prediction interval.

    Raises `UsageError` for fewer than two values [n].
    """
    check_share("confidence", confidence)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise UsageError(f"prediction: give at least two finite numbers, got {values.tolist()}")
    n = values.size
    beyond = stats.t.isf((1 - confidence) / 2, n - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / n)
    return abs(float(values.mean())) + float(beyond)


@dataclass(frozen=True)
class Among:
    """A found set among random ones, by one number that is larger for harder sets.

    p: exact, (1 + random sets at least as hard) / (1 + random sets): with five sets it cannot fall below 1 / 6.
    ratio: found over the mean of the random ones; None where that mean is not above 0. random: their mean with
    Student's interval.
    """

    found: float
    random: Interval
    ratio: float | None
    p: float


def among_random(found: float, random: Sequence[float], *, confidence: float = 0.95) -> Among:
    """Hold the found set against random ones. Raises `UsageError` for fewer than two of these."""
    if len(random) < 2:
        raise UsageError(f"certificate: at least two random sets are needed to hold a set against, got {len(random)}")
    values = np.asarray(random, dtype=np.float64)
    interval = mean_interval(values, confidence=confidence)
    ratio = found / interval.value if interval.value > 0 else None
    return Among(found, interval, ratio, (1 + int(np.count_nonzero(values >= found))) / (1 + values.size))


def stand(found: float, random: Sequence[float], *, confidence: float = 0.95) -> Stand:
    """Whether a found set is harder than random ones, easier, or neither is shown; larger numbers are harder.

    Harder: above all random sets, and above Student's one-sided prediction limit for one more of them; easier likewise
    below. Of a set that is one more random one either is said with probability 1 - confidence if their numbers are
    normal, and at most 1 / (1 + random sets) whatever their law. Raises `UsageError` for fewer than two random sets.
    """
    check_share("confidence", confidence)
    values = np.asarray(random, dtype=np.float64)
    if values.size < 2 or not np.isfinite([*values, found]).all():
        raise UsageError(f"standing: give finite numbers of at least two random sets, got {values.tolist()}")
    reach = stats.t.isf(1 - confidence, values.size - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / values.size)
    if found > max(values.max(), values.mean() + reach):
        return "harder"
    return "easier" if found < min(values.min(), values.mean() - reach) else "open"


def like_mix(
    labels: NDArray[np.int64], places: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], bool]:
    """A random set of the same size with the same number of each class, and True; where the set is made of whole
    classes only there is just one such set: then one of the same size whatever its classes, and False."""
    classes, counts = np.unique(labels[places], return_counts=True)
    members = [np.flatnonzero(labels == c) for c in classes]
    if all(rows.size == count for rows, count in zip(members, counts, strict=True)):
        return np.sort(rng.permutation(labels.size)[: places.size]), False
    drawn = [rng.permutation(rows)[:count] for rows, count in zip(members, counts, strict=True)]
    return np.sort(np.concatenate(drawn)), True


__all__ = ["Among", "Stand", "among_random", "like_mix", "mean_gap", "mean_interval", "prediction_reach", "stand"]
