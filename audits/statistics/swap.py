"""The SWAP test: two sets trade places, and an attack that sees the deletion must change its mind (Tu, Hu & Ma 2024).

Of a pool, a random half is F and the other T. One model is trained on R + F and forgets F, the other is trained on
R + T and forgets T. What an attack says of F against T, averaged over both models with the sign turned over in the
second, is 0 on average for retraining whatever the attack and whatever the sets: both models are then draws of one law
("zero grounding"). An attack on a single split does not have this property (audits.md 3.4, A9).

Score direction: higher = more like a trained-on example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.roc import check_share
from unlearnkit.result import Interval, UsageError

_BLOCK = 1 << 21  # numbers shuffled at once: 16 MiB


@dataclass(frozen=True)
class SwapResult:
    """What the pairs say. Never NaN or infinite.

    advantage: mean over pairs of AUC_m(F over T) + AUC_m'(T over F) − 1, in [−1, 1], with t limits over pairs (None
    where there is one pair, or all agree to the last bit). For an attack that says yes or no it is the paper's Adv
    before the absolute value. Negative: deleted examples look *less* like members than unseen ones.
    p: permutation p-value, two-sided, of "the coins that dealt F and T do not show"; exact for retraining.
    quality: Q = 1 − |advantage|. quality_low: the same at the limit that is farther from 0, None where there is none.
    """

    advantage: Interval
    p: float
    quality: float
    quality_low: float | None
    pairs: int


def swap_test(
    scores: NDArray[np.float64],
    forget: NDArray[np.bool_],
    *,
    permutations: int = 9999,
    confidence: float = 0.95,
    seed: int,
) -> SwapResult:
    """Test scores [pair, 2, point] of the pool under both models; forget [pair, point]: what the first one forgot.

    The permutation deals F and T anew inside each pair, for both models at once: where both are draws of one law that
    does not depend on the deal, all deals are equally likely. p = (1 + #{deals at least as far from 0}) /
    (permutations + 1), with ranks compared as integers. It needs the deal to be a fair coin's; the t limits take pairs
    to be independent, and their mean to be normal.

    Raises UsageError for arrays that do not fit, scores that are not finite, or halves that are not halves.
    """
    scores, forget = np.asarray(scores, dtype=np.float64), np.asarray(forget)
    if scores.ndim != 3 or scores.shape[1] != 2 or forget.shape != (scores.shape[0], scores.shape[2]):
        raise UsageError(
            "swap test: needs scores [pair, 2, point] and the forgotten half [pair, point], got "
            f"{list(scores.shape)} and {list(forget.shape)}"
        )
    if not scores.size:
        raise UsageError("swap test: needs one pair of models and two points at least, got none")
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise UsageError(f"swap test: every score must be finite, got {bad} that are not")
    counts, points = np.count_nonzero(forget, axis=1), forget.shape[1]
    if (2 * counts != points).any():
        worst = int(np.flatnonzero(2 * counts != points)[0])
        raise UsageError(
            f"swap test: half of each pool is forgotten by the first model, got {counts[worst]} of {points} in pair "
            f"{worst}"
        )
    if permutations < 1:
        raise UsageError(f"swap test: permutations must be at least 1, got {permutations}; 9999 resolves p = 0.0001")
    check_share("confidence", confidence)
    # AUC_m(F over T) - AUC_m'(F over T) is linear in the difference of ranks; twice a midrank is an integer.
    doubled = np.rint(2 * stats.rankdata(scores, axis=2)).astype(np.int64)
    moved = doubled[:, 0] - doubled[:, 1]  # sums to 0 over each pool
    half = points // 2
    sums = np.where(forget, moved, 0).sum(axis=1)
    advantages = sums / (2 * half * half)
    value, low, high = float(advantages.mean()), None, None
    error = float(advantages.std(ddof=1)) / len(advantages) ** 0.5 if len(advantages) > 1 else 0.0
    if error > 0:
        reach = float(stats.t.ppf((1 + confidence) / 2, len(advantages) - 1)) * error
        low, high = max(-1.0, value - reach), min(1.0, value + reach)
    return SwapResult(
        advantage=Interval(low, value, high, confidence),
        p=_permutation_p(moved, abs(int(sums.sum())), permutations, np.random.default_rng(seed)),
        quality=1 - abs(value),
        quality_low=None if low is None or high is None else 1 - max(abs(low), abs(high)),
        pairs=len(advantages),
    )


def _permutation_p(moved: NDArray[np.int64], observed: int, permutations: int, rng: np.random.Generator) -> float:
    half = moved.shape[1] // 2
    extreme, done, rows = 0, 0, max(1, _BLOCK // moved.shape[1])
    while done < permutations:
        block = min(rows, permutations - done)
        total = np.zeros(block, dtype=np.int64)
        for pair in moved:
            total += rng.permuted(np.tile(pair, (block, 1)), axis=1)[:, :half].sum(axis=1)
        extreme += int(np.count_nonzero(np.abs(total) >= observed))
        done += block
    return (1 + extreme) / (permutations + 1)
