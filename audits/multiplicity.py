"""Several tests, one verdict: adjusted p-values that keep the chance of any false alarm at the stated level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlearnkit.result import UsageError


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm-adjusted p-values [tests] in the order given: step-down, monotone, capped at 1 (Holm 1979).

    With the i-th smallest p of k tests, adjusted_i = max over h <= i of min(1, (k - h + 1) p_h). Rejecting where
    adjusted <= level keeps the family-wise error at the level under any dependence.
    Raises `UsageError` unless `p_values` is 1-D, non-empty and within [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or p.size == 0:
        raise UsageError(f"p_values must be a 1-D array with at least one p-value, got shape {p.shape}; flatten it")
    if not np.all((p >= 0.0) & (p <= 1.0)):
        raise UsageError(
            f"p_values must lie in [0, 1], got {p.min()} to {p.max()}; leave out tests that gave no p-value"
        )
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((p.size - np.arange(p.size)) * p[order]))
    return adjusted
