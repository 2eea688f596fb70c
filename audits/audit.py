"""audit(): from a spec to an AuditResult – prepare the data, make the models, gather evidence, judge."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import unlearnkit
from unlearnkit.audits.battery import ATTACKS, BATTERY, judge
from unlearnkit.audits.case import Case, Demand, demand, prepare
from unlearnkit.audits.designs import Plan
from unlearnkit.audits.evidence import SWAP
from unlearnkit.audits.gathering import Looks, answered, gather, looks, make
from unlearnkit.audits.records import (
    canary_record,
    captions,
    data_record,
    method_record,
    model_record,
    oracle_record,
    privacy_record,
    request_record,
)
from unlearnkit.audits.registration import late, register
from unlearnkit.audits.spec import Spec
from unlearnkit.audits.subjects import Models, asked_oracles, models_of
from unlearnkit.audits.worst_case.stress import Stress, ask_stress, plan_stress
from unlearnkit.fleet import Fleet, Watch
from unlearnkit.result import (
    SCHEMA,
    AuditResult,
    Environment,
)
from unlearnkit.result import Evidence as EvidenceRecord
from unlearnkit.store import Store, write_atomic


def plan_of(case: Case, wanted: Demand, groups: tuple[str, ...] = ()) -> Plan:
    """What is fixed before any score is computed."""
    settings = case.spec.audit
    return Plan(
        kind=wanted.kind,
        tier=settings.tier,
        tolerances=settings.tolerances,
        significance=settings.significance,
        power=settings.power,
        seed=settings.seed,
        attack=ATTACKS[0].name,
        oracles=asked_oracles(case.spec),
        claim=settings.claim,
        classes=case.dataset.classes,
        groups=groups,
    )


def fleet_for(
    case: Case, store: Store, *, engine: str = "local", fresh: bool = False, watch: Watch | None = None
) -> Fleet:
    """The fleet that makes a case's models."""
    return Fleet(case.sets, store, device=case.spec.audit.device, engine=engine, fresh=fresh, watch=watch)


def audit(
    spec: Spec,
    fleet: Fleet,
    *,
    command: str,
    case: Case | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[AuditResult, bytes]:
    """The whole way: data, models, evidence, verdict. Returns the result and its evidence sidecar's bytes.

    `case`: the prepared spec, where the caller has it already. say: is told before anything is trained what tier
    `hours` takes. Interrupted, the next call goes on from the store.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    case = case or prepare(spec)
    store = fleet.store
    wanted = demand(case)
    models = models_of(case, wanted, store)
    looked = looks(case, wanted, models)
    plan = plan_of(case, wanted, looked.groups.names)
    request, data, canaries = request_record(case, wanted), data_record(case), canary_record(case, wanted)
    keys = {name: [fleet.key(job) for job in group] for name, group in looked.asked.items()}
    stress = plan_stress(case, wanted, fleet, models.original)
    registration = register(
        store,
        plan,
        request=request,
        data=data,
        canaries=canaries,
        models=keys,
        groups=looked.groups.number,
        stress=None if stress is None else stress.document,
    )
    if say is not None:
        for sentence in _cost(models, looked, stress):
            say(sentence)
    made = make(fleet, looked)
    there = {name: [one.key for one in group if not one.fault] for name, group in made.items()}
    read, left_out = answered(made, looked)
    seen = {name: there[name] for name in looked.jobs}
    evidence = gather(looked, (*wanted.notes, *looked.groups.notes, *looked.notes, *left_out), store, seen, read)
    if stress is not None:
        evidence = replace(evidence, stress=ask_stress(stress))
    sidecar = evidence.to_bytes()
    judgement = judge(evidence, plan)
    record = oracle_record(fleet, models, made["oracles"]) if models.oracles else None
    result = AuditResult(
        schema=SCHEMA,
        battery=BATTERY,
        tier=spec.audit.tier,
        significance=spec.audit.significance,
        power=spec.audit.power,
        seed=spec.audit.seed,
        organization=spec.report.organization,
        command=command,
        spec=spec.plain(),
        request=request,
        data=data,
        model=model_record(case, fleet, models),
        method=method_record(case, fleet, models),
        oracles=record,
        canaries=canaries,
        tolerances=dataclasses.asdict(spec.audit.tolerances),
        accuracy=judgement.accuracy,
        tests=judgement.tests,
        controls=judgement.controls,
        flags=(*late(registration), *judgement.flags),
        verdict=judgement.verdict,
        captions=captions(evidence),
        evidence=EvidenceRecord("evidence.safetensors", hashlib.sha256(sidecar).hexdigest()),
        environment=Environment(
            unlearnkit=unlearnkit.__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
            platform=platform.platform(terse=True),
            device=spec.audit.device,
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - clock, 3),
        ),
        claim=plan.claim,
        nonstandard=judgement.nonstandard,
        registration=registration,
        comparisons=judgement.comparisons,
        individuals=judgement.individuals,
        collateral=judgement.collateral,
        by_group=judgement.by_group,
        stress=judgement.stress,
        privacy=privacy_record(case, evidence, plan),
    )
    return result, sidecar


def _cost(models: Models, looked: Looks, stress: Stress | None) -> list[str]:
    """What tier `hours` takes, in sentences; nothing of the other tiers."""
    if stress is None:
        return []
    count, swapped = len(models.ensemble), len(looked.further.get(f"{SWAP}/pairs", ()))
    return [
        f"{len(models.oracles)} retrainings, {count} further originals and {count} unlearnings of them",
        *([f"{SWAP}: {swapped} trainings and as many unlearnings"] if swapped else []),
        stress.cost,
    ]


def save_audit(folder: Path, result: AuditResult, sidecar: bytes) -> Path:
    """Write the sidecar, then the result that names its hash; returns the path of audit.json."""
    write_atomic(folder / result.evidence.file, sidecar)
    path = folder / "audit.json"
    write_atomic(path, result.to_json().encode())
    return path
