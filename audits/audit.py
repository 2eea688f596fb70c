"""audit(): from a spec to an AuditResult – prepare the data, make the models, gather evidence, judge."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import unlearnkit
from unlearnkit.audits.battery import ATTACKS, BATTERY, ORACLES, PROBED, PROBES, judge, legacy
from unlearnkit.audits.case import Case, Demand, demand, method_of, prepare
from unlearnkit.audits.designs import Plan, coin_design, coin_design_of
from unlearnkit.audits.evidence import SWAP, TREATED, UNTRAINED, Evidence, FloatArray, Group, envelope
from unlearnkit.audits.findings import measured_epsilon
from unlearnkit.audits.groups import Groups, held_out_groups
from unlearnkit.audits.rank import oracles_needed
from unlearnkit.audits.registration import register
from unlearnkit.audits.resurrection import LEAST_ORACLES
from unlearnkit.audits.roc import roc
from unlearnkit.audits.sampling import evenly, in_groups
from unlearnkit.audits.spec import Spec
from unlearnkit.audits.stress import Stress, ask_stress, plan_stress
from unlearnkit.audits.swapping import swap_jobs
from unlearnkit.fleet import Fleet, Watch
from unlearnkit.jobs import GivenModel, Job, Made, ModelJob, ObserveJob, Points, ProbeJob, TrainJob, UnlearnJob
from unlearnkit.models import build, load_state, pack, read_metadata, read_state
from unlearnkit.observing import margin
from unlearnkit.result import (
    SCHEMA,
    AuditResult,
    CanaryRecord,
    DataRecord,
    Environment,
    Flag,
    MethodRecord,
    ModelRecord,
    OracleRecord,
    PrivacyRecord,
    Request,
    UsageError,
)
from unlearnkit.result import Evidence as EvidenceRecord
from unlearnkit.store import Store, content_key, sha256_file, write_atomic
from unlearnkit.treatments import COMPRESSED, DRAWN_ANEW
from unlearnkit.types import Method, Observation, Probe

MOST_OUTPUTS = 200  # requested examples whose whole output is kept as evidence
MOST_BESIDE = 500  # retained, and held-out, examples whose margins are
SWAP_PAIRS, LEAST_SWAPPED = 3, 20  # pairs of models that trade places, and examples that must be there to be dealt
_NOBODY: NDArray[np.int64] = np.empty(0, dtype=np.int64)


def asked_oracles(spec: Spec) -> int:
    """How many retrained references an audit asks for: the spec's number, or the standard of its tier."""
    tier, given = spec.audit.tier, spec.audit.oracles
    standard = ORACLES[tier]
    if tier == "seconds":
        return 0
    count = standard if given is None else given
    least = standard if tier == "hours" else oracles_needed(significance=spec.audit.significance)
    if count < least:
        why = "for scores of many models" if tier == "hours" else f"to reach significance {spec.audit.significance:g}"
        cheaper = "tier 'minutes'" if tier == "hours" else "tier 'seconds'"
        twice = " and as many unlearnings" if tier == "hours" else ""
        raise UsageError(
            f"audit.oracles: tier {tier!r} needs at least {least} retrained models {why}, got {count}; raise it "
            f"({least - count} more trainings{twice}), or use {cheaper}"
        )
    return count


def oracle_jobs(case: Case, wanted: Demand) -> list[TrainJob]:
    """Retrainings without the forget set by the same recipe; the last one is held out as a control."""
    count = asked_oracles(case.spec)
    seeds = case.seeds("oracle", count + 1) if count else []
    return [TrainJob(f"oracle {j + 1}", case.recipe, seed, wanted.retain) for j, seed in enumerate(seeds)]


def ensemble_jobs(case: Case, wanted: Demand) -> list[UnlearnJob]:
    """Tier `hours`: the deletion carried out on as many originals, trained anew, as there are oracles."""
    if case.spec.audit.tier != "hours":
        return []
    method = method_of(case)
    if method is None:
        raise UsageError(
            "audit.tier: 'hours' repeats the deletion on many originals and needs a method in [method]; take 'minutes'"
        )
    count = asked_oracles(case.spec)
    starts, seeds = case.seeds("ensemble original", count), case.seeds("ensemble unlearn", count)
    return [
        replace(
            unlearn_job(case, wanted, TrainJob(f"original {j + 1}", case.recipe, start, case.trained), method),
            name=f"unlearned {j + 1}",
            seed=seed,
        )
        for j, (start, seed) in enumerate(zip(starts, seeds, strict=True))
    ]


def unlearn_job(case: Case, wanted: Demand, start: ModelJob, method: Method) -> UnlearnJob:
    """The deletion carried out on the original."""
    return UnlearnJob(
        f"unlearn with {method.name}",
        case.recipe,
        case.seeds("unlearn", 1)[0],
        start,
        method,
        wanted.forget,
        wanted.retain,
        wanted.deletion.forget_class,
        wanted.unseen,
    )


def original_job(case: Case, store: Store) -> ModelJob:
    """The original: trained by the recipe, or the user's weights taken into the store."""
    weights = case.spec.model.weights
    return case.original if weights is None else _take_in(case, store, weights, "original")


def _take_in(case: Case, store: Store, weights: str, name: str) -> GivenModel:
    """Keep a user's weights in the store under the hash of their bytes."""
    path = case.spec.path(weights)
    planted = read_metadata(path).get("canaries")
    if planted is not None and (case.manifest is None or case.manifest.commitment != planted):
        raise UsageError(
            f"{path}: this model was trained with canaries (commitment {planted[:12]}…); name the manifest that seals "
            "them in canaries.manifest"
        )
    model = build(case.recipe.architecture, seed=0)
    load_state(model, read_state(path), what=str(path), architecture=case.recipe.architecture)
    data = pack(model.state_dict(), case.recipe.architecture)
    key = content_key({"job": "given", "sha256": hashlib.sha256(data).hexdigest()})
    if key not in store:
        store.write(key, data, {"kind": "given", "name": path.name})
    return GivenModel(name, case.recipe, key)


@dataclass(frozen=True, eq=False)
class Models:
    """Everything an audit looks at."""

    original: ModelJob
    audited: ModelJob
    oracles: list[TrainJob]  # the last one is held out
    ensemble: list[UnlearnJob]


def models_of(case: Case, wanted: Demand, store: Store) -> Models:
    """The models that the spec speaks of. Weights that were handed in are read: if they do not fit, that shows now."""
    method = method_of(case)
    original = original_job(case, store)
    audited = original
    if case.spec.audit.unlearned is not None:
        audited = _take_in(case, store, case.spec.audit.unlearned, "audited")
    elif method is not None:
        audited = unlearn_job(case, wanted, original, method)
    return Models(original, audited, oracle_jobs(case, wanted), ensemble_jobs(case, wanted))


@dataclass(frozen=True, eq=False)
class Looks:
    """What every model is asked: the audit's points, then the large sets on which accuracy is measured."""

    jobs: dict[str, list[ObserveJob]]  # original, audited, oracles (the last one is held out), ensemble
    probes: dict[str, list[ProbeJob]]  # "probe/model": original, audited, oracles
    further: dict[str, list[ObserveJob]]  # "what/model": treated weights, an untrained copy, pairs that traded places
    y: NDArray[np.int64]
    ids: tuple[str, ...]  # of the requested examples
    part: dict[str, NDArray[np.int64]]  # name -> positions among the points of the jobs
    groups: Groups  # of the held-out examples whose answers are kept, part "answered"
    swap_forget: NDArray[np.bool_] | None  # what the first model of each pair forgets, [pair, requested point]
    notes: tuple[Flag, ...]  # what is not asked, and why

    @property
    def asked(self) -> dict[str, Sequence[Job]]:
        """Every job, by the name under which it is registered."""
        return {**self.jobs, **self.probes, **self.further}


def looks(case: Case, wanted: Demand, models: Models) -> Looks:
    """One observation per model over all points, so that the fleet makes model and observation in one go."""
    groups, test, beside = _groups(case, wanted)
    rows = {
        "requested": wanted.requested,
        "heads": wanted.heads,
        "tails": wanted.tails,
        "retain": evenly(wanted.retain),
        "twins": wanted.twins,
        "test": test,
        "of small groups": beside,
    }
    trained = ("requested", "heads", "tails", "retain")
    points = Points(np.concatenate([rows[name] for name in trained]), np.concatenate([rows["twins"], test, beside]))
    ends = np.cumsum([part.size for part in rows.values()])
    part = {name: np.arange(end - rows[name].size, end) for name, end in zip(rows, ends, strict=True)}
    part["answered"] = np.concatenate([part["test"], part["of small groups"]])
    y = np.concatenate([case.train.labels().numpy()[points.train], case.dataset.test.labels().numpy()[points.test]])
    jobs = {
        name: [
            ObserveJob(f"look at {job.name}", (job,), points, logits=True, keep_weights=name != "ensemble")
            for job in group
        ]
        for name, group in (
            ("original", [models.original]),
            ("audited", [models.audited]),
            ("oracles", models.oracles),
            ("ensemble", models.ensemble),
        )
    }
    label = wanted.deletion.forget_class
    unasked = part["test"] if label is None else part["test"][y[part["test"]] != label]
    part |= {"beside retained": evenly(part["retain"], MOST_BESIDE), "beside held out": evenly(unasked, MOST_BESIDE)}
    further = _treated(wanted, models)
    if models.oracles:
        asked = wanted.requested[evenly(np.arange(wanted.requested.size), MOST_OUTPUTS)]
        name = f"look at an untrained copy of {models.original.name}"
        copy = ObserveJob(name, (models.original,), Points(asked, _NOBODY), logits=True, treatments=(DRAWN_ANEW,))
        further[f"{UNTRAINED}/original"] = [copy]
    swap_forget, notes = None, tuple(Flag(f"{SWAP} left out", why) for why in _not_swapped(case, wanted))
    if not notes and (pairs := _swap_pairs(case, wanted)) is not None:
        further[f"{SWAP}/pairs"], swap_forget = pairs
    ids = tuple(case.train.ids[wanted.requested].tolist())
    return Looks(jobs, _probes(case, wanted, models), further, y, ids, part, groups, swap_forget, notes)


def _groups(case: Case, wanted: Demand) -> tuple[Groups, NDArray[np.int64], NDArray[np.int64]]:
    """The groups that the spec names, with the held-out rows that are looked at: a sample of all, and beside it more of
    groups that are small in it. Examples of the class to be forgotten are in no group.
    """
    settings, ids = case.spec.audit, case.dataset.test.ids
    labels = case.dataset.test.labels().numpy()[wanted.held_out]
    groups = held_out_groups(
        ids[wanted.held_out],
        labels != (-1 if wanted.deletion.forget_class is None else wanted.deletion.forget_class),
        pattern=settings.group_pattern,
        file=None if settings.group_file is None else case.spec.path(settings.group_file),
        known=np.concatenate([case.train.ids, ids]),
    )
    if not groups.names:
        return groups, evenly(wanted.held_out), _NOBODY
    shares, beside = in_groups(groups.number)
    number = groups.number[np.concatenate([shares, beside])]
    return replace(groups, number=number), wanted.held_out[shares], wanted.held_out[beside]


def _treated(wanted: Demand, models: Models) -> dict[str, list[ObserveJob]]:
    """The points that the coin test compares, members first, under compressed copies of original and audited model."""
    design = coin_design_of(wanted.heads.size, wanted.tails.size, oracles=len(models.oracles))
    if design is None:
        return {}
    points = Points(np.concatenate([wanted.heads, wanted.tails]), _NOBODY)
    if not design.exact:
        points = Points(wanted.requested, wanted.twins)
    return {
        f"{TREATED}/{name}": [ObserveJob(f"look at compressed {job.name}", (job,), points, treatments=COMPRESSED)]
        for name, job in (("original", models.original), ("audited", models.audited))
    }


def _not_swapped(case: Case, wanted: Demand) -> list[str]:
    """Why tier `hours` runs no SWAP test on this request; empty where it does, and of the other tiers."""
    if case.spec.audit.tier != "hours":
        return []
    if wanted.kind == "class":
        return ["It deals single examples into two halves that trade places; this request is for a whole class."]
    if (size := wanted.requested.size) < LEAST_SWAPPED:
        return [f"It needs {LEAST_SWAPPED} requested examples that are no canaries, and here are {size}."]
    return []


def _swap_pairs(case: Case, wanted: Demand) -> tuple[list[ObserveJob], NDArray[np.bool_]] | None:
    """Tier `hours`: the requested examples dealt into two halves that trade places; of an odd number the last one is
    in neither. It refuses to start without a method."""
    method, pool = method_of(case, required=False), wanted.requested[: wanted.requested.size // 2 * 2]
    if case.spec.audit.tier != "hours" or method is None:
        return None
    return swap_jobs(
        case.recipe,
        method,
        retain=wanted.retain,
        pool=pool,
        pairs=SWAP_PAIRS,
        seed=case.seeds("swap", 1)[0],
        unseen=wanted.unseen,
        keep_weights=False,
    )


def _probes(case: Case, wanted: Demand, models: Models) -> dict[str, list[ProbeJob]]:
    """The same questions, with the same seed, to the original, the audited model and some oracles."""
    oracles = models.oracles[:-1][:PROBED]
    if len(oracles) < LEAST_ORACLES:
        return {}
    [seed] = case.seeds("probe", 1)
    retain, held_out = evenly(wanted.retain), evenly(wanted.held_out)
    held_out = np.setdiff1d(held_out, wanted.twins) if wanted.twins.size < held_out.size else held_out
    label = wanted.deletion.forget_class

    def ask(probe: Probe, model: ModelJob) -> ProbeJob:
        name = f"{probe.name} of {model.name}"
        return ProbeJob(name, model, probe, seed, evenly(wanted.requested), retain, held_out, wanted.twins, label)

    groups: dict[str, Sequence[ModelJob]] = {
        "original": [models.original],
        "audited": [models.audited],
        "oracles": oracles,
    }
    return {
        f"{probe.name}/{name}": [ask(probe, model) for model in group]
        for probe in PROBES[wanted.kind]
        for name, group in groups.items()
    }


def gather(
    looked: Looks,
    notes: tuple[Flag, ...],
    store: Store,
    keys: Mapping[str, Sequence[str]],
    probes: Mapping[str, Sequence[str]] | None = None,
) -> Evidence:
    """The evidence from the observations of every model; one of them is in memory at a time.

    probes: keys by "probe/model", and of what was looked at further by "what/model".
    """
    order = ("requested", "heads", "twins", "tails")
    chosen = np.concatenate([looked.part[name] for name in order])
    group = np.repeat(
        np.array([Group.REQUESTED, Group.HEADS, Group.TWINS, Group.TAILS], dtype=np.uint8),
        [looked.part[name].size for name in order],
    )
    y = looked.y[chosen]
    splits = {"forget": looked.part["requested"], "canaries": looked.part["heads"]}
    splits = {name: part for name, part in splits.items() if part.size} | {
        n: looked.part[n] for n in ("retain", "test")
    }
    aside = np.concatenate([looked.part["beside retained"], looked.part["beside held out"]])
    margins: dict[str, FloatArray] = {}
    beside: dict[str, NDArray[np.float32]] = {}
    scores: dict[str, FloatArray] = {}
    correct: dict[str, NDArray[np.int64]] = {}
    outputs: dict[str, NDArray[np.float32]] = {}
    answers: dict[str, NDArray[np.uint8]] = {}
    spoken = evenly(np.arange(looked.part["requested"].size), MOST_OUTPUTS)

    def look(name: str, keys: Sequence[str]) -> None:
        rows: list[FloatArray] = []
        attacked: list[list[FloatArray]] = []
        counts: dict[str, list[int]] = {split: [] for split in splits}
        said: list[NDArray[np.float32]] = []
        others: list[NDArray[np.float32]] = []
        answered: list[NDArray[np.uint8]] = []
        for key in keys:
            arrays = store.map(key)
            logits = np.asarray(arrays["logits"][0])[chosen]
            seen = Observation(chosen.astype(str), y, margin(logits, y), logits)
            rows.append(seen.margins[:, 0])
            attacked.append([attack.score(seen).values for attack in ATTACKS])
            right = np.asarray(arrays["logits"][0, :, 0].argmax(axis=-1) == looked.y)
            for split, part in splits.items():
                counts[split].append(int(np.count_nonzero(right[part])))
            said.append(logits[spoken, 0])
            others.append(margin(np.asarray(arrays["logits"][0, aside, 0]), looked.y[aside]).astype(np.float32))
            answered.append(right[looked.part["answered"]].astype(np.uint8))
        single = name != "oracles"
        margins[name] = rows[0] if single else np.stack(rows)
        for i, attack in enumerate(ATTACKS):
            scores[f"{attack.name}/{name}"] = attacked[0][i] if single else np.stack([a[i] for a in attacked])
        for split, values in counts.items():
            correct[f"{name}/{split}"] = np.array(values)
        outputs[name] = said[0] if single else np.stack(said)
        beside[name] = others[0] if single else np.stack(others)
        answers[name] = answered[0] if single else np.stack(answered)

    look("original", keys["original"])
    look("audited", keys["audited"])
    if keys["oracles"]:
        look("held_out", keys["oracles"][-1:])
        look("oracles", keys["oracles"][:-1])
    totals = {name: part.size for name, part in splits.items()}
    design = coin_design_of(looked.part["heads"].size, looked.part["tails"].size, oracles=len(keys["oracles"]))
    compared = () if design is None else (design.members, design.others)
    ensemble = [store.map(key)["margins"][0, chosen, 0].astype(np.float64) for key in keys["ensemble"]]
    asked = probes or {}
    further = {name: [store.map(key) for key in asked[name]] for name in looked.further if name in asked}
    treated = {
        f"{treatment}/{model}": seen[i, :, 0].astype(np.float64)
        for model in ("original", "audited")
        for arrays in further.get(f"{TREATED}/{model}", ())
        for seen in (arrays["margins"],)
        for i, treatment in enumerate(COMPRESSED)
    }
    for arrays in further.get(f"{UNTRAINED}/original", ()):
        outputs[UNTRAINED] = np.asarray(arrays["logits"][0, :, 0])
    swapped = [arrays["margins"][0, :, 0].astype(np.float64) for arrays in further.get(f"{SWAP}/pairs", ())]
    evidence = Evidence(
        group,
        y,
        margins,
        scores,
        correct,
        totals,
        {},
        ids=looked.ids,
        logits=outputs,
        logit_points=chosen[spoken],
        answers=answers,
        answer_label=looked.y[looked.part["answered"]],
        answer_group=looked.groups.number,
        group_names=looked.groups.names,
        ensemble=np.stack(ensemble) if ensemble else None,
        readings={
            name: np.concatenate([store.read(key)["value"].numpy() for key in part])
            for name, part in asked.items()
            if name in looked.probes
        },
        treated=treated,
        treated_points=np.concatenate([_NOBODY, *(np.flatnonzero(group == side) for side in compared if treated)]),
        beside=beside,
        beside_retained=np.repeat(
            np.array([1, 0], dtype=np.uint8), [looked.part[f"beside {name}"].size for name in ("retained", "held out")]
        ),
        swapped=np.stack(swapped).reshape(-1, 2, swapped[0].size) if swapped else None,
        swapped_forget=None if not swapped or looked.swap_forget is None else looked.swap_forget.astype(np.uint8),
        notes=notes,
    )
    return dataclasses.replace(evidence, curves=_curves(evidence), legacy=legacy(evidence))


def _curves(evidence: Evidence) -> dict[str, FloatArray]:
    """ROC staircases of the attack for the figure: on canaries where there are enough, else requested and held-out."""
    design = coin_design(evidence)
    pair = (design.members, design.others) if design is not None else (Group.REQUESTED, Group.TWINS)
    members, others = (evidence.rows(group) for group in pair)

    def staircase(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        curve = roc(scores[members], scores[others])
        return curve.fpr, curve.tpr

    curves: dict[str, FloatArray] = {}
    for target in ("original", "audited"):
        fpr, tpr = staircase(evidence.scores[f"{ATTACKS[0].name}/{target}"])
        curves |= {f"roc/{target}/fpr": fpr, f"roc/{target}/tpr": tpr}
    if evidence.oracles:
        grid = np.arange(others.size + 1) / others.size
        low, high = envelope([staircase(row) for row in evidence.scores[f"{ATTACKS[0].name}/oracles"]], grid)
        curves |= {"roc/oracles/fpr": grid, "roc/oracles/tpr_low": low, "roc/oracles/tpr_high": high}
    return curves


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
    request, data, canaries = _request(case, wanted), data_record(case), _canary_record(case, wanted)
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
    made = _made(fleet, looked)
    there = {name: [one.key for one in group if not one.fault] for name, group in made.items()}
    read, left_out = _answered(made, looked)
    seen = {name: there[name] for name in looked.jobs}
    evidence = gather(looked, (*wanted.notes, *looked.groups.notes, *looked.notes, *left_out), store, seen, read)
    if stress is not None:
        evidence = replace(evidence, stress=ask_stress(stress))
    sidecar = evidence.to_bytes()
    judgement = judge(evidence, plan)
    record = _oracle_record(fleet, models, made["oracles"]) if models.oracles else None
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
        model=_model_record(case, fleet, models),
        method=_method_record(case, fleet, models),
        oracles=record,
        canaries=canaries,
        tolerances=dataclasses.asdict(spec.audit.tolerances),
        accuracy=judgement.accuracy,
        tests=judgement.tests,
        controls=judgement.controls,
        flags=judgement.flags,
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
        privacy=_privacy_record(case, evidence, plan),
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


def _made(fleet: Fleet, looked: Looks) -> dict[str, list[Made]]:
    """Everything in one fleet: original and audited model must be there, an oracle or a probe may be missing."""
    groups = looked.asked
    results = iter(fleet.attempt([job for group in groups.values() for job in group]))
    made = {name: [next(results) for _ in group] for name, group in groups.items()}
    for name, looks in looked.jobs.items():  # a look that rests on a training which failed says why that one did
        made[name] = [_own(one, job.stages[0]) for one, job in zip(made[name], looks, strict=True)]
    for name in ("original", "audited"):
        if (fault := made[name][0].fault) is not None:
            raise UsageError(f"{looked.jobs[name][0].stages[0].name}: {fault}")
    faults = [one.fault for one in made["ensemble"] if one.fault is not None]
    if faults:
        raise UsageError(
            f"ensemble: {len(faults)} of {len(made['ensemble'])} unlearnings failed, the first: {faults[0]}"
        )
    oracles = made["oracles"]
    faults = [one.fault for one in oracles if one.fault is not None]
    if oracles and len(faults) > len(oracles) - 2:  # no oracle and no held-out one are left
        raise UsageError(f"oracles: {len(faults)} of {len(oracles)} retrainings failed, the first: {faults[0]}")
    return made


def _own(made: Made, model: ModelJob) -> Made:
    return made if made.fault is None else replace(made, fault=made.fault.removeprefix(f"rests on {model.name}: "))


def _answered(made: Mapping[str, list[Made]], looked: Looks) -> tuple[dict[str, list[str]], list[Flag]]:
    """The readings of probes that every model answered, what was looked at further, and a flag for each question that
    was not answered: nothing is absent silently.

    An oracle that could not be trained cannot be asked; that is said where the oracles are counted.
    """
    trained = [one.fault is None for one in made["oracles"]]
    keys: dict[str, list[str]] = {}
    flags: dict[str, Flag] = {}
    for name in (*looked.probes, *looked.further):
        probe, _, model = name.rpartition("/")
        asked = (
            [one for one, there in zip(made[name], trained, strict=False) if there]
            if model == "oracles"
            else made[name]
        )
        fault = next((one.fault for one in asked if one.fault is not None), None)
        if fault is None and model == "oracles" and len(asked) < LEAST_ORACLES:
            fault = f"only {len(asked)} oracles are left to be asked"
        if fault is not None:
            flags.setdefault(probe, Flag("probe left out", f"{probe}: {fault}"))
        keys[name] = [one.key for one in asked]
    return {name: part for name, part in keys.items() if name.rpartition("/")[0] not in flags}, list(flags.values())


def _oracle_record(fleet: Fleet, models: Models, made: Sequence[Made]) -> OracleRecord:
    there = [job for job, one in zip(models.oracles, made, strict=True) if one.fault is None]
    seconds = [s for s in (fleet.store.record(fleet.key(job)).get("seconds") for job in there) if s is not None]
    return OracleRecord(
        count=len(there) - 1,
        seeds=tuple(job.seed for job in there[:-1]),
        seconds=round(float(np.mean(seconds)), 3) if seconds else None,
        held_out_seed=there[-1].seed,
        missing=tuple(
            f"{job.name}: {one.fault}" for job, one in zip(models.oracles, made, strict=True) if one.fault is not None
        ),
    )


def save_audit(folder: Path, result: AuditResult, sidecar: bytes) -> Path:
    """Write the sidecar, then the result that names its hash; returns the path of audit.json."""
    write_atomic(folder / result.evidence.file, sidecar)
    path = folder / "audit.json"
    write_atomic(path, result.to_json().encode())
    return path


def _request(case: Case, wanted: Demand) -> Request:
    label = wanted.deletion.forget_class
    name = None if label is None else case.dataset.classes[label]
    among = f" ({wanted.heads.size} coin canaries among them)" if wanted.heads.size else ""
    of = f"{wanted.forget.size:,} of {case.trained.size:,} training examples{among}"
    return Request(
        id=wanted.deletion.id,
        kind=wanted.kind,
        sentence=f"forget {of}" if label is None else f"forget class {name!r}: {of}",
        forget=wanted.forget.size,
        of=case.trained.size,
        forget_class=label,
        class_name=name,
        canaries=wanted.heads.size,
        fingerprint=hashlib.sha256("\n".join(sorted(case.train.ids[wanted.forget].tolist())).encode()).hexdigest(),
    )


def data_record(case: Case) -> DataRecord:
    """What the models were trained and looked at on."""
    return DataRecord(
        case.dataset.source,
        case.train.fingerprint,
        len(case.trained),
        len(case.dataset.test),
        case.dataset.shape,
        case.dataset.classes,
    )


def _privacy_record(case: Case, evidence: Evidence, plan: Plan) -> PrivacyRecord | None:
    """What private training promises, beside what the canaries of the original measure."""
    if case.recipe.privacy is None:
        return None
    from unlearnkit.private import spent  # brings Opacus

    promised = spent(case.recipe, len(case.trained))
    measured = measured_epsilon(evidence, plan, delta=promised.delta)
    bound, correct, guesses = measured or (None, 0, 0)
    return PrivacyRecord(
        **dataclasses.asdict(promised), measured=bound, guesses=guesses, correct=correct, confidence=plan.confidence
    )


def _model_record(case: Case, fleet: Fleet, models: Models) -> ModelRecord:
    def digest(job: ModelJob, given: str | None) -> str:
        """Of the file that was handed in, as `sha256sum` gives it; else of the weights as `train` would save them."""
        if given is not None:
            return sha256_file(case.spec.path(given))
        return hashlib.sha256(pack(fleet.store.read(fleet.key(job)), case.recipe.architecture)).hexdigest()

    weights, unlearned = case.spec.model.weights, case.spec.audit.unlearned
    audited = unlearned or (weights if models.audited is models.original else None)
    recipe = dataclasses.asdict(case.recipe)
    recipe.pop("architecture")
    parameters = sum(p.numel() for p in build(case.recipe.architecture, seed=0).parameters())
    return ModelRecord(
        case.recipe.architecture.name,
        parameters,
        digest(models.original, weights),
        digest(models.audited, audited),
        recipe,
    )


def _method_record(case: Case, fleet: Fleet, models: Models) -> MethodRecord:
    if isinstance(models.audited, UnlearnJob):
        method = models.audited.method
        return MethodRecord(
            name=method.name,
            sentence=in_words(method),
            params=method.params,
            saw=method.needs.names(),
            seed=models.audited.seed,
            seconds=fleet.store.record(fleet.key(models.audited)).get("seconds"),
        )
    if case.spec.audit.unlearned is not None:
        return MethodRecord("given", "unlearned elsewhere; the weights were handed in", {}, None, None, None)
    return MethodRecord("none", "nothing: this is the untouched original", {}, (), None, None)


def in_words(method: Method) -> str:
    """For page one: the name, with that of a method inside it, and the first few settings; a later page has all."""
    inner = [value.name for value in vars(method).values() if isinstance(value, Method)]
    name = f"{method.name}({', '.join(inner)})" if inner else method.name
    plain = [
        f"{key.replace('_', ' ')} {value}"
        for key, value in method.params.items()
        if value is not None and not isinstance(value, Mapping)  # None: the method finds it itself
    ]
    return ", ".join([name, *plain[:3]])


def _canary_record(case: Case, wanted: Demand) -> CanaryRecord | None:
    if case.manifest is None:
        return None
    return CanaryRecord(
        case.manifest.kind,
        wanted.heads.size,
        wanted.tails.size,
        case.manifest.commitment,
        opened=case.spec.canaries.manifest is not None,
    )


def captions(evidence: Evidence) -> dict[str, str]:
    """What the figures show; they say whose curves are drawn, which the evidence decides."""
    design = coin_design(evidence)
    pair = "Requested examples against held-out ones"
    if design is not None and design.exact:
        pair = "Deleted canaries against never-used ones"
    return {
        "roc": f"{pair}: one threshold on the plain margin (the coin test standardizes it by the oracles).",
        "margins": "Margin φ of the requested examples, and of held-out twins under the audited model.",
    }
