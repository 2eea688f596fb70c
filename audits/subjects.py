"""The models that an audit looks at: original and audited model, oracles, and the ensemble of tier `hours`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from unlearnkit.audits.battery import ORACLES
from unlearnkit.audits.case import Case, Demand, method_of
from unlearnkit.audits.spec import Spec
from unlearnkit.audits.statistics.rank import oracles_needed
from unlearnkit.jobs import GivenModel, ModelJob, TrainJob, UnlearnJob
from unlearnkit.models import build, load_state, pack, read_metadata, read_state
from unlearnkit.result import UsageError
from unlearnkit.store import Store, content_key
from unlearnkit.types import Method


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
        file = f"{spec.file}: " if spec.file else ""
        raise UsageError(
            f"{file}audit.oracles: tier {tier!r} needs at least {least} retrained models {why}, got {count}; raise it "
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
