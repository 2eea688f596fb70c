"""From the result of an audit to the line of a ledger: hashes, and the reference statistics that a re-check needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unlearnkit.audits.audit import fleet_for
from unlearnkit.audits.case import Case, Demand, demand, prepare
from unlearnkit.audits.evidence import Evidence
from unlearnkit.audits.evidence import Group as Part
from unlearnkit.audits.ledger.entries import (
    AuditRef,
    Coins,
    Done,
    Entry,
    Group,
    Points,
    Reading,
    Reference,
    Relearning,
    Source,
    What,
    hashed,
    today,
)
from unlearnkit.audits.ledger.rechecks import (
    BATCH,
    LR,
    RECHECKS,
    RELEARNED,
    SHIPPED,
    SHOWN,
    STEPS,
    content,
    margins_of,
    reading_of,
    relearned,
    rounded,
    statistics,
)
from unlearnkit.audits.spec import Spec, parse_spec
from unlearnkit.audits.statistics.sampling import exactly
from unlearnkit.audits.subjects import oracle_jobs
from unlearnkit.result import AuditResult, UsageError, evidence_path
from unlearnkit.store import Store, canonical
from unlearnkit.types import Examples

MOST_POINTS = 200  # of a group: so many examples are looked at again
FEWEST_UNSEEN = 20  # held-out examples of a class from which they are the ones to relearn


@dataclass(frozen=True, eq=False)
class _Group:
    """One group of points: where they stand in the evidence, and the examples, where the data are at hand."""

    name: Group
    columns: NDArray[np.int64]  # positions among the evidence's points
    ids: tuple[str, ...]
    examples: Examples | None


def entry_of(
    path: Path,
    *,
    salt: str,
    folder: Path = Path(),
    store: Store | None = None,
    with_data: bool = True,
    day: str | None = None,
    note: str = "",
) -> Entry:
    """The line `audited` for an audit.json and its evidence.

    folder: where the paths of the audit's spec start. store: where the audit's oracles are kept; they are asked again
    after every treatment. with_data False: evidence only, so that nothing but the margins of the forgotten examples is
    recorded. Raises UsageError for a result that its evidence does not belong to, and for data other than the audit's.
    """
    text = _read(path)
    result = AuditResult.from_json(text, what=str(path))
    sidecar = _read(evidence_path(path, result))
    if hashlib.sha256(sidecar).hexdigest() != result.evidence.sha256:
        raise UsageError(f"{path}: its evidence {result.evidence.file!r} is not the one that the result names")
    evidence = Evidence.from_bytes(sidecar, what=str(path))
    request = result.request
    case = _case(path, result, folder) if with_data else None
    requested = evidence.ids
    return Entry(
        id=request.id,
        state="audited",
        date=day or result.environment.started[:10] or today(),
        what=What(
            request.kind,
            request.forget_class,
            request.class_name,
            request.forget,
            salt,
            hashed(salt, requested) if request.kind == "examples" else (),
        ),
        method=Done(result.method.name, hashlib.sha256(canonical(asdict(result.method)).encode()).hexdigest()),
        audit=AuditRef(
            hashlib.sha256(text).hexdigest(),
            result.evidence.sha256,
            result.verdict.word,
            result.battery,
            result.tier,
            result.claim,
            result.significance,
            result.power,
            result.seed,
        ),
        reference=_reference(result, evidence, case, salt, store),
        canaries=None
        if result.canaries is None or not request.canaries
        else Coins(result.canaries.heads, result.canaries.tails, result.canaries.commitment),
        model_sha256=result.model.audited_sha256,
        note=note,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; name the audit.json that 'unlearnkit audit' wrote") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder; name the audit.json in it") from error


def _spec(result: AuditResult, folder: Path) -> Spec:
    sections = {name: values for name, values in result.spec.items() if values is not None}
    return parse_spec(sections, folder=folder, what="the audit's spec")


def _case(path: Path, result: AuditResult, folder: Path) -> Case:
    """The audit's data, with its canaries planted."""
    spec = _spec(result, folder)
    sealed = path.parent / "canaries.json"
    drawn = spec.canaries.count and spec.canaries.seed is None and spec.canaries.manifest is None
    if drawn and not sealed.exists():
        raise UsageError(f"{sealed}: the canaries of this audit must lie beside it; or add it with --evidence-only")
    case = prepare(spec, sealed=sealed if drawn else None)
    if case.train.fingerprint != result.data.fingerprint:
        raise UsageError(
            f"{path}: {result.data.source!r} holds other training data than the audit saw; name the folder of its spec "
            "with --folder, or add it with --evidence-only"
        )
    return case


def _reference(result: AuditResult, evidence: Evidence, case: Case | None, salt: str, store: Store | None) -> Reference:
    said = _spec(result, Path())
    groups = _groups(result, evidence, case)
    readings: list[Reading] = []
    relearning: Relearning | None = None
    missing: dict[str, str] = {}
    if not evidence.oracles:
        missing = dict.fromkeys([*RECHECKS, RELEARNED], "the audit retrained no model to compare with")
    else:
        readings = [_shipped(group, evidence) for group in groups]
        models, why = _oracles(result, case, store)
        if models is None or case is None:
            missing = dict.fromkeys([*list(RECHECKS)[1:], RELEARNED], why)
        else:
            readings += _treated(groups, models)
            relearning = _how_to_relearn(result, groups)
            if relearning is None:
                missing[RELEARNED] = "there are too few examples to show some and look at others"
            else:
                readings.append(_relearned(groups, models, relearning))
    return Reference(
        architecture=said.model.architecture,
        private=said.recipe.privacy is not None,
        classes=len(result.data.classes),
        shape=tuple(result.data.shape),
        data=Source(result.data.source, said.data.root, said.data.test_fraction, said.data.seed),
        tolerances={name: float(value) for name, value in result.tolerances.items()},
        points=tuple(
            Points(
                group.name, hashed(salt, group.ids), None if group.examples is None else content(salt, group.examples)
            )
            for group in groups
        ),
        readings=tuple(readings),
        relearning=relearning,
        missing=missing,
    )


def _groups(result: AuditResult, evidence: Evidence, case: Case | None) -> list[_Group]:
    """The forgotten examples and, of a class, held-out ones. Evidence by itself names the forgotten ones only."""
    forgotten = evidence.rows(Part.REQUESTED)
    wanted: Demand | None = None
    if case is not None:
        wanted = demand(case)
        if tuple(case.train.ids[wanted.requested].tolist()) != evidence.ids:
            raise UsageError(f"{result.request.id}: the spec asks for other examples than the evidence speaks of")
    groups = []
    if evidence.ids:
        chosen = exactly(np.arange(forgotten.size), MOST_POINTS)
        examples = None if case is None or wanted is None else case.train.take(wanted.requested[chosen])
        ids = tuple(evidence.ids[row] for row in chosen)
        groups.append(_Group("forgotten", forgotten[chosen], ids, examples))
    unseen = evidence.rows(Part.TWINS)
    if case is not None and wanted is not None and result.request.kind == "class" and unseen.size:
        if unseen.size != wanted.twins.size:
            raise UsageError(f"{result.request.id}: the spec gives other held-out examples than the evidence holds")
        chosen = exactly(np.arange(unseen.size), MOST_POINTS)
        examples = case.dataset.test.take(wanted.twins[chosen])
        groups.append(_Group("unseen", unseen[chosen], tuple(examples.ids.tolist()), examples))
    if not groups:
        raise UsageError(f"{result.request.id}: the evidence names no examples; add the audit with its data")
    return groups


def _shipped(group: _Group, evidence: Evidence) -> Reading:
    """The oracles as they are, from the evidence; the original beside them, to know what could be noticed."""
    oracles = evidence.margins["oracles"][:, group.columns]
    return reading_of(SHIPPED, group.name, oracles, statistics(evidence.margins["original"][group.columns]))


def _oracles(result: AuditResult, case: Case | None, store: Store | None) -> tuple[list[nn.Module] | None, str]:
    """The retrained models, in the order of the evidence, or why they cannot be asked again."""
    if case is None:
        return None, "the entry was written from the evidence only, without the data"
    if store is None:
        return None, "the entry was written without the store of the audit's oracles"
    assert result.oracles is not None
    fleet = fleet_for(case, store)
    jobs = {job.seed: job for job in oracle_jobs(case, demand(case))}
    keys = {seed: fleet.key(jobs[seed]) for seed in result.oracles.seeds if seed in jobs}
    there = store.holding(keys.values())
    if len(there) < len(result.oracles.seeds):
        lacking = len(result.oracles.seeds) - len(there)
        return (
            None,
            f"{lacking} of {len(result.oracles.seeds)} oracles were not in the store when the entry was written",
        )
    return [fleet.read(jobs[seed]) for seed in result.oracles.seeds], ""


def _treated(groups: Sequence[_Group], models: Sequence[nn.Module]) -> list[Reading]:
    readings = []
    for name, treat in list(RECHECKS.items())[1:]:
        treated = [treat(model) for model in models]
        for group in groups:
            assert group.examples is not None
            margins = np.stack([margins_of(model, group.examples) for model in treated])
            readings.append(reading_of(name, group.name, margins))
    return readings


def _how_to_relearn(result: AuditResult, groups: Sequence[_Group]) -> Relearning | None:
    """Held-out examples of the class where there are enough: the forgotten ones should be gone when it is checked."""
    chosen = groups[-1] if len(groups[-1].ids) >= FEWEST_UNSEEN else groups[0]
    count = len(chosen.ids)
    shown = min(SHOWN, count // 2)
    return Relearning(chosen.name, shown, STEPS, LR, BATCH, result.seed) if shown else None


def _relearned(groups: Sequence[_Group], models: Sequence[nn.Module], how: Relearning) -> Reading:
    group = next(group for group in groups if group.name == how.group)
    assert group.examples is not None
    values = tuple(rounded(relearned(model, group.examples, how)) for model in models)
    return Reading(RELEARNED, how.group, 1.0, {"accuracy": values}, None)
