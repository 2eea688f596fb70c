"""The oracle rank test: is the audited model an outlier among models retrained without the forgotten data?

Row 0 of every array is the audited model, rows 1..n are retrained oracles. If unlearning equals retraining the n + 1
rows are exchangeable, so the rank of any statistic that treats all rows alike is exactly uniform. "Treats alike" is the
point of leaving one out over all rows, the audited one among them (audits.md 8.1, A5).

Near-ties (relative 1e-12 of the spread) count as ties, which can only raise a p-value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from unlearnkit.audits.statistics.roc import check_share
from unlearnkit.result import Interval, UsageError

Z_CAP = 1000.0  # standard deviations; a finite stand-in for "differs from others that do not differ at all"
RMIA_A = 0.3  # how far the probability with training is taken to follow the one without
_DRAWS = 20_000
_DRAW_SEED = 8_1  # a fixed stream: the power is a number to be integrated, not an experiment


@dataclass(frozen=True)
class RankResult:
    """The audited model among the oracles, for one statistic, in that statistic's own unit.

    `shift`: audited value minus oracle mean, limits by exact inversion of the raw rank test; limits are `None` where
    the oracles are too few for the confidence (n + 1 < 1 / (1 - confidence)). `p`: raw two-sided rank p-value.
    `p_adjusted`: the same, adjusted for all statistics of the call. `p_tolerance`: adjusted p-value of "the shift is at
    most the tolerance". `mde`: smallest shift the raw test finds with the stated power, `None` where no shift can be
    found; it is the oracle standard deviation (itself an estimate) times `mde_factor`, hence 0 for oracles that do not
    differ. `oracle_mean`, `oracle_sd` (n - 1 in the denominator): of the n oracles.
    """

    shift: Interval
    p: float
    p_adjusted: float
    p_tolerance: float
    mde: float | None
    oracle_mean: float
    oracle_sd: float


def oracle_rank(
    values: NDArray[np.float64],
    *,
    tolerances: NDArray[np.float64],
    confidence: float = 0.95,
    power: float = 0.8,
) -> tuple[RankResult, ...]:
    """Two-sided rank tests of `values` [n + 1, statistics], row 0 audited, against `tolerances` [statistics].

    Raw: p = (1 + #{oracles at least as far from the mean of all n + 1 rows}) / (n + 1); this distance orders rows as
    the leave-one-out studentized deviation |x_j - mean_{-j}| / sd_{-j} does. Adjusted: single-step maxT (Westfall &
    Young 1993), p = (1 + #{oracles whose largest studentized deviation over all statistics reaches the audited model's
    deviation in this one}) / (n + 1). The largest deviations are exchangeable too, and statistics that did
    shift can only raise an oracle's maximum, so the family-wise error is controlled under any dependence.

    `p_tolerance` is the adjusted p-value after the audited value has been moved towards the oracle mean by its
    tolerance (not beyond the mean), in all statistics at once. For one statistic the move gives the largest p-value of
    all shifts within the tolerance, because the test is monotone; for several it does so to within the tiny influence
    of the audited row on the oracles' own studentized deviations.

    Limits of the shift: all shifts d for which the raw test accepts the audited value minus d. With residuals r_j of
    the oracles and a positive residual u of the audited value, oracle j is at least as far out iff u <= r_j (r_j > 0)
    or u <= -r_j (n + 1) / (n - 1) (r_j < 0), mirrored for negative u; with k = floor(alpha (n + 1)) the limits are the
    k-th largest of these. The answer does not depend on the order of the oracles, to the last bit.
    Raises `UsageError` unless values are 2-D and finite with at least 2 oracles and 1 statistic, tolerances are
    positive and one per statistic, and confidence and power lie in (0, 1).
    """
    values, tolerances = _check_values("values", values), np.asarray(tolerances, dtype=np.float64)
    if tolerances.shape != (values.shape[1],):
        raise UsageError(
            f"tolerances must have one entry per statistic, shape ({values.shape[1]},), got {tolerances.shape}; "
            "state how far each statistic may move"
        )
    if not np.all((tolerances > 0.0) & np.isfinite(tolerances)):
        raise UsageError(
            f"tolerances must be positive and finite, got {tolerances.tolist()}; a test against no shift is p_adjusted"
        )
    check_share("confidence", confidence)
    check_share("power", power)
    oracles = values.shape[0] - 1
    # One canonical order of the oracles, and values relative to the median: sums then carry no order and no offset.
    values = np.concatenate([values[:1], values[1:][np.lexsort(values[1:].T)]])
    center = np.median(values, axis=0)
    rows = values - center
    mean = rows[1:].mean(axis=0)
    sd = rows[1:].std(axis=0, ddof=1)
    shift = rows[0] - mean
    raw, adjusted = _rank_p(rows)
    moved = rows.copy()
    moved[0] = np.where(np.abs(shift) <= tolerances, mean, rows[0] - np.copysign(tolerances, shift))
    tolerated = _rank_p(moved)[1]
    upper, lower = _thresholds(rows[1:] - mean)
    k = allowed_rank(oracles, 1.0 - confidence)
    if k:
        upper, lower = (np.sort(limits, axis=0)[oracles - k] for limits in (upper, lower))
    factor = mde_factor(oracles, significance=1.0 - confidence, power=power)
    return tuple(
        RankResult(
            shift=Interval(
                float(shift[i] - upper[i]) if k else None,
                float(shift[i]),
                float(shift[i] + lower[i]) if k else None,
                confidence,
            ),
            p=float(raw[i]),
            p_adjusted=float(adjusted[i]),
            p_tolerance=float(tolerated[i]),
            mde=None if factor is None else factor * float(sd[i]),
            oracle_mean=float(center[i] + mean[i]),
            oracle_sd=float(sd[i]),
        )
        for i in range(values.shape[1])
    )


def margin_z(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave-one-out z of margins [models, points]: (phi - mean of the other models) / sd of the other models (A5).

    Over all rows, the audited one among the oracles, so that statistics of z per model are exchangeable. Linear time:
    prefixes and suffixes of models are merged by sums of squares that are never subtracted (Chan, Golub & LeVeque
    1983). All z are clipped to +-`Z_CAP`; where the others do not differ, z is 0 for an equal margin, else +-`Z_CAP`.
    Raises `UsageError` unless margins are 2-D and finite with at least 3 models and 1 point.
    """
    return np.clip(_leave_one_out_z(_check_values("margins", margins)), -Z_CAP, Z_CAP)


def log_ratio(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave-one-out log-ratio of RMIA [models, points]: log p(x) of each model over what the other models give.

    log p_j − log(((1 + a) mean_{-j} p + 1 − a) / 2), p = 1 / (1 + e^−φ), a = 0.3 (Zarifzadeh et al. 2024, offline, the
    value of its CIFAR-10 runs; audits.md 2.6). For one view its ROC is RMIA's. Every model is a reference of every
    other one, so that a statistic of it per model is exchangeable, and the references cost no training of their own.
    The order of models changes no bit. Raises `UsageError` unless margins are 2-D and finite with at least 3 models.
    """
    values = _check_values("margins", margins)
    miss = special.expit(-values)
    others = (np.sort(miss, axis=0).sum(axis=0) - miss) / (len(values) - 1)
    return against_references(values, np.maximum(others, 0.0))


def against_references(margins: NDArray[np.float64], miss: NDArray[np.float64]) -> NDArray[np.float64]:
    """`log_ratio` of margins [..., point] where the references' mean of 1 − p is known, [..., point]."""
    return np.asarray(-np.logaddexp(0.0, -margins) - np.log1p(-(1.0 + RMIA_A) / 2.0 * miss))


def oracles_needed(*, significance: float = 0.05, families: int = 1) -> int:
    """Smallest number of oracles n >= 2 whose smallest p-value 1 / (n + 1) is at most significance / families.

    19 for 0.05, 39 for 0.025, 99 for 0.01 (audits.md 8.1). `families` counts tests that share the error by Bonferroni
    or Holm; statistics inside one `oracle_rank` call share it by maxT and count once.
    Raises `UsageError` for a significance outside (0, 1) or fewer than one family.
    """
    check_share("significance", significance)
    if families < 1:
        raise UsageError(f"families must be at least 1, got {families}; count the tests that share the error")
    return max(2, math.ceil(families / significance - 1e-9) - 1)


def power_at(shift: float, *, oracles: int, significance: float = 0.05) -> float:
    """Power of the raw two-sided rank test for a shift in units of the standard deviation between oracles.

    Models are normal; the exact decision rule is averaged over 20,000 seeded draws of oracles, the audited model being
    integrated out (standard error below 0.002). 0 where the oracles are too few to reject at all.
    Raises `UsageError` for a shift that is not finite, fewer than 2 oracles or a significance outside (0, 1).
    """
    if not math.isfinite(shift):
        raise UsageError(f"shift must be finite, in standard deviations between oracles, got {shift}; pass a number")
    _check_oracles(oracles)
    check_share("significance", significance)
    k = allowed_rank(oracles, significance)
    return _power(shift, oracles, k) if k else 0.0


@lru_cache(maxsize=256)
def mde_factor(oracles: int, *, significance: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest shift, in standard deviations between oracles, that the raw rank test finds with `power` (`power_at`).

    `None` where n + 1 < 1 / significance: no shift, however large, is found. 0 if the power is not above the level.
    Raises `UsageError` for fewer than 2 oracles or shares outside (0, 1).
    """
    _check_oracles(oracles)
    check_share("significance", significance)
    check_share("power", power)
    k = allowed_rank(oracles, significance)
    if k == 0:
        return None
    if _power(0.0, oracles, k) >= power:
        return 0.0
    high = 1.0
    while _power(high, oracles, k) < power:
        high *= 2.0
    return float(optimize.brentq(lambda s: _power(s, oracles, k) - power, 0.0, high, xtol=1e-6))


def planted_mde(
    models: NDArray[np.float64],
    *,
    confidence: float = 0.95,
    power: float = 0.8,
    upward: bool = False,
    beside: Callable[[NDArray[np.float64], float], NDArray[np.float64]] | None = None,
    among: NDArray[np.int64] | None = None,
) -> float | None:
    """MDE measured by planting, for one statistic of n + 1 retrained models [n + 1]; no law is assumed for them.

    Each model in turn plays the audited one against the n others. The answer is the smallest shift that the raw rank
    test finds in a share `power` of them, in the direction in which more is needed, or upward only; `None` where n + 1
    models are too few to reject at all. The share counts the audited model as one more of them, so that
    it is found as often, whatever the law.
    beside: what the values of the others become when one model is shifted by so much, for statistics that hold every
    model against the others; it must not move them apart. among: which models play the audited one, all by default.
    Raises `UsageError` unless there are at least 3 finite models.
    """
    check_share("confidence", confidence)
    check_share("power", power)
    values = _check_values("models", np.asarray(models, dtype=np.float64)[:, None])[:, 0]
    n = values.size - 1
    k = allowed_rank(n, 1.0 - confidence)
    if k == 0:
        return None
    played = range(values.size) if among is None else among.tolist()

    def needed(shift: float) -> float:
        """Shift that a share `power` of models needs, where the others are as beside a model shifted by `shift`."""
        each = np.empty((2, len(played)))
        for i, j in enumerate(played):
            others = np.delete(values, j)
            if beside is not None:
                others = beside(others, shift)
            own = values[j] - others.mean()
            upper, lower = (np.sort(limits)[n - k] for limits in _thresholds(others - others.mean()))
            each[:, i] = upper - own, lower + own
        found = np.quantile(each, power, axis=1, method="higher")
        return float(found[0] if upward else found.max())

    most = needed(0.0)
    if beside is None or most <= 0:
        return most
    return float(optimize.brentq(lambda shift: needed(shift) - shift, 0.0, most, xtol=1e-6 * most))


def _check_values(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    array = finite_table(name, values)
    _check_oracles(array.shape[0] - 1)
    return array


def finite_table(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` in float64; refuses what is not 2-D and finite, with one row per model and at least one column."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise UsageError(
            f"{name} must be a 2-D array, one row per model and one column per quantity, got shape {array.shape}"
        )
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise UsageError(f"{name} must be finite, got {bad} NaN or infinite of {array.size}; leave that column out")
    return array


def _check_oracles(oracles: int) -> None:
    if oracles < 2:
        raise UsageError(f"oracles must be at least 2, got {oracles}; retrain more, 19 are needed to reject at 0.05")


def allowed_rank(oracles: int, significance: float) -> int:
    """Largest rank that rejects, floor(alpha (n + 1)); the slack undoes 1 - 0.9 < 0.1 in floating point."""
    return math.floor(significance * (oracles + 1) + 1e-9)


def _rank_p(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw and maxT-adjusted p-values [statistics] of row 0."""
    models = rows.shape[0]
    distance = np.abs(rows - rows.mean(axis=0))
    slack = 1e-12 * distance.max(axis=0)
    raw = (1 + np.count_nonzero(distance[1:] >= distance[0] - slack, axis=0)) / models
    if rows.shape[1] == 1:  # the deviation orders the rows of one statistic as the distance does
        return raw, raw
    deviation = np.abs(_leave_one_out_z(rows))
    largest = deviation[1:].max(axis=1)
    adjusted = (1 + np.count_nonzero(largest[:, None] >= deviation[0] * (1.0 - 1e-9), axis=0)) / models
    return raw, np.maximum(raw, adjusted)


def _leave_one_out_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """z [models, columns] against all other rows; +-inf where they do not differ from each other but from this row."""
    rows = values - np.median(values, axis=0)
    rows = np.ldexp(rows, -np.frexp(np.abs(rows).max(axis=0))[1])  # to [-1, 1] by a power of two: squares stay in range
    models = rows.shape[0]
    mean_before, square_before = _running(rows)
    mean_after, square_after = (part[::-1] for part in _running(rows[::-1]))
    before = np.arange(models, dtype=np.float64)[:, None]
    after = models - 1 - before
    gap = mean_after - mean_before
    # Merging two groups (Chan et al. 1983, eq. 2.1): only sums of squares, nothing to cancel.
    difference = rows - (mean_before + gap * (after / (models - 1)))
    square = square_before + square_after + gap**2 * (before * after / (models - 1))
    sd = np.sqrt(square / (models - 2))
    z: NDArray[np.float64] = np.copysign(np.where(difference == 0.0, 0.0, np.inf), difference)
    np.divide(difference, sd, out=z, where=sd > 0.0)
    return z


def _running(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and centered sum of squares of the rows before each row (Welford 1962); 0 before the first."""
    means, squares = np.zeros_like(rows), np.zeros_like(rows)
    for j in range(1, rows.shape[0]):
        step = rows[j - 1] - means[j - 1]
        means[j] = means[j - 1] + step / j
        squares[j] = squares[j - 1] + step * (rows[j - 1] - means[j])
    return means, squares


def _thresholds(residuals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest distance above, and below, the oracle mean up to which each oracle [n, ...] is at least as far out."""
    oracles = residuals.shape[0]
    stretch = (oracles + 1) / (oracles - 1)
    return np.maximum(residuals, -stretch * residuals), np.maximum(-residuals, stretch * residuals)


@lru_cache(maxsize=16)
def _normal_limits(oracles: int, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """k-th largest thresholds above and below the mean in 20,000 draws of standard normal oracles."""
    rng = np.random.default_rng(_DRAW_SEED)
    upper, lower = np.empty(_DRAWS), np.empty(_DRAWS)
    rows = max(1, (1 << 20) // oracles)
    for start in range(0, _DRAWS, rows):
        part = slice(start, min(start + rows, _DRAWS))
        draws = rng.standard_normal((oracles, part.stop - start))
        for out, limits in zip((upper, lower), _thresholds(draws - draws.mean(axis=0)), strict=True):
            out[part] = np.partition(limits, oracles - k, axis=0)[oracles - k]
    return upper, lower


def _power(shift: float, oracles: int, k: int) -> float:
    # The audited value minus the oracle mean is N(shift, 1 + 1/n) and independent of the residuals.
    upper, lower = _normal_limits(oracles, k)
    scale = math.sqrt(1.0 + 1.0 / oracles)
    return float(np.mean(stats.norm.sf((upper - shift) / scale) + stats.norm.cdf((-lower - shift) / scale)))
