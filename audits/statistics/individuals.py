"""Findings about individuals: which forgotten examples does the audited model treat unlike retrained models, and how?

Means over the forget set hide a few examples that are still remembered; here every example is held against its own n
oracles, and the farthest one against the farthest examples of all oracles. Both p-values are exact whatever the law of
the margins and however the examples of one model hang together: if the audited model is a retrained one, all n + 1
models are exchangeable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.statistics.distances import farther_p
from unlearnkit.audits.statistics.rank import allowed_rank, margin_z, oracles_needed
from unlearnkit.audits.statistics.roc import check_share, clopper_pearson
from unlearnkit.result import Interval, UsageError

Direction = Literal["remembered", "over-forgotten", "equal"]


@dataclass(frozen=True)
class Individual:
    """One example: how far its margin lies from the mean of its oracles, in their standard deviations, and its ps.

    `p_rank`: this example alone. `p_adjusted`: all examples counted, see `individuals`.
    """

    id: str
    z: float
    direction: Direction
    p_rank: float
    p_adjusted: float


@dataclass(frozen=True, eq=False)
class Individuals:
    """Every forgotten example of one audited model against its oracles.

    `z` [point]: (audited margin - oracle mean) / oracle standard deviation; above 0 (`remembered`) = above
    retraining, below 0 (`over-forgotten`) = below it, whatever put it there. `p_rank`, `p_adjusted` [point]:
    see `individuals`. `worst`: farthest first.
    `stands_out_from`: |z| above which an example is flagged; `None` where the oracles are too few to flag any.

    `above`: share of examples with |z| above the tolerance. Its exact (Clopper-Pearson) limits are about this very
    model and these oracles: for the share in the population the examples were drawn from, not for another retraining.
    `floor` [oracle]: the same share with each oracle in turn held against the n other models, and `p_above` the exact
    one-sided rank p-value among them: oracles are above the tolerance on some examples too.
    """

    z: NDArray[np.float64]
    p_rank: NDArray[np.float64]
    p_adjusted: NDArray[np.float64]
    flagged: tuple[str, ...]  # ids with an adjusted p of at most the significance, farthest first
    worst: tuple[Individual, ...]
    stands_out_from: float | None
    above: Interval
    floor: NDArray[np.float64]
    p_above: float
    significance: float

    @property
    def resolution(self) -> str:
        """What so many oracles can say about single examples, in words."""
        n = self.floor.size
        if self.stands_out_from is None:
            needed = oracles_needed(significance=self.significance)
            return f"With {n:,} oracles no example can be singled out at {self.significance:g}; {needed:,} are needed."
        others = allowed_rank(n, self.significance) - 1
        return (
            f"An example stands out when it lies farther than {self.stands_out_from:.1f} σ; of {n:,} oracles "
            f"{others or 'none'} {'have' if others > 1 else 'has'} an example that far out."
        )


def individuals(
    margins: NDArray[np.float64],
    ids: Sequence[str],
    *,
    tolerance: float,
    worst: int = 10,
    significance: float = 0.05,
    confidence: float = 0.95,
) -> Individuals:
    """Findings per example from margins [1 + oracle, point], row 0 audited; `tolerance` in standard deviations.

    p_rank = (1 + #{oracles whose |z| on this example, among the n other models, is at least the audited one's}) / (n +
    1) (audits.md 8.1). p_adjusted = (1 + #{oracles whose largest |z| over all examples is at least the audited one's
    on this example}) / (n + 1): single-step maxT (Westfall and Young 1993). The largest deviations are exchangeable
    too, and examples that are remembered can only raise an oracle's maximum, so the chance of flagging any example that
    is not is at most the significance, under any dependence between examples and any law of their margins.
    Raises `UsageError` unless margins are 2-D and finite with at least 2 oracles, ids are unique and one per point,
    tolerance is positive, worst is at least 0, and significance and confidence lie in (0, 1).
    """
    z = margin_z(margins)
    n, points = z.shape[0] - 1, z.shape[1]
    names = _check_ids(ids, points)
    if not 0.0 < tolerance < math.inf:
        raise UsageError(f"tolerance must be positive, in standard deviations between oracles, got {tolerance}; use 3")
    if worst < 0:
        raise UsageError(f"worst must be at least 0, got {worst}; it counts the examples to name")
    check_share("significance", significance)
    size = np.abs(z)
    order = sorted(range(points), key=lambda i: (-size[0, i], names[i]))
    reach = size[0] * (1.0 - 1e-9) - 1e-12  # near-ties count as ties, as in `oracle_rank`
    largest = np.sort(size[1:].max(axis=1))
    p_rank = (1 + np.count_nonzero(size[1:] >= reach, axis=0)) / (n + 1)
    p_adjusted = (1 + n - np.searchsorted(largest, reach)) / (n + 1)
    allowed = allowed_rank(n, significance)
    share = np.count_nonzero(size > tolerance, axis=1)
    return Individuals(
        z=z[0],
        p_rank=p_rank,
        p_adjusted=p_adjusted,
        # p-values are multiples of 1 / (n + 1): the slack keeps one that equals the significance flagged.
        flagged=tuple(names[i] for i in order if p_adjusted[i] <= significance + 1e-9),
        worst=tuple(
            Individual(names[i], float(z[0, i]), _direction(float(z[0, i])), float(p_rank[i]), float(p_adjusted[i]))
            for i in order[:worst]
        ),
        stands_out_from=float(largest[n - allowed]) if allowed else None,
        above=clopper_pearson(int(share[0]), points, confidence=confidence),
        floor=share[1:] / points,
        p_above=farther_p(share.astype(np.float64)),
        significance=significance,
    )


def _direction(z: float) -> Direction:
    if z == 0.0:
        return "equal"
    return "remembered" if z > 0.0 else "over-forgotten"


def _check_ids(ids: Sequence[str], points: int) -> list[str]:
    names = [str(name) for name in ids]
    if len(names) != points:
        raise UsageError(f"ids must name every point, got {len(names)} for {points} points; align them")
    if len(set(names)) != points:
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"ids must be unique, got {twice!r} more than once; an example is tested once")
    return names
