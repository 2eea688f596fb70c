"""From a spec to a worst-case forget set with its certificate: `unlearnkit worst-case`."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

import unlearnkit
from unlearnkit.audits.case import Case, lend
from unlearnkit.audits.records import data_record
from unlearnkit.audits.spec import DeletionSpec, WorstCaseSpec, naming
from unlearnkit.audits.subjects import original_job
from unlearnkit.audits.worst_case.apart import EvaluationSeeds, SearchSeeds
from unlearnkit.audits.worst_case.arena import Arena, Found, check_needs
from unlearnkit.audits.worst_case.attack_search import HELD, LEAST_POOL, AttackSearch, attack_search
from unlearnkit.audits.worst_case.bilevel import Bilevel, bilevel
from unlearnkit.audits.worst_case.certificate import Scale, certify
from unlearnkit.audits.worst_case.gaps import Certificate, Instruments, told
from unlearnkit.audits.worst_case.pool import features_of, pool_of, search_pool
from unlearnkit.audits.worst_case.pool_search import By
from unlearnkit.audits.worst_case.simplex import check_size
from unlearnkit.audits.worst_case.standing import headline, leak_of, standing_flags, standings
from unlearnkit.audits.worst_case.structured import doubles, entanglement, far_from_retain, group_of, near_retain
from unlearnkit.fleet import Fleet
from unlearnkit.hardest import IDS, SCHEMA, SearchRecord, TraceStep, WorstCase
from unlearnkit.methods import method_named
from unlearnkit.result import Environment, Evidence, Flag, UsageError, nearest
from unlearnkit.store import write_atomic
from unlearnkit.types import Attack, Method, Need
from unlearnkit.unlearning import check_request

EVIDENCE = "worst_case.safetensors"
SHOWN = 10  # hardest examples whose images are kept

_POOLED: dict[str, By] = {
    "pool-loss": "loss",
    "pool-memorization": "memorization",
    "pool-neighbors": "neighbors",
    "mislabeled": "mislabeled",
}


@dataclass(frozen=True, eq=False)
class Work:
    """A worst-case search made concrete, and refused if it cannot be done, before anything is trained."""

    case: Case
    settings: WorstCaseSpec
    arena: Arena
    methods: tuple[Method, ...]
    against: tuple[Method | None, ...]  # one search each
    attack: Attack | None
    size: int
    scale: Scale
    bilevels: tuple[Bilevel, ...]

    @property
    def cost(self) -> tuple[str, ...]:
        """What will be done, in sentences for the screen."""
        s, n = self.settings, len(self.against)
        said = []
        for one in self.bilevels:
            name = "weighted FineTune" if one.method is None else one.method.name
            said.append(f"bilevel search against {name}: {one.cost(self.arena.recipe.epochs).sentence}")
        if s.search in _POOLED or s.search == "attack":
            said.append(f"pool: {s.pool} trainings on random halves")
        if s.search == "attack":
            said.append(f"attack search: at most {n * (s.budget or AttackSearch.budget)} unlearnings")
        sets = n * (1 + self.scale.random)
        runs = sets * len(self.methods) * self.scale.unlearnings
        said.append(
            f"certificate: {n} found and {n * self.scale.random} random sets, {sets * self.scale.oracles} retrainings "
            f"and {runs} unlearnings"
        )
        return tuple(said)


def plan(case: Case, fleet: Fleet, attacks: Mapping[str, type[Attack]]) -> Work:
    """Check everything that can be checked before a model is trained. Raises `UsageError` in one sentence."""
    with naming(case.spec.file):
        return _plan(case, fleet, attacks)


def _plan(case: Case, fleet: Fleet, attacks: Mapping[str, type[Attack]]) -> Work:
    settings = case.spec.worst_case or WorstCaseSpec()
    if case.manifest is not None:
        raise UsageError(
            "worst_case: a model with canaries is no ground for a search, since canaries are the hardest examples by "
            "design; leave [canaries] out"
        )
    methods = [_method(one, "worst_case.methods") for one in settings.methods]
    if not methods:
        if case.spec.method is None or case.spec.method.name == "none":
            raise UsageError(
                'worst_case: name what is to be audited on the found set, methods = ["FineTune"] in [worst_case], or '
                "[method]"
            )
        methods = [method_named(case.spec.method.name, case.spec.method.params)]
    against: list[Method | None] = [_method(one, "worst_case.against") for one in settings.against]
    _distinct("methods", methods)
    _distinct("against", [one for one in against if one is not None])
    if settings.search == "attack":
        against = against or [methods[0]]
    elif settings.search != "bilevel" and against:
        raise UsageError(f"worst_case.against: a search by {settings.search!r} asks no method; leave it out")
    against = against or [None]
    test = np.arange(len(case.dataset.test))
    unseen = None
    if any(Need.UNSEEN in one.needs for one in (*methods, *against) if one is not None):
        test, unseen = lend(case.dataset.test.labels().numpy(), case.seeds("unseen", 1)[0])
    arena = Arena(fleet, original_job(case, fleet.store), case.trained, test, unseen)
    whole = _whole_class(settings, arena)
    for one in (*methods, *against):
        if one is not None:
            check_needs(one, arena, 0 if whole else None)
    size = _size(settings, arena)
    least, n = _least(settings, arena, size), case.trained.size
    for one in (*methods, *against):
        if one is not None and least < n:  # a class that is everything is refused by name
            check_request(one, forget=least, retain=n - least, forget_class=0 if whole else None)
    bilevels = _bilevels(settings, against, size) if settings.search == "bilevel" else ()
    attack = None
    if settings.attack is not None:
        if settings.attack not in attacks:
            known = nearest(settings.attack, attacks) or f"; attacks are {', '.join(attacks)}"
            raise UsageError(f"worst_case.attack: there is no attack {settings.attack!r}{known}")
        attack = attacks[settings.attack]()
        _check_attack(settings, attack)
    scale = Scale(settings.random, settings.oracles, settings.unlearnings, 1 - case.spec.audit.significance)
    work = Work(case, settings, arena, tuple(methods), tuple(against), attack, size, scale, bilevels)
    if settings.search == "attack":
        if settings.pool < LEAST_POOL:
            raise UsageError(
                f"worst_case.pool: an attack search needs at least {LEAST_POOL} models, so that two never saw each "
                f"example, got {settings.pool}"
            )
        for one in against:
            assert one is not None  # the first method, where none is given
            _attack_settings(work, one)
    return work


def _check_attack(settings: WorstCaseSpec, attack: Attack) -> None:
    if settings.search != "attack":
        raise UsageError(f"worst_case.attack: a search by {settings.search!r} asks no attack; leave it out")
    if lacking := attack.holds & ~HELD:
        needed, held = (", ".join(map(repr, one.names())) for one in (lacking, HELD))
        raise UsageError(
            f"worst_case.attack: {settings.attack} needs {needed}, and a search holds only {held}; take another, such "
            "as RMIAOffline"
        )


def _distinct(what: str, methods: Sequence[Method]) -> None:
    """Sets and cells go by the names of methods: two of one name could not be told apart."""
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise UsageError(f"worst_case.{what}: every method may stand there once, got {', '.join(names)}")


def _least(settings: WorstCaseSpec, arena: Arena, size: int) -> int:
    """How many examples the found set will hold, at least: which classes or which group it is, the search says."""
    if settings.search == "class":
        return int(np.count_nonzero(arena.labels == settings.forget_class))
    if settings.search == "bilevel" and settings.over == "classes":
        return int(np.sort(np.unique(arena.labels, return_counts=True)[1])[:size].sum())
    return 1 if settings.search == "group" else size


def _method(one: str | Mapping[str, Any], where: str) -> Method:
    """A name, or a table with a name and hyperparameters."""
    params = {"name": one} if isinstance(one, str) else dict(one)
    name = params.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f'{where}: each must be a name or a table with a name, {{name = "SalUn"}}, got {one!r}')
    return method_named(name, params, where=where)


def _whole_class(settings: WorstCaseSpec, arena: Arena) -> bool:
    """Whether what is found will be one whole class."""
    if settings.search == "class":
        known = np.unique(arena.labels)
        if settings.forget_class is None or settings.forget_class not in known:
            raise UsageError(
                f'worst_case.forget_class: search = "class" needs one of the classes {known.min()} to {known.max()}, '
                f"got {settings.forget_class}"
            )
        return True
    return settings.search == "bilevel" and settings.over == "classes" and settings.size == 1


def _size(settings: WorstCaseSpec, arena: Arena) -> int:
    n = arena.trained.size
    if settings.search == "bilevel" and settings.over == "classes":
        n, what = np.unique(arena.labels).size, "classes"
        if n < 2:
            raise UsageError(
                "worst_case.over: the training data hold one class only, and which classes are hardest is asked of at "
                'least two; use over = "examples"'
            )
    else:
        what = "training examples"
    size = settings.size
    if isinstance(size, float):
        if not 0 < size < 1:
            raise UsageError(f"worst_case.size: must be a whole number, or a share between 0 and 1, got {size:g}")
        size = round(size * n)
    check_size(size, n, what)
    return size


def _bilevels(settings: WorstCaseSpec, against: Sequence[Method | None], size: int) -> tuple[Bilevel, ...]:
    names = [f.name for f in dataclasses.fields(Bilevel) if f.name not in ("size", "method")]
    given = {name: getattr(settings, name) for name in names}
    return tuple(Bilevel(size, method=method, **given) for method in against)


def search(work: Work, seeds: SearchSeeds) -> dict[str, Found]:
    """Every set that the spec asks for, by its name."""
    settings, arena = work.settings, work.arena
    if settings.search == "bilevel":
        return {_named(one): one for one in (bilevel(arena, b, seeds) for b in work.bilevels)}
    if settings.search == "attack":
        pool = pool_of(arena, settings.pool, seeds)
        found = {}
        for method in work.against:
            assert method is not None  # an attack search has a method
            one = attack_search(arena, pool, _attack_settings(work, method), seeds)
            found[_named(one)] = one
        return found
    if settings.search in _POOLED:
        pool = pool_of(arena, settings.pool, seeds)
        by = _POOLED[settings.search]
        return {settings.search: search_pool(arena, pool, size=work.size, by=by, partial=settings.partial)}
    return {settings.search: _structured(work)}


def _attack_settings(work: Work, method: Method) -> AttackSearch:
    s = work.settings
    budget = {} if s.budget is None else {"budget": s.budget}
    return AttackSearch(work.size, method, work.attack, repeats=s.repeats, exchange=s.exchange, **budget)


def _named(found: Found) -> str:
    return f"{found.search} against {found.against}"


def _structured(work: Work) -> Found:
    settings, arena = work.settings, work.arena
    ids = arena.ids[: arena.trained.size]
    details: dict[str, Any] = {}
    unit, whole = "", None
    if settings.search in ("near", "far"):
        features = features_of(arena)
        choose = near_retain if settings.search == "near" else far_from_retain
        places, scores = choose(features, work.size)
        details["entanglement"] = entanglement(features, np.isin(np.arange(ids.size), places))
        unit = "distance from the mean in feature space"
    elif settings.search == "group":
        if settings.pattern is None:
            raise UsageError(
                'worst_case.pattern: search = "group" needs it, a regular expression whose first parenthesis is the '
                f"group in an id; ids look like {str(ids[0])!r}"
            )
        places, details["group"] = group_of(ids, settings.pattern, settings.group)
        scores = np.zeros(places.size)
    elif settings.search == "duplicates":
        places = doubles(arena.fleet.bench.sets.train.take(arena.trained), work.size)
        scores = np.zeros(places.size)
    else:
        whole = settings.forget_class
        places = np.flatnonzero(arena.labels == whole)
        scores = np.zeros(places.size)
    return Found(settings.search, "", places, scores, unit, forget_class=whole, details=details)


def worst_case(work: Work, *, instruments: Instruments, command: str) -> tuple[WorstCase, bytes]:
    """Search, certify, and put it into words. Returns the result and its evidence: the images of the hardest examples.

    Interrupted, the next call goes on from the store.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    case, settings, arena = work.case, work.settings, work.arena
    found = search(work, SearchSeeds(settings.seed))
    for name, one in found.items():
        if one.places.size >= arena.trained.size:
            raise UsageError(f"worst_case: {name} holds every training example; nothing would be retained")
    certificate = certify(
        arena, found, work.methods, EvaluationSeeds(settings.seed), scale=work.scale, instruments=instruments
    )
    first = next(iter(found.values()))
    images = arena.fleet.bench.sets.train.take(arena.trained[first.places[:SHOWN]])
    evidence = save({"images": np.ascontiguousarray(images.x.numpy()), "labels": images.labels().numpy()})
    searches = tuple(_record(name, one, work, arena) for name, one in found.items())
    flags = [flag for one in found.values() for flag in one.flags]
    for name, one in found.items():
        flags += standing_flags(
            name,
            standings(certificate.standings, name, leak_of(one.search, one.details)),
            file=IDS if one is first else "",
            whole=one.forget_class is not None,
            confidence=work.scale.confidence,
        )
    flags += [*_other_settings(work), *_unused(work)]
    if instruments.efficacy is None:
        flags.append(
            Flag("no legacy MIA", "The average gap is over UA, RA and TA; published ones often count MIA efficacy too.")
        )
    result = WorstCase(
        schema=SCHEMA,
        id=_id(work),
        organization=case.spec.report.organization,
        command=command,
        spec=case.spec.plain(),
        data=data_record(case),
        architecture=case.recipe.architecture.name,
        seed=settings.seed,
        confidence=work.scale.confidence,
        oracles=work.scale.oracles,
        unlearnings=work.scale.unlearnings,
        searches=searches,
        sets=certificate.sets,
        methods=tuple(method.name for method in work.methods),
        cells=certificate.cells,
        hardness=certificate.hardness,
        sentences=tuple(_sentences(found, certificate, work)),
        flags=(*flags, *certificate.flags),
        evidence=Evidence(EVIDENCE, hashlib.sha256(evidence).hexdigest()),
        environment=Environment(
            unlearnkit=unlearnkit.__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
            platform=platform.platform(terse=True),
            device=case.spec.audit.device,
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - clock, 3),
        ),
    )
    return result, evidence


def _id(work: Work) -> str:
    """The set's own name, else that of the deletion, else what was searched by."""
    spec = work.case.spec
    if work.settings.id is not None:
        return work.settings.id
    if spec.deletion is not None and spec.deletion.id != DeletionSpec.id:
        return spec.deletion.id
    return work.settings.search


def _unused(work: Work) -> list[Flag]:
    """Of [deletion] a search takes the id at most: which examples, it finds itself."""
    deletion = work.case.spec.deletion
    names = ("forget_class", "forget_ids", "forget_fraction")
    given = [] if deletion is None else [f"deletion.{name}" for name in names if getattr(deletion, name) is not None]
    said = f"{' and '.join(given)} of the spec is not used: which examples are forgotten is what was searched."
    return [Flag("unused deletion", said)] if given else []


def _record(name: str, one: Found, work: Work, arena: Arena) -> SearchRecord:
    cost = next((said for said in work.cost if f"against {one.against}:" in said), work.cost[0])
    return SearchRecord(
        name,
        one.search,
        one.against,
        cost,
        dict(one.details),
        one.unit,
        tuple(arena.ids[one.places].tolist()),
        tuple(float(score) for score in one.scores),
        tuple(TraceStep(step.objective, step.replaced, step.overlap) for step in one.trace),
    )


def _sentences(found: Mapping[str, Found], certificate: Certificate, work: Work) -> list[str]:
    """What was found, in words."""
    said = []
    n = work.arena.trained.size
    for name, one in found.items():
        moved = ""
        if one.trace:
            moved = f"; the search exchanged {100 * (1 - one.trace[-1].overlap):.0f} % of its random start"
        rows = standings(certificate.standings, name, leak_of(one.search, one.details))
        said.append(headline(name, rows, alone=len(found) == 1, whole=one.forget_class is not None))
        said.append(f"{name}: {one.places.size:,} of {n:,} training examples{moved}.")
        said += told(name, certificate.hardness, rows[0].beside if rows else 0)
        if one.search == "attack":
            said.append(_kept(one, name, certificate, work))
    return said


def _other_settings(work: Work) -> list[Flag]:
    """Of methods that were searched against and are audited under the same name with other hyperparameters."""
    flags = []
    audited = {method.name: method for method in work.methods}
    for one in work.against:
        if one is not None and one.name in audited and audited[one.name] != one:
            sides = [
                ", ".join(f"{k} = {v}" for k, v in dataclasses.asdict(side).items() if v != getattr(other, k))
                for side, other in ((one, audited[one.name]), (audited[one.name], one))
            ]
            flags.append(
                Flag(
                    "other settings",
                    f"The set was searched against {one.name} with {sides[0]}, and {one.name} is audited with "
                    f"{sides[1]}.",
                )
            )
    return flags


def _kept(one: Found, name: str, certificate: Certificate, work: Work) -> str:
    """What the leak that a search has seen is worth on other seeds and oracles."""
    cell = None
    if any(other is not None and other.name == one.against and other in work.methods for other in work.against):
        cell = next((c for c in certificate.cells if (c.method, c.set) == (one.against, name)), None)
    if cell is None:
        same = " with these settings" if one.against in {method.name for method in work.methods} else ""
        return f"{one.against}{same} is not among the audited methods, so its leak on this set was not measured again."
    attack = next((m for m in cell.measures if work.attack is not None and m.name == f"{work.attack.name} AUC"), None)
    measure = attack or next(m for m in cell.measures if m.unit == "σ")
    low, high = measure.gap.low, measure.gap.high
    share = f"{100 * work.scale.confidence:.0f} %"
    limits = "" if low is None or high is None else f" ({share} interval {low:.3g} to {high:.3g})"
    return (
        f"The search saw a leak of {one.details['found']:.3g} by {one.details['statistic']}; on seeds and oracles that "
        f"it never saw, the gap in {measure.name} is {measure.gap.value:.3g}{limits}."
    )


def save_worst_case(folder: Path, result: WorstCase, evidence: bytes) -> Path:
    """Write images, ids and the result; returns the path of worst_case.json."""
    write_atomic(folder / EVIDENCE, evidence)
    write_atomic(folder / IDS, ("\n".join(result.searches[0].ids) + "\n").encode())
    path = folder / "worst_case.json"
    write_atomic(path, result.to_json().encode())
    return path
