"""Findings about individuals: which forgotten examples does the audited model treat unlike retrained models, and how?

Means over the forget set hide a few examples that are still remembered; here every example is held against its own n
oracles. Two p-values stand side by side. By rank: exact whatever the law of the margins, but never below 1 / (n + 1),
so with many examples and few oracles it can single nobody out. By Student's t: no such limit, but it assumes that an
example's margin is normal between retrainings, and says so in the result.

Examples of one model are not independent. The Holm-adjusted p-values hold under any dependence, the Benjamini-Hochberg
ones under independence or positive dependence, which is assumed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.distances import farther_p
from unlearnkit.audits.multiplicity import benjamini_hochberg, holm
from unlearnkit.audits.rank import margin_z, oracles_needed
from unlearnkit.audits.roc import check_share, clopper_pearson
from unlearnkit.result import Interval, UsageError

Direction = Literal["remembered", "over-forgotten", "equal"]

EXACT = "exact if the audited and the retrained models are exchangeable"
NORMAL = "assumes that an example's margin is normal between retrainings"


@dataclass(frozen=True, eq=False)
class ExampleP:
    """Two-sided p-values of all examples, [point] each: raw, adjusted for the false discovery rate, and by Holm.

    `assumes` must be printed wherever the numbers are. `flagged`: ids of the examples whose `bh` is at most the
    significance of the call, farthest from the oracles first.
    """

    raw: NDArray[np.float64]
    bh: NDArray[np.float64]
    holm: NDArray[np.float64]
    flagged: tuple[str, ...]
    assumes: str


@dataclass(frozen=True)
class Individual:
    """One example: how far its margin lies from the mean of its oracles, in their standard deviations, and its ps."""

    id: str
    z: float
    direction: Direction
    p_rank: float
    p_rank_bh: float
    p_normal: float
    p_normal_bh: float


@dataclass(frozen=True)
class Resolution:
    """What n oracles can and cannot say about single examples by rank, at a false discovery rate.

    `smallest_p`: 1 / (n + 1). `fewest_flagged`: how many examples must reach it before any is flagged, `None` if even
    all would not do. `oracles_for_one`: oracles from which a single example can be flagged alone.
    """

    oracles: int
    examples: int
    significance: float
    smallest_p: float
    fewest_flagged: int | None
    oracles_for_one: int

    @property
    def sentence(self) -> str:
        """The limit in words."""
        start = f"With {self.oracles:,} oracles the smallest rank p-value of an example is {self.smallest_p:.2g}"
        if self.fewest_flagged == 1:
            return f"{start}: enough to single out one of {self.examples:,}."
        needed = f"for a single one {self.oracles_for_one:,} oracles are needed."
        if self.fewest_flagged is None:
            return f"{start}: none of {self.examples:,} can be flagged; {needed}"
        return (
            f"{start}: no single one of {self.examples:,} can be flagged, only {self.fewest_flagged:,} or more at "
            f"once; {needed}"
        )


@dataclass(frozen=True, eq=False)
class Individuals:
    """Every forgotten example of one audited model against its oracles.

    `z` [point]: (audited margin - oracle mean) / oracle standard deviation; above 0 = remembered, below =
    over-forgotten. `rank`, `normal`: p-values without and with a law for the margins. `worst`: farthest first.

    `above`: share of examples with |z| above the tolerance. Its exact (Clopper-Pearson) limits are about this very
    model and these oracles: for the share in the population the examples were drawn from, not for another retraining.
    `floor` [oracle]: the same share with each oracle in turn held against the n other models, and `p_above` the exact
    one-sided rank p-value among them: oracles are above the tolerance on some examples too.
    """

    z: NDArray[np.float64]
    rank: ExampleP
    normal: ExampleP
    worst: tuple[Individual, ...]
    above: Interval
    floor: NDArray[np.float64]
    p_above: float
    resolution: Resolution


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

    Rank: p = (1 + #{oracles whose |z| among the n other models is at least the audited one's}) / (n + 1) (audits.md
    8.1). Normal: z sqrt(n / (n + 1)) is Student t with n - 1 degrees of freedom, the prediction of one more retraining.
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
    # Near-ties count as ties, as in `oracle_rank`.
    reached = np.count_nonzero(size[1:] >= size[0] * (1.0 - 1e-9) - 1e-12, axis=0)
    by_t = 2.0 * stats.t.sf(size[0] * math.sqrt(n / (n + 1)), df=n - 1)

    def adjusted(raw: NDArray[np.float64], assumes: str) -> ExampleP:
        bh = benjamini_hochberg(raw)
        # p-values are multiples of 1 / (n + 1): the slack keeps one that equals the significance flagged.
        flagged = tuple(names[i] for i in order if bh[i] <= significance + 1e-9)
        return ExampleP(raw, bh, holm(raw), flagged, assumes)

    rank = adjusted((1 + reached) / (n + 1), EXACT)
    normal = adjusted(np.maximum(by_t, sys.float_info.min), NORMAL)  # a p-value is never 0
    share = np.count_nonzero(size > tolerance, axis=1)
    return Individuals(
        z=z[0],
        rank=rank,
        normal=normal,
        worst=tuple(
            Individual(
                id=names[i],
                z=float(z[0, i]),
                direction=_direction(float(z[0, i])),
                p_rank=float(rank.raw[i]),
                p_rank_bh=float(rank.bh[i]),
                p_normal=float(normal.raw[i]),
                p_normal_bh=float(normal.bh[i]),
            )
            for i in order[:worst]
        ),
        above=clopper_pearson(int(share[0]), points, confidence=confidence),
        floor=share[1:] / points,
        p_above=farther_p(share.astype(np.float64)),
        resolution=resolution(n, points, significance=significance),
    )


def resolution(oracles: int, examples: int, *, significance: float = 0.05) -> Resolution:
    """What so many oracles can say about single examples by rank: Benjamini-Hochberg flags k at the smallest p if
    examples / (k (oracles + 1)) <= significance.

    Raises `UsageError` for fewer than 2 oracles, no example or a significance outside (0, 1).
    """
    if oracles < 2:
        raise UsageError(f"oracles must be at least 2, got {oracles}; retrain more")
    needed = oracles_needed(significance=significance, families=examples)
    fewest = max(1, math.ceil(examples / (significance * (oracles + 1)) - 1e-9))
    return Resolution(
        oracles, examples, significance, 1 / (oracles + 1), fewest if fewest <= examples else None, needed
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
