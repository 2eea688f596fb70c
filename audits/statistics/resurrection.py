"""Does more come back from the audited model than from retrained ones? Ranks of probes' readings among oracles.

Retrained models relearn, too, and keep features that tell a class they never saw: a reading has no pass mark of its own
(audits.md 6, A8). Every statement here is a rank: exact for any number of oracles if readings of audited and retrained
models are exchangeable, which they are if unlearning equals retraining and every model was read with the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.statistics.distances import farther_p
from unlearnkit.audits.statistics.rank import oracle_rank
from unlearnkit.result import Interval, UsageError

LEAST_ORACLES = 5  # fewer say nothing of how far retrained models differ; 19 are needed to reject at 0.05


@dataclass(frozen=True)
class Resurrection:
    """One probe's reading of the audited model among those of the oracles; higher = more is left of the forget set.

    `difference`: audited minus mean oracle, in the probe's own unit (for relearning, the area between the curves), with
    limits by exact inversion of the rank test, `None` where the oracles are too few for the confidence. `distance`: the
    same in standard deviations between oracles, `None` where these do not differ; `original_distance`: of the original,
    which says what the probe can see at all. `p`: two-sided rank p-value, `p_adjusted` for all probes of the call.
    `p_more`, `p_less`: one-sided, that the audited model keeps more, or less, than retrained models do; both are shares
    of the n + 1 models at least as extreme, hence never below 1 / (n + 1).
    """

    audited: float
    original: float
    oracle_mean: float
    oracle_sd: float
    difference: Interval
    distance: float | None
    original_distance: float | None
    p: float
    p_adjusted: float
    p_more: float
    p_less: float


def resurrection(
    audited: NDArray[np.float64],
    original: NDArray[np.float64],
    oracles: NDArray[np.float64],
    *,
    confidence: float = 0.95,
) -> tuple[Resurrection, ...]:
    """Rank readings `audited` [probe] among `oracles` [oracle, probe], beside those of the `original` [probe].

    p-values are those of `rank.oracle_rank` (two-sided, and by maxT over the probes) and `distances.farther_p`
    (one-sided). Raises `UsageError` for fewer than five oracles, shapes that do not fit, and readings not finite.
    """
    oracles, audited, original = (np.asarray(part, dtype=np.float64) for part in (oracles, audited, original))
    if oracles.ndim != 2 or not oracles.shape[1]:
        raise UsageError(f"oracles must be a 2-D array, one row per oracle, one column per probe, got {oracles.shape}")
    if len(oracles) < LEAST_ORACLES:
        raise UsageError(
            f"resurrection: a reading is judged by its rank among at least {LEAST_ORACLES} oracles, got "
            f"{len(oracles)}; retrain more"
        )
    for name, part in (("audited", audited), ("original", original)):
        if part.shape != oracles.shape[1:]:
            raise UsageError(f"{name} must have one reading per probe, {oracles.shape[1:]}, got {part.shape}")
        if not np.isfinite(part).all():
            raise UsageError(f"{name} must be finite, got {part.tolist()}; leave that probe out")
    values = np.concatenate([audited[None], oracles])
    ranks = oracle_rank(values, tolerances=np.ones(values.shape[1]), confidence=confidence)

    def in_sd(shift: float, sd: float, size: float) -> float | None:
        return shift / sd if sd > 1e-12 * size else None

    return tuple(
        Resurrection(
            audited=float(audited[i]),
            original=float(original[i]),
            oracle_mean=rank.oracle_mean,
            oracle_sd=rank.oracle_sd,
            difference=rank.shift,
            distance=in_sd(float(audited[i]) - rank.oracle_mean, rank.oracle_sd, abs(rank.oracle_mean)),
            original_distance=in_sd(float(original[i]) - rank.oracle_mean, rank.oracle_sd, abs(rank.oracle_mean)),
            p=rank.p,
            p_adjusted=rank.p_adjusted,
            p_more=farther_p(values[:, i]),
            p_less=farther_p(-values[:, i]),
        )
        for i, rank in enumerate(ranks)
    )
