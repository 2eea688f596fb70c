"""The coin test again, on what becomes of a model in use: weights rounded to few bits, the smallest ones removed.

Changes smaller than a step of the rounding vanish, and with them, perhaps, the deletion (audits.md 6; 12, S6). The
scores are standardized by the oracles as they are, not by compressed ones: which points were trained on was tossed, so
any score of a point keeps the test exact, and no further model has to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unlearnkit.audits.designs import Plan, coin_design
from unlearnkit.audits.evidence import Evidence, FloatArray
from unlearnkit.audits.findings import rounded
from unlearnkit.audits.statistics.coin import CoinResult
from unlearnkit.audits.statistics.multiplicity import holm
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.result import Comparison, Interval, UsageError
from unlearnkit.treatments import COMPRESSED
from unlearnkit.types import Attack, Observation


@dataclass(frozen=True)
class Compressed:
    """One compressed copy of the audited model. p_adjusted: by Holm, over all copies."""

    told: str
    coin: CoinResult
    p_adjusted: float
    original: float  # AUC of the original, compressed likewise


def compressed(evidence: Evidence, plan: Plan, attack: Attack, *, permutations: int = 9999) -> tuple[Compressed, ...]:
    """The coin test of every compressed copy in the evidence. attack: what scores the points where no oracle is."""
    design = coin_design(evidence)
    if design is None or not evidence.treated:
        return ()
    rows = design.rows(evidence)
    if not np.array_equal(rows, evidence.treated_points):
        raise UsageError("evidence: treated_points must be those that the coin test compares, members first")

    def scores(name: str) -> FloatArray:
        margins = evidence.treated[name]
        if evidence.oracles:
            return design.standardized(margins, evidence)
        return attack.score(Observation(rows.astype(str), evidence.label[rows], margins[:, None])).values

    heads = design.heads(evidence)
    several = [scores(f"{name}/audited") for name in COMPRESSED]
    coins = design.tests(several, evidence, plan, permutations=permutations)
    adjusted = holm(np.array([coin.p for coin in coins])).tolist()
    originals = (scores(f"{name}/original") for name in COMPRESSED)
    areas = [auc(part[heads], part[~heads]) for part in originals]
    return tuple(
        Compressed(_told(name), coin, p, area)
        for name, coin, p, area in zip(COMPRESSED, coins, adjusted, areas, strict=True)
    )


def compressed_rows(evidence: Evidence, copies: Sequence[Compressed]) -> tuple[Comparison, ...]:
    """What they say, beside chance."""
    design = coin_design(evidence)
    if design is None:
        return ()
    compared, assumed = "Deleted canaries over never-used ones", "The coins were tossed, so that p is exact"
    if not design.exact:
        compared, assumed = "Requested over held-out examples", "p takes both to be exchangeable"
    elif evidence.oracles:
        assumed += ", though the oracles, which standardize the scores, were not compressed"
    copied = f"adjusted for {len(copies)} compressed copies"
    return tuple(
        rounded(
            Comparison(
                f"{design.name}, {copy.told}",
                "AUC",
                copy.coin.auc.value,
                Interval(None, 0.5, None),
                copy.coin.p,
                copy.original,
                f"{compared}, beside chance; {copied} p = {copy.p_adjusted:.2g}."
                + f" {assumed}." * (copy is copies[0]),
            )
        )
        for copy in copies
    )


def _told(treatment: str) -> str:
    """ "4 bits" and "10 % pruned", in a row's name."""
    share, pruned, _ = treatment.partition(" % pruned")
    return f"{share}\u00a0% of the weights pruned" if pruned else f"weights rounded to {treatment}"
