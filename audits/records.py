"""What a result says about its audit besides the judgement: request, data, models, method, oracles, canaries."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from unlearnkit.audits.case import Case, Demand, method_in, seeds_of
from unlearnkit.audits.designs import Plan, coin_design
from unlearnkit.audits.evidence import Evidence
from unlearnkit.audits.findings import measured_epsilon
from unlearnkit.audits.spec import Spec
from unlearnkit.audits.subjects import Models
from unlearnkit.fleet import Fleet
from unlearnkit.jobs import Made, ModelJob, UnlearnJob
from unlearnkit.models import build, pack
from unlearnkit.result import (
    CanaryRecord,
    DataRecord,
    MethodRecord,
    ModelRecord,
    OracleRecord,
    PrivacyRecord,
    Request,
)
from unlearnkit.store import sha256_file
from unlearnkit.types import Method


def oracle_record(fleet: Fleet, models: Models, made: Sequence[Made]) -> OracleRecord:
    """Which retrained models there are, what one took (seconds, mean), and why others are missing."""
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


def request_record(case: Case, wanted: Demand) -> Request:
    """What was to be forgotten; the fingerprint names the examples without telling them."""
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


def privacy_record(case: Case, evidence: Evidence, plan: Plan) -> PrivacyRecord | None:
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


def model_record(case: Case, fleet: Fleet, models: Models) -> ModelRecord:
    """Architecture, recipe and hashes of original and audited model."""

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


def method_record(case: Case, fleet: Fleet, models: Models) -> MethodRecord:
    """How the audited model was made from the original, as far as it was made here."""
    stated = method_stated(case.spec)
    if isinstance(models.audited, UnlearnJob):
        return dataclasses.replace(stated, seconds=fleet.store.record(fleet.key(models.audited)).get("seconds"))
    return stated


def method_stated(spec: Spec) -> MethodRecord:
    """All that the spec alone fixes of it; `seconds` is None."""
    if spec.audit.unlearned is not None:
        return MethodRecord("given", "unlearned elsewhere; the weights were handed in", {}, None, None, None)
    method = method_in(spec)
    if method is None:
        return MethodRecord("none", "nothing: this is the untouched original", {}, (), None, None)
    seed = seeds_of(spec, "unlearn", 1)[0]
    return MethodRecord(method.name, in_words(method), method.params, method.needs.names(), seed, None)


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


def canary_record(case: Case, wanted: Demand) -> CanaryRecord | None:
    """The coins, and the commitment that sealed them; None without canaries."""
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
    pair, beside = "Requested examples against held-out ones", ""
    if design is not None and design.exact:
        pair = "Deleted canaries against never-used ones"
        if evidence.oracles:
            beside = " (the coin test standardizes it by the oracles)"
    return {
        "roc": f"{pair}: one threshold on the plain margin{beside}.",
        "margins": "Margin φ of the requested examples, and of held-out twins under the audited model.",
    }
