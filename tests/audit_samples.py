"""Synthetic evidence with a known truth, drawn in milliseconds: what an audit of a simulated model would have seen."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path
from typing import Any

from sample_result import sample
from scipy import stats

from unlearnkit.audits.battery import BATTERY, judge
from unlearnkit.audits.case import seeds_of
from unlearnkit.audits.designs import Plan
from unlearnkit.audits.evidence import SWAP, TREATED, UNTRAINED, Evidence, Group
from unlearnkit.audits.gathering import curves
from unlearnkit.audits.records import captions, method_stated
from unlearnkit.audits.registration import register
from unlearnkit.audits.simulate import ATTACK, simulate, simulate_class, standard_plan
from unlearnkit.audits.spec import parse_spec
from unlearnkit.result import SCHEMA, AuditResult, OracleRecord
from unlearnkit.result import Evidence as Record
from unlearnkit.store import Store

# The names by which the tests know them.
plan, evidence, class_evidence = standard_plan, simulate, simulate_class
__all__ = ["ATTACK", "class_evidence", "evidence", "plan", "registered", "result_of", "within_binomial"]


def within_binomial(count: int, runs: int, share: float) -> bool:
    """Whether `count` of `runs` is not above what chance gives once in a thousand at the stated share."""
    return count <= int(stats.binom.isf(0.001, runs, share))


def registered(made: Evidence, missing: int = 0) -> dict[str, Any]:
    """The models that an audit with this evidence would have registered; `missing` oracles of them failed."""
    ensemble, swapped = ([] if part is None else part for part in (made.ensemble, made.swapped))
    oracles = made.oracles + missing + 1 if made.oracles else 0
    counts = {"original": 1, "audited": 1, "oracles": oracles, "ensemble": len(ensemble)}
    counts |= {name: values.size for name, values in made.readings.items()}
    counts |= {f"{name}/original": 1 for name in (TREATED, UNTRAINED) if name in made.told}
    counts |= {f"{SWAP}/pairs": 2 * len(swapped)} if len(swapped) else {}
    return {name: ["a" * 64] * count for name, count in counts.items()}


def result_of(
    made: Evidence, fixed: Plan, *, missing: tuple[str, ...] = (), models: dict[str, Any] | None = None
) -> tuple[AuditResult, bytes]:
    """The result file that an audit with this evidence would have written, and its sidecar.

    missing: oracles that were asked for too, and failed. models: those that were registered; left out, the ones that
    this evidence was read off.
    """
    classes = sample("fail").result.data.classes
    fixed = dataclasses.replace(fixed, oracles=made.oracles + len(missing), classes=classes, groups=made.group_names)
    made = dataclasses.replace(made, curves=curves(made))
    sidecar, judged = made.to_bytes(), judge(made, fixed)
    heads, tails = made.rows(Group.HEADS).size, made.rows(Group.TAILS).size
    base = sample("fail").result
    assert base.canaries is not None
    request = dataclasses.replace(
        base.request, kind=fixed.kind, forget=made.rows(Group.REQUESTED).size + heads, canaries=heads
    )
    canaries = dataclasses.replace(base.canaries, heads=heads, tails=tails) if heads else None
    sections = {  # defaults left out: verify fills them in
        "canaries": {"manifest": "canaries.json"},
        "deletion": {"id": request.id},
        "method": {"name": "SalUn", "epochs": 3},
        "audit": {"oracles": fixed.oracles, "seed": fixed.seed},
    }
    spec = parse_spec(sections, folder=Path())
    lost = [name.partition(":")[0] for name in missing]
    seeds = seeds_of(spec, "oracle", fixed.oracles + 1)
    seeds = [seed for i, seed in enumerate(seeds) if f"oracle {i + 1}" not in lost]
    with tempfile.TemporaryDirectory() as folder:
        registration = register(
            Store(folder),
            fixed,
            request=request,
            data=base.data,
            canaries=canaries,
            models=registered(made, len(missing)) if models is None else models,
            groups=made.answer_group,
            stress=None if made.stress is None else made.stress.document,
        )
    result = dataclasses.replace(
        base,
        schema=SCHEMA,
        battery=BATTERY,
        spec=sections,
        tier=fixed.tier,
        significance=fixed.significance,
        power=fixed.power,
        seed=fixed.seed,
        request=request,
        model=dataclasses.replace(base.model, recipe=dataclasses.asdict(spec.recipe)),
        method=dataclasses.replace(method_stated(spec), seconds=base.method.seconds),
        oracles=OracleRecord(made.oracles, tuple(seeds[:-1]), 1.5, seeds[-1], missing) if made.oracles else None,
        canaries=canaries,
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
        registration=registration,
        privacy=None,
    )
    return result, sidecar
