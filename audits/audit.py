"""audit(): from a spec to an AuditResult – prepare the data, make the models, gather evidence, judge."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import unlearnkit
from unlearnkit.audits.battery import ATTACKS, BATTERY, judge
from unlearnkit.audits.case import Case, Demand, demand, prepare
from unlearnkit.audits.designs import Plan, coin_design
from unlearnkit.audits.evidence import Evidence, FloatArray, Group, envelope
from unlearnkit.audits.rank import oracles_needed
from unlearnkit.audits.roc import roc
from unlearnkit.audits.spec import Spec
from unlearnkit.fleet import Job, TrainJob, UnlearnJob, read_model, run_jobs
from unlearnkit.methods import method_named
from unlearnkit.models import build, load_state, pack, read_metadata, read_state
from unlearnkit.observing import observe
from unlearnkit.result import (
    SCHEMA,
    AuditResult,
    CanaryRecord,
    DataRecord,
    Environment,
    MethodRecord,
    ModelRecord,
    OracleRecord,
    Request,
    UsageError,
)
from unlearnkit.result import Evidence as EvidenceRecord
from unlearnkit.store import Store, content_key, sha256_file, write_atomic
from unlearnkit.types import Examples, Method, join

MOST_POINTS = 5_000  # examples of a large set on which every oracle's accuracy is measured

OnDone = Callable[[Job, bool], None]


def oracle_jobs(case: Case, wanted: Demand) -> list[TrainJob]:
    """Retrainings without the forget set by the same recipe; the last one is held out as a control."""
    if case.spec.audit.tier == "seconds":
        return []
    count = case.spec.audit.oracles
    least = oracles_needed(significance=case.spec.audit.significance)
    if count < least:
        raise UsageError(
            f"audit.oracles: tier 'minutes' needs at least {least} retrained models to reach significance "
            f"{case.spec.audit.significance:g}, got {count}; raise it, or use tier 'seconds'"
        )
    seeds = case.seeds("oracle", count + 1)
    return [TrainJob(f"oracle {j + 1}", case.recipe, seed, wanted.retain) for j, seed in enumerate(seeds)]


def method_of(case: Case) -> Method | None:
    """The method of the spec, or None where somebody else's result is audited."""
    if case.spec.audit.unlearned is not None:
        return None
    if case.spec.method is None:
        raise UsageError(
            "spec: a [method] section is needed, or audit.unlearned with the weights that somebody else unlearned"
        )
    if case.spec.method.name == "none":  # the untouched original itself
        return None
    return method_named(case.spec.method.name, case.spec.method.params)


def unlearn_job(case: Case, wanted: Demand, original: str, method: Method) -> UnlearnJob:
    """The deletion carried out on the stored original."""
    return UnlearnJob(
        f"unlearn with {method.name}",
        case.recipe,
        case.seeds("unlearn", 1)[0],
        original,
        method,
        wanted.forget,
        wanted.retain,
        case.dataset.test,
        wanted.deletion.forget_class,
    )


def make_original(case: Case, store: Store, *, fresh: bool = False, on_done: OnDone | None = None) -> str:
    """Key of the original in the store: trained by the recipe, or the user's weights taken in."""
    if case.spec.model.weights is None:
        return run_jobs(
            [case.original], case.train, store, device=case.spec.audit.device, fresh=fresh, on_done=on_done
        )[0]
    return _take_in(case, store, case.spec.model.weights)


def _take_in(case: Case, store: Store, weights: str) -> str:
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
        store.write(key, data, {"name": path.name})
    return key


@dataclass(frozen=True, eq=False)
class Models:
    """Keys of everything an audit looks at."""

    original: str
    audited: str
    oracles: list[str]  # the last one is held out


def make_models(
    case: Case, wanted: Demand, store: Store, *, fresh: bool = False, on_done: OnDone | None = None
) -> Models:
    """Train, unlearn or take in what the audit needs; finished models in the store are not made again."""
    device = case.spec.audit.device
    method = method_of(case)
    # Weights that were handed in are read first: if they do not fit, that shows before an hour of training.
    given = None if case.spec.model.weights is None else _take_in(case, store, case.spec.model.weights)
    handed_in = None if case.spec.audit.unlearned is None else _take_in(case, store, case.spec.audit.unlearned)
    jobs: list[Job] = [*([case.original] if given is None else []), *oracle_jobs(case, wanted)]
    keys = run_jobs(jobs, case.train, store, device=device, fresh=fresh, on_done=on_done)
    original = given or keys.pop(0)
    audited = handed_in or original
    if method is not None:
        job = unlearn_job(case, wanted, original, method)
        audited = run_jobs([job], case.train, store, device=device, fresh=fresh, on_done=on_done)[0]
    return Models(original, audited, keys)


def gather(case: Case, wanted: Demand, store: Store, models: Models) -> Evidence:
    """Run every model once over the audit's points; one model is in memory at a time."""
    points = join(
        case.train.take(wanted.requested), case.train.take(wanted.heads), wanted.twins, case.train.take(wanted.tails)
    )
    sizes = (wanted.requested.size, wanted.heads.size, len(wanted.twins), wanted.tails.size)
    group = np.repeat(np.array([Group.REQUESTED, Group.HEADS, Group.TWINS, Group.TAILS], dtype=np.uint8), sizes)
    large = {"retain": _sample(case.train, wanted.retain), "test": _sample(case.dataset.test, None)}
    margins: dict[str, FloatArray] = {}
    scores: dict[str, FloatArray] = {}
    correct: dict[str, NDArray[np.int64]] = {}
    splits = {"forget": group == Group.REQUESTED, "canaries": group == Group.HEADS}

    def look(name: str, keys: Sequence[str]) -> None:
        rows: list[FloatArray] = []
        attacked: list[list[FloatArray]] = []
        counts: dict[str, list[int]] = {}
        for key in keys:
            model: nn.Module = read_model(store, key, case.recipe)
            seen = observe(model, points, device=case.spec.audit.device)
            rows.append(seen.margins[:, 0])
            attacked.append([attack.score(seen).values for attack in ATTACKS])
            for split, mask in splits.items():
                if mask.any():
                    counts.setdefault(split, []).append(int(np.count_nonzero(rows[-1][mask] > 0)))
            for split, examples in large.items():
                right = observe(model, examples, device=case.spec.audit.device).margins[:, 0] > 0
                counts.setdefault(split, []).append(int(np.count_nonzero(right)))
        single = name != "oracles"
        margins[name] = rows[0] if single else np.stack(rows)
        for i, attack in enumerate(ATTACKS):
            scores[f"{attack.name}/{name}"] = attacked[0][i] if single else np.stack([a[i] for a in attacked])
        for split, values in counts.items():
            correct[f"{name}/{split}"] = np.array(values)

    look("original", [models.original])
    look("audited", [models.audited])
    if models.oracles:
        look("held_out", models.oracles[-1:])
        look("oracles", models.oracles[:-1])
    totals = {"forget": wanted.requested.size, "retain": len(large["retain"]), "test": len(large["test"])}
    if wanted.heads.size:
        totals["canaries"] = wanted.heads.size
    evidence = Evidence(group, points.labels().numpy(), margins, scores, correct, totals, {})
    return dataclasses.replace(evidence, curves=_curves(evidence))


def _sample(examples: Examples, rows: NDArray[np.int64] | None) -> Examples:
    """At most MOST_POINTS of the rows, evenly spread."""
    rows = np.arange(len(examples)) if rows is None else rows
    step = max(1, -(-rows.size // MOST_POINTS))
    return examples.take(rows[::step])


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


def plan_of(case: Case, wanted: Demand) -> Plan:
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
    )


def audit(
    spec: Spec,
    store: Store,
    *,
    command: str,
    fresh: bool = False,
    on_done: OnDone | None = None,
    case: Case | None = None,
) -> tuple[AuditResult, bytes]:
    """The whole way: data, models, evidence, verdict. Returns the result and its evidence sidecar's bytes.

    `case`: the prepared spec, where the caller has it already. Interrupted, the next call goes on from the store.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    case = case or prepare(spec)
    wanted = demand(case)
    models = make_models(case, wanted, store, fresh=fresh, on_done=on_done)
    evidence = gather(case, wanted, store, models)
    sidecar = evidence.to_bytes()
    judgement = judge(evidence, plan_of(case, wanted))
    record = (
        OracleRecord(
            count=len(models.oracles) - 1,
            seeds=tuple(case.seeds("oracle", len(models.oracles))[:-1]),
            seconds=_mean_seconds(store, models.oracles),
            held_out_seed=case.seeds("oracle", len(models.oracles))[-1],
        )
        if models.oracles
        else None
    )
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
        request=_request(case, wanted),
        data=DataRecord(
            case.dataset.source,
            case.train.fingerprint,
            len(case.trained),
            len(case.dataset.test),
            case.dataset.shape,
            case.dataset.classes,
        ),
        model=_model_record(case, store, models),
        method=_method_record(case, store, models),
        oracles=record,
        canaries=_canary_record(case, wanted),
        tolerances=dataclasses.asdict(spec.audit.tolerances),
        accuracy=judgement.accuracy,
        tests=judgement.tests,
        controls=judgement.controls,
        flags=judgement.flags,
        verdict=judgement.verdict,
        captions=_captions(evidence),
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
    )
    return result, sidecar


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


def _model_record(case: Case, store: Store, models: Models) -> ModelRecord:
    def digest(key: str, given: str | None) -> str:
        """Of the file that was handed in, as `sha256sum` gives it; else of the weights as `train` would save them."""
        if given is not None:
            return sha256_file(case.spec.path(given))
        return hashlib.sha256(pack(store.read(key), case.recipe.architecture)).hexdigest()

    weights, unlearned = case.spec.model.weights, case.spec.audit.unlearned
    audited = unlearned or (weights if models.audited == models.original else None)
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


def _method_record(case: Case, store: Store, models: Models) -> MethodRecord:
    method = method_of(case)
    if method is not None:
        # Page one names the first few settings; all of them stand in `params` and on a later page.
        params = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in list(method.params.items())[:3])
        return MethodRecord(
            name=method.name,
            sentence=f"{method.name}, {params}" if params else method.name,
            params=method.params,
            saw=method.needs.names(),
            seed=case.seeds("unlearn", 1)[0],
            seconds=store.record(models.audited).get("seconds"),
        )
    if case.spec.audit.unlearned is not None:
        return MethodRecord("given", "unlearned elsewhere; the weights were handed in", {}, None, None, None)
    return MethodRecord("none", "nothing: this is the untouched original", {}, (), None, None)


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


def _mean_seconds(store: Store, keys: Sequence[str]) -> float | None:
    seconds = [s for s in (store.record(key).get("seconds") for key in keys) if s is not None]
    return round(float(np.mean(seconds)), 3) if seconds else None


def _captions(evidence: Evidence) -> dict[str, str]:
    design = coin_design(evidence)
    pair = "Requested examples against held-out ones"
    if design is not None and design.exact:
        pair = "Deleted canaries against never-used ones"
    return {
        "roc": f"{pair}: one threshold on the plain margin (the coin test standardizes it by the oracles).",
        "margins": "Margin φ of the requested examples, and of held-out twins under the audited model.",
    }
