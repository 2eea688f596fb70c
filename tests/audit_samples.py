"""Synthetic evidence with a known truth, drawn in milliseconds: what an audit of a simulated model would have seen."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sample_result import sample
from scipy import stats

from unlearnkit.audits.audit import _curves
from unlearnkit.audits.battery import BATTERY, judge
from unlearnkit.audits.designs import Plan, Tolerances
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.result import AuditResult, OracleRecord
from unlearnkit.result import Evidence as Record

Array = NDArray[np.float64]
ATTACK = "Threshold"


def plan(**changes: Any) -> Plan:
    """The default plan for a request of examples."""
    standard = Plan(
        kind="examples",
        tier="minutes",
        tolerances=Tolerances(),
        significance=0.05,
        power=0.8,
        seed=0,
        attack=ATTACK,
    )
    return dataclasses.replace(standard, **changes)


def evidence(
    seed: int = 0,
    *,
    oracles: int = 39,
    requested: int = 120,
    canaries: int = 100,
    twins: int = 120,
    trace: float = 2.5,
    trace_canaries: float | None = None,
    leak: float = 0.0,
    leak_canaries: float = 0.0,
    leak_twins: float = 0.0,
    held_out: float = 0.0,
    common: float = 0.15,
    level: float = 3.0,
    law: Literal["normal", "t3"] = "normal",
) -> Evidence:
    """Margins = difficulty of the point + a shift of the whole model (sd `common`) + noise (sd 1).

    trace: what the original's margins gain on the points it was trained on; leak: what the audited model kept of it.
    `oracles=0`: tier "seconds". `canaries`: on each side.
    """
    rng = np.random.default_rng([seed, 0x7E57])
    group = np.repeat(
        np.array([Group.REQUESTED, Group.HEADS, Group.TWINS, Group.TAILS], dtype=np.uint8),
        [requested, canaries, twins, canaries],
    )
    hardness = level + rng.normal(0, 1.5, group.size)

    def draw(*models: int) -> Array:
        noise = rng.standard_normal if law == "normal" else lambda shape: rng.standard_t(3, shape)
        return np.asarray(hardness + common * noise((*models, 1)) + noise((*models, group.size)))

    asked, heads = group == Group.REQUESTED, group == Group.HEADS
    extra = trace if trace_canaries is None else trace_canaries
    margins = {"original": draw() + trace * asked + extra * heads}
    margins["audited"] = draw() + leak * asked + leak_canaries * heads + leak_twins * (group == Group.TWINS)
    if oracles:
        margins["held_out"] = draw() + held_out
        margins["oracles"] = draw(oracles)
    correct: dict[str, NDArray[np.int64]] = {}
    for name, values in margins.items():
        right = np.atleast_2d(values) > 0
        correct[f"{name}/forget"] = np.count_nonzero(right[:, asked], axis=1)
        if canaries:
            correct[f"{name}/canaries"] = np.count_nonzero(right[:, heads], axis=1)
        correct[f"{name}/retain"] = np.full(len(right), 970)
        correct[f"{name}/test"] = np.full(len(right), 281)
    sizes = {"forget": requested, "retain": 1000, "test": 300} | ({"canaries": canaries} if canaries else {})
    scores = {f"{ATTACK}/{name}": values.copy() for name, values in margins.items()}
    return Evidence(group, np.zeros(group.size, dtype=np.int64), margins, scores, correct, sizes, {})


def class_evidence(seed: int = 0, *, known: float = 0.0, trace: float = 9.0, **changes: Any) -> Evidence:
    """A class forgotten: retrained models do not know it (margins far below 0); `known` lifts the audited model."""
    settings: dict[str, Any] = {"canaries": 0, "requested": 150, "twins": 40, "level": -6.0, "common": 0.4}
    return evidence(seed, trace=trace, leak=known, leak_twins=known, **(settings | changes))


def within_binomial(count: int, runs: int, share: float) -> bool:
    """Whether `count` of `runs` is not above what chance gives once in a thousand at the stated share."""
    return count <= int(stats.binom.isf(0.001, runs, share))


def result_of(made: Evidence, fixed: Plan) -> tuple[AuditResult, bytes]:
    """The result file that an audit with this evidence would have written, and its sidecar."""
    made = dataclasses.replace(made, curves=_curves(made))
    sidecar, judged = made.to_bytes(), judge(made, fixed)
    heads, tails = made.rows(Group.HEADS).size, made.rows(Group.TAILS).size
    base = sample("fail").result
    assert base.canaries is not None
    result = dataclasses.replace(
        base,
        battery=BATTERY,
        tier=fixed.tier,
        significance=fixed.significance,
        power=fixed.power,
        seed=fixed.seed,
        request=dataclasses.replace(
            base.request, kind=fixed.kind, forget=made.rows(Group.REQUESTED).size + heads, canaries=heads
        ),
        oracles=OracleRecord(made.oracles, tuple(range(made.oracles)), 1.5, made.oracles) if made.oracles else None,
        canaries=dataclasses.replace(base.canaries, heads=heads, tails=tails) if heads else None,
        tolerances=dataclasses.asdict(fixed.tolerances),
        accuracy=judged.accuracy,
        tests=judged.tests,
        controls=judged.controls,
        flags=judged.flags,
        verdict=judged.verdict,
        evidence=Record("evidence.safetensors", hashlib.sha256(sidecar).hexdigest()),
    )
    return result, sidecar
