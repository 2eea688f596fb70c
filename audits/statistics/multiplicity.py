"""P-values adjusted for how many questions were asked: Holm for verdicts, Benjamini-Hochberg for lists of findings.

An adjusted p-value is compared with the level itself: reject where it is at most 0.05, and the promise holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unlearnkit.result import UsageError


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values [k] of p-values [k], in the order given: the chance of any false alarm stays at the level.

    Step-down (Holm 1979): the i-th smallest counts (k - i + 1)-fold, never less than the one before it, at most 1.
    Holds under any dependence. Raises `UsageError` unless p is 1-D, non-empty and within [0, 1].
    """
    order, ranked = _sorted("p", p)
    return _back(order, np.maximum.accumulate(np.arange(ranked.size, 0, -1) * ranked))


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values [k] of p-values [k], in the order given: the level bounds the expected share of false findings.

    Step-up (Benjamini & Hochberg 1995): the i-th smallest counts k / i-fold, never more than the one after it. Holds
    for independent and for positively dependent p-values (Benjamini & Yekutieli 2001), not for any dependence.
    Raises `UsageError` unless p is 1-D, non-empty and within [0, 1].
    """
    order, ranked = _sorted("p", p)
    steps = ranked * (ranked.size / np.arange(1, ranked.size + 1))
    return _back(order, np.minimum.accumulate(steps[::-1])[::-1])


def holm_families(families: Sequence[Sequence[float]]) -> list[list[float]]:
    """Holm over families of p-values, each already corrected inside (by maxT, say); families of one give `holm`.

    A family stops counting against the others once all of its members are rejected, and not before: while one that
    may be true is left in it, dropping the family would let the chance of any false alarm reach 1.5 times the level.
    Raises `UsageError` unless there is a family and every family holds p-values within [0, 1].
    """
    if not families:
        raise UsageError("families must hold at least one family of p-values, got none; there is nothing to adjust")
    inside = [_sorted("families", np.asarray(family, dtype=np.float64))[1] for family in families]
    largest = np.array([ranked[-1] for ranked in inside])
    # Family i counts with all families whose largest p-value is not smaller, so step-down runs over the largest ones.
    order = np.argsort(largest, kind="stable")
    factors = np.arange(len(families), 0, -1)
    floors = np.concatenate([[0.0], np.maximum.accumulate(np.minimum(1.0, factors * largest[order]))])
    adjusted: list[list[float]] = [[] for _ in families]
    for step, i in enumerate(order):
        # One row per step at which the family was still in: the best of them counts.
        steps = np.maximum(floors[: step + 1, None], np.outer(factors[: step + 1], families[i]))
        adjusted[i] = np.minimum(1.0, steps.min(axis=0)).tolist()
    return adjusted


def _sorted(name: str, p: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    array = np.asarray(p, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{name} must be a non-empty 1-D array of p-values, got shape {array.shape}; flatten it")
    bad = int(np.count_nonzero(~((array >= 0.0) & (array <= 1.0))))  # NaN is neither
    if bad:
        raise UsageError(
            f"{name} must hold p-values within [0, 1], got {bad} of {array.size} outside or NaN; drop none"
        )
    order = np.argsort(array, kind="stable")
    return order, array[order]


def _back(order: NDArray[np.int64], ranked: NDArray[np.float64]) -> NDArray[np.float64]:
    adjusted = np.empty(order.size, dtype=np.float64)
    adjusted[order] = np.minimum(1.0, ranked)
    return adjusted
