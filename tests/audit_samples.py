"""Synthetic evidence with a known truth, drawn in milliseconds: what an audit of a simulated model would have seen."""

from __future__ import annotations

import dataclasses
import hashlib

from sample_result import sample
from scipy import stats

from unlearnkit.audits.battery import BATTERY, judge
from unlearnkit.audits.designs import Plan
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.gathering import curves
from unlearnkit.audits.records import captions
from unlearnkit.audits.simulate import ATTACK, simulate, simulate_class, standard_plan
from unlearnkit.result import SCHEMA, AuditResult, OracleRecord
from unlearnkit.result import Evidence as Record

# The names by which the tests know them.
plan, evidence, class_evidence = standard_plan, simulate, simulate_class
__all__ = ["ATTACK", "class_evidence", "evidence", "plan", "result_of", "within_binomial"]


def within_binomial(count: int, runs: int, share: float) -> bool:
    """Whether `count` of `runs` is not above what chance gives once in a thousand at the stated share."""
    return count <= int(stats.binom.isf(0.001, runs, share))


def result_of(made: Evidence, fixed: Plan, *, missing: tuple[str, ...] = ()) -> tuple[AuditResult, bytes]:
    """The result file that an audit with this evidence would have written, and its sidecar.

    missing: oracles that were asked for too, and failed.
    """
    fixed = dataclasses.replace(fixed, oracles=made.oracles + len(missing))
    made = dataclasses.replace(made, curves=curves(made))
    sidecar, judged = made.to_bytes(), judge(made, fixed)
    heads, tails = made.rows(Group.HEADS).size, made.rows(Group.TAILS).size
    base = sample("fail").result
    assert base.canaries is not None
    seeds = tuple(range(made.oracles))
    result = dataclasses.replace(
        base,
        schema=SCHEMA,
        battery=BATTERY,
        spec={**base.spec, "audit": {"oracles": fixed.oracles}},
        tier=fixed.tier,
        significance=fixed.significance,
        power=fixed.power,
        seed=fixed.seed,
        request=dataclasses.replace(
            base.request, kind=fixed.kind, forget=made.rows(Group.REQUESTED).size + heads, canaries=heads
        ),
        oracles=OracleRecord(made.oracles, seeds, 1.5, made.oracles, missing) if made.oracles else None,
        canaries=dataclasses.replace(base.canaries, heads=heads, tails=tails) if heads else None,
        tolerances=dataclasses.asdict(fixed.tolerances),
        accuracy=judged.accuracy,
        tests=judged.tests,
        controls=judged.controls,
        flags=judged.flags,
        verdict=judged.verdict,
        captions=captions(made),
        evidence=Record("evidence.safetensors", hashlib.sha256(sidecar).hexdigest()),
        claim=fixed.claim,
        nonstandard=judged.nonstandard,
        comparisons=judged.comparisons,
        individuals=judged.individuals,
        collateral=judged.collateral,
        by_group=judged.by_group,
        stress=judged.stress,
        registration=None,
        privacy=None,
    )
    return result, sidecar
