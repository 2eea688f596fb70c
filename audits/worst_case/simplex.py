"""Weights between 0 and 1 with a given sum: the relaxed choice of m among n, its projection and its steps.

The bilevel search (Fan et al. 2024, arXiv 2403.07362) moves such weights against losses. Its published step of fixed
length leaves a random start of zeros and ones unchanged unless it is longer than one over the differences of the
losses, whatever those are; `scale_free_step` measures them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlearnkit.result import UsageError

Array = NDArray[np.float64]


def project(v: Array, m: int) -> Array:
    """The nearest point of S = {w in [0, 1]^n, sum w = m}: clip(v - μ, 0, 1), μ by bisection.

    The last step solves for μ exactly among the weights strictly between 0 and 1, so that the sum is right to rounding
    and a point of S stays where it is. Raises `UsageError` unless v is 1-D and finite and 0 < m < n.
    """
    v = np.asarray(v, dtype=np.float64)
    if v.ndim != 1 or not np.isfinite(v).all():
        raise UsageError(f"projection: the weights must be one finite number per choice, got shape {v.shape}")
    check_size(m, v.size, "choices")
    v = v - v.max()  # only differences matter, and near 0 they keep their digits
    low, high = float(v.min()) - 1.0, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if np.clip(v - middle, 0.0, 1.0).sum() > m:
            low = middle
        else:
            high = middle
    inside = (v - high > 0.0) & (v - high < 1.0)
    if inside.any():
        ones = np.count_nonzero(v - high >= 1.0)
        high = float((v[inside].sum() - (m - ones)) / np.count_nonzero(inside))
    return np.asarray(np.clip(v - high, 0.0, 1.0))


def check_size(m: int, n: int, what: str) -> None:
    """Raise `UsageError` unless 0 < m < n."""
    if not 0 < m < n:
        raise UsageError(f"worst_case.size: must lie between 1 and {n - 1:,} of the {n:,} {what}, got {m:,}")


def random_start(n: int, m: int, rng: np.random.Generator) -> Array:
    """Ones at m random places, zeros elsewhere."""
    check_size(m, n, "choices")
    w = np.zeros(n)
    w[rng.permutation(n)[:m]] = 1.0
    return w


def descend(w: Array, losses: Array, *, step: float, gamma: float) -> Array:
    """One upper step against sum w·loss + γ·|w|² [n]: Π((w - a·loss) / (1 + 2aγ)).

    The square is taken at the new point (a proximal step; Parikh & Boyd 2014, section 2.2) and not, as published, at
    the old one: the same to first order, but no γ makes it diverge, and γ → ∞ gives the uniform weights m / n.
    """
    return project((w - step * losses) / (1.0 + 2.0 * step * gamma), round(float(w.sum())))


def scale_free_step(losses: Array, m: int, *, pace: float) -> float:
    """pace / (median of the n - m highest losses - median of the m lowest); 0 where these do not differ.

    A choice of typical loss then changes places with one of the m easiest within 1 / pace steps, whatever the unit of
    the losses; the published step needs one over that difference, between 0.1 and 10 000.
    """
    ordered = np.sort(losses)
    gap = float(np.median(ordered[m:]) - np.median(ordered[:m]))
    return pace / gap if gap > 0.0 else 0.0


def largest(w: Array, losses: Array, m: int) -> NDArray[np.int64]:
    """The m largest weights, the largest first; of equal ones the lower loss, then the earlier place."""
    return np.lexsort((np.arange(w.size), losses, -w))[:m]


__all__ = ["check_size", "descend", "largest", "project", "random_start", "scale_free_step"]
