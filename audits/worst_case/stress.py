"""Tier `hours`: the method is asked to forget other sets than the requested one, found by a pool of its own.

A pool of models on random halves of the training data finds what is memorized, what looks mislabeled, what is known
without being trained on, and a whole class; random sets stand beside them. Sets are drawn from retained examples:
whoever asked to be deleted is in none of them, nor in a picture, although the original that all unlearnings start from
was trained on them, and the models retrained without a set are too. Canaries are never part of a set: they are the
hardest examples by design. Search and evaluation share no seed and no model (`apart`). The numbers have no parameters,
like the rest of the battery, and are registered before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unlearnkit.audits.case import Case, Demand, method_of
from unlearnkit.audits.statistics.sampling import evenly
from unlearnkit.audits.worst_case.apart import EvaluationSeeds, SearchSeeds
from unlearnkit.audits.worst_case.arena import Arena, Found, Rows
from unlearnkit.audits.worst_case.certificate import Candidate, Scale, answered, ask, check_judges, other_classes
from unlearnkit.audits.worst_case.gaps import Looked
from unlearnkit.audits.worst_case.pool import UNITS, Pool, pool_jobs, pool_of, search_pool
from unlearnkit.audits.worst_case.pool_search import By, memorization
from unlearnkit.audits.worst_case.stress_evidence import ALL, SHOWN, StressEvidence, hardest_set
from unlearnkit.fleet import Fleet
from unlearnkit.hardest import FOUND, RANDOM, drawable
from unlearnkit.jobs import ModelJob
from unlearnkit.result import UsageError
from unlearnkit.types import Method, Need
from unlearnkit.unlearning import check_request

POOL = 16  # models, in pairs of complementary halves
SCALE = Scale(random=5, oracles=5, unlearnings=3)
LARGEST = 10  # no set is larger than one part in so many of the training set

CLASS = "class"
_BY: dict[str, By] = {"memorized": "memorization", "mislabeled": "mislabeled", "worst-by-loss": "loss"}
_RULES = {
    "memorized": "whose margins owe most to being trained on",
    "mislabeled": "whose labels are most contradicted by models that never saw them",
    "worst-by-loss": "best known to models that never saw them",
    CLASS: "the class, other than a requested one, whose margins owe most to being trained on",
}


@dataclass(frozen=True, eq=False)
class Stress:
    """The sets of one audit, made concrete before anything is trained.

    natural: places in `arena.trained` that are retained and no canaries. size: of every set of examples; 0: none is
    asked for. classes: labels that the class is chosen among. names: of all classes. left_out: what cannot be asked
    for, and why.
    """

    arena: Arena
    method: Method
    seed: int
    natural: Rows
    size: int
    classes: Rows
    names: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def rules(self) -> dict[str, str]:
        """How every set is found, by its name."""
        return {name: rule for name, rule in _RULES.items() if (self.classes.size if name == CLASS else self.size)}

    @property
    def random(self) -> int:
        """How many sets stand beside the found ones: of examples, or of other classes."""
        return SCALE.random if self.size else max(0, min(SCALE.random, self.classes.size - 1))

    @property
    def points(self) -> dict[str, list[int]]:
        """How many points of a set of examples, and of each class that may be chosen, and how many retained and
        held-out ones beside them."""
        labels, held_out = self.arena.labels[self.natural], evenly(self.arena.held_out).size
        sizes = {"examples": self.size} | {str(c): int(np.count_nonzero(labels == c)) for c in self.classes}
        return {name: [n, evenly(np.arange(self.natural.size - n)).size, held_out] for name, n in sizes.items()}

    @cached_property
    def document(self) -> dict[str, Any]:
        """What is fixed beforehand. The sets follow from the pool by their rules, all seeds from one."""
        jobs = pool_jobs(self.arena, POOL, SearchSeeds(self.seed)) if self.rules else []
        return {
            "method": self.method.name,
            "rules": self.rules,
            "units": {name: UNITS[by] for name, by in _BY.items() if name in self.rules},
            "size": self.size,
            "points": self.points,
            "of": self.arena.trained.size,
            "random": self.random,
            "shared": bool(self.size),
            "oracles": SCALE.oracles,
            "unlearnings": SCALE.unlearnings,
            "seed": self.seed,
            "pool": [self.arena.fleet.key(job) for job in jobs],
            "left out": list(self.left_out),
        }

    @property
    def cost(self) -> str:
        """What it takes, in words."""
        sets = len(self.rules) + self.random
        if not self.rules:
            return "other sets: none can be asked for"
        return (
            f"other sets: {POOL} trainings on random halves, then {sets * SCALE.oracles} retrainings and "
            f"{sets * SCALE.unlearnings} unlearnings for {len(self.rules)} found and {self.random} random sets"
        )


def plan_stress(case: Case, wanted: Demand, fleet: Fleet, original: ModelJob) -> Stress | None:
    """What tier `hours` asks for beside the request; None on any other tier, and where no method is audited."""
    method = method_of(case)
    if case.spec.audit.tier != "hours" or method is None:
        return None
    arena = Arena(fleet, original, case.trained, wanted.held_out, wanted.unseen)
    natural = np.flatnonzero(np.isin(case.trained, np.setdiff1d(wanted.retain, case.heads)))
    n, left_out = case.trained.size, []
    size = min(wanted.requested.size, n // LARGEST, natural.size - 1)
    others = "memorized, mislabeled, worst-by-loss and random sets"
    if Need.CLASS_WISE in method.needs:
        size = 0
        left_out.append(f"{others}: {method.name} forgets whole classes only.")
    elif size < 1:
        size = 0
        left_out.append(f"{others}: {n} training examples, {natural.size} of them retained, are too few.")
    labels = arena.labels[natural]
    refused: dict[int, str] = {}
    for c in np.unique(labels):
        count = int(np.count_nonzero(labels == c))
        if count == natural.size:
            refused[int(c)] = "no other example is retained beside it"
            continue
        try:
            check_request(method, forget=count, retain=n - count, forget_class=int(c))
        except UsageError as error:
            refused[int(c)] = str(error)
    classes = np.array([c for c in np.unique(labels) if c not in (wanted.deletion.forget_class, *refused)], dtype=int)
    if not classes.size:
        why = next(iter(refused.values()), "there is none beside the requested one")
        left_out.append(f"a whole class: {why}.")
    return Stress(arena, method, case.spec.audit.seed, natural, size, classes, case.dataset.classes, tuple(left_out))


def ask_stress(stress: Stress) -> StressEvidence:
    """Find the sets, ask the method to forget each, retrain without each. What fails is left out, with its reason."""
    arena, document = stress.arena, stress.document
    if not stress.rules:
        return StressEvidence(document, ())
    try:
        found = _found(stress, pool_of(arena, POOL, SearchSeeds(stress.seed)))
        seeds = EvaluationSeeds(stress.seed)
        asked = [
            ask(arena, one, [stress.method], seeds, SCALE, among=stress.natural, few=True)
            for one in _candidates(stress, found, seeds)
        ]
        check_judges(arena, found.values(), asked)
    except UsageError as error:
        return StressEvidence(document, (), faults=(f"{ALL}: {error}.",))
    made = iter(arena.fleet.attempt([job for one in asked for job in one.jobs], step="other sets"))
    sets: list[Looked] = []
    faults = []
    for one in asked:
        results = [next(made) for _ in one.jobs]
        fault = next((result.fault for result in results if result.fault is not None), None)
        if fault is None:
            try:
                sets += answered(arena, [one], [result.key for result in results])
            except UsageError as error:
                fault = str(error)
        if fault is not None:
            faults.append(f"{one.candidate.name}: {fault}.")
    there = {one.name for one in sets}
    ranked = {
        name: tuple(float(score) for score in one.scores[:SHOWN])
        for name, one in found.items()
        if one.scores.size and name in there
    }
    return StressEvidence(document, tuple(sets), ranked, tuple(faults), _images(arena, found, sets, ranked))


def _found(stress: Stress, pool: Pool) -> dict[str, Found]:
    arena = stress.arena
    found = {}
    for name in stress.rules:
        if name != CLASS:
            found[name] = search_pool(arena, pool, size=stress.size, by=_BY[name], among=stress.natural)
            continue
        owed = memorization(pool.own, pool.trained)
        places = {int(c): _members(stress, int(c)) for c in stress.classes}
        label = max(places, key=lambda c: float(owed[places[c]].mean()))
        found[name] = Found(CLASS, "", places[label], np.empty(0), "", forget_class=label, keys=pool.keys)
    return found


def _members(stress: Stress, label: int) -> Rows:
    """Places of a class, without canaries that carry its label."""
    places: Rows = stress.natural[stress.arena.labels[stress.natural] == label]
    return places


def _candidates(stress: Stress, found: Mapping[str, Found], seeds: EvaluationSeeds) -> list[Candidate]:
    """The found sets, then the random ones of their kind: of examples, or other classes. Nothing stands beside a class
    among sets of examples: models retrained without a class answer all of it wrong, so the two are never alike."""
    candidates = [Candidate(name, FOUND, "", one.places, one.forget_class) for name, one in found.items()]
    rng = seeds.generator("random sets")
    if stress.size:
        beside = tuple(name for name in found if name != CLASS)
        draws = [np.sort(rng.permutation(stress.natural)[: stress.size]) for _ in range(stress.random)]
        return candidates + [Candidate(f"random {i + 1}", RANDOM, "", p, beside=beside) for i, p in enumerate(draws)]
    chosen = found[CLASS].forget_class
    assert chosen is not None  # of a class
    return candidates + [
        Candidate(f"class {stress.names[c]}", RANDOM, "", _members(stress, int(c)), int(c), (CLASS,))
        for c in other_classes(stress.classes, [chosen], stress.random, rng)
    ]


def _images(
    arena: Arena, found: Mapping[str, Found], sets: Sequence[Looked], ranked: Mapping[str, tuple[float, ...]]
) -> Any:
    """Of the hardest examples that the report shows; None where inputs are no images of bytes."""
    name = hardest_set(sets, ranked)
    if not name:
        return None
    x = arena.fleet.bench.sets.train.take(arena.trained[found[name].places[:SHOWN]]).x.numpy()
    return np.ascontiguousarray(x) if drawable(x) else None


__all__ = ["POOL", "SCALE", "Stress", "ask_stress", "plan_stress"]
