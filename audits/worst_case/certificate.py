"""Certificate of hardness: the found sets and random ones beside them, each held against oracles retrained without it.

Nothing here was used in the search: seeds come from `EvaluationSeeds`, and the keys of all models are compared with
those that the search looked at before the first number is computed. The numbers themselves are `gaps.measured`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.statistics.hardness import like_mix
from unlearnkit.audits.statistics.sampling import evenly
from unlearnkit.audits.worst_case.apart import EvaluationSeeds, check_apart
from unlearnkit.audits.worst_case.arena import Arena, Found, Rows
from unlearnkit.audits.worst_case.gaps import Answers, Certificate, Instruments, Looked, measured
from unlearnkit.hardest import FOUND, RANDOM
from unlearnkit.jobs import ObserveJob, Points
from unlearnkit.result import Flag, UsageError
from unlearnkit.store import Store
from unlearnkit.types import Method


@dataclass(frozen=True)
class Scale:
    """How much is spent. random: sets beside each found one; oracles, unlearnings: of each set, each with a seed."""

    random: int = 5
    oracles: int = 5
    unlearnings: int = 3
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, least in (("random", 5), ("oracles", 2), ("unlearnings", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"worst_case.{name}: must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One set to be judged."""

    name: str
    kind: str
    against: str
    places: Rows
    forget_class: int | None = None
    beside: tuple[str, ...] = ()  # of a random set: the found ones that are held against it


@dataclass(frozen=True, eq=False)
class Asked:
    """The models by which one set is judged, and the points that they are asked about: as `Looked` has them."""

    candidate: Candidate
    points: Points
    oracles: tuple[ObserveJob, ...]
    unlearned: Mapping[str, tuple[ObserveJob, ...]]

    @property
    def jobs(self) -> list[ObserveJob]:
        """All of them: the oracles, then method by method."""
        return [*self.oracles, *(job for jobs in self.unlearned.values() for job in jobs)]


def certify(
    arena: Arena,
    found: Mapping[str, Found],
    methods: Sequence[Method],
    seeds: EvaluationSeeds,
    *,
    scale: Scale,
    instruments: Instruments,
) -> Certificate:
    """Judge the found sets, by name. Raises `UsageError` when a model of a search is asked to judge, and for methods
    that cannot be asked to forget these sets."""
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise UsageError(f"worst_case.methods: every method may stand there once, got {', '.join(names)}")
    candidates, flags = _candidates(arena, found, seeds, scale)
    asked = [ask(arena, one, methods, seeds, scale) for one in candidates]
    jobs = [job for one in asked for job in one.jobs]
    check_judges(arena, found.values(), asked)
    arena.fleet.run([arena.original])
    keys = arena.fleet.run(jobs, step="certificate")
    certificate = measured(
        answered(arena, asked, keys),
        classes=int(arena.labels.max()) + 1,
        confidence=scale.confidence,
        instruments=instruments,
    )
    return replace(certificate, flags=tuple(flags))


def ask(
    arena: Arena,
    one: Candidate,
    methods: Sequence[Method],
    seeds: EvaluationSeeds,
    scale: Scale,
    *,
    among: Rows | None = None,
    few: bool = False,
) -> Asked:
    """Oracles of this set and unlearnings of it, each with a seed of its own; no weights are kept.

    among: places of which the retained points are taken, all by default. few: a sample of retained and of held-out
    points is enough. Raises `UsageError` for methods that cannot be asked to forget such a set.
    """
    others = np.setdiff1d(np.arange(arena.trained.size) if among is None else among, one.places)
    held_out = arena.held_out
    if few:
        others, held_out = evenly(others), evenly(held_out)
    points = Points(arena.trained[np.concatenate([one.places, others])], held_out)
    return Asked(
        one,
        points,
        tuple(
            arena.look(arena.retrained(one.places, seed=seed), points=points, logits=True)
            for seed in seeds.draw(f"oracles of {one.name}", scale.oracles)
        ),
        {
            method.name: tuple(
                arena.look(
                    arena.unlearned(method, one.places, seed=seed, forget_class=one.forget_class),
                    points=points,
                    logits=True,
                )
                for seed in seeds.draw(f"{method.name} on {one.name}", scale.unlearnings)
            )
            for method in methods
        },
    )


def check_judges(arena: Arena, found: Iterable[Found], asked: Sequence[Asked]) -> None:
    """Raise `UsageError` when a model that a search looked at is among those by which its set is judged."""
    judges = (arena.fleet.key(model) for one in asked for job in one.jobs for model in job.stages)
    check_apart((key for one in found for key in one.keys), judges)


def answered(arena: Arena, asked: Sequence[Asked], keys: Sequence[str]) -> list[Looked]:
    """What the models of every set say, from the store; keys in the order of the jobs."""
    sets, found, left = arena.fleet.bench.sets, [], iter(keys)
    for one in asked:
        points = one.points
        y = np.concatenate([sets.train.labels().numpy()[points.train], sets.test.labels().numpy()[points.test]])
        size = one.candidate.places.size
        found.append(
            Looked(
                one.candidate.name,
                one.candidate.kind,
                one.candidate.against,
                one.candidate.forget_class,
                one.candidate.beside,
                sets.train.ids[points.train[:size]],
                y.astype(np.int64),
                points.train.size - size,
                _answers(arena.fleet.store, [next(left) for _ in one.oracles], y),
                {
                    name: _answers(arena.fleet.store, [next(left) for _ in jobs], y)
                    for name, jobs in one.unlearned.items()
                },
            )
        )
    return found


def _answers(store: Store, keys: Sequence[str], y: NDArray[np.int64]) -> Answers:
    margins, right = [], []
    for key in keys:
        arrays = store.map(key)
        margins.append(np.array(arrays["margins"][0, :, 0]))
        right.append(np.asarray(arrays["logits"][0, :, 0].argmax(axis=-1) == y))
    return Answers(np.stack(margins), np.stack(right))


def _candidates(
    arena: Arena, found: Mapping[str, Found], seeds: EvaluationSeeds, scale: Scale
) -> tuple[list[Candidate], list[Flag]]:
    """The found sets, each followed by random ones of the same size and class mix; a class by other classes."""
    candidates, flags = [], []
    for name, one in found.items():
        candidates.append(Candidate(name, FOUND, one.against, one.places, one.forget_class))
        rng = seeds.generator(f"random sets beside {name}")
        if one.forget_class is not None:
            others = other_classes(arena.labels, [one.forget_class], scale.random, rng)
            flags.append(
                Flag("other classes", f"{name} is a whole class; {others.size} other classes stand for random sets.")
            )
            candidates += [
                Candidate(f"class {c} beside {name}", RANDOM, "", np.flatnonzero(arena.labels == c), int(c), (name,))
                for c in others
            ]
            continue
        mixed = True
        for i in range(scale.random):
            places, mixed = like_mix(arena.labels, one.places, rng)
            candidates.append(Candidate(f"random {i + 1} beside {name}", RANDOM, "", places, beside=(name,)))
        if not mixed:
            flags.append(
                Flag("class mix", f"{name} is made of whole classes; the random sets have its size, not its class mix.")
            )
    return candidates, flags


def other_classes(
    labels: NDArray[np.int64], but: Sequence[int], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """At most so many classes, drawn among those that occur and are not named."""
    return rng.permutation(np.setdiff1d(labels, np.array(but)))[:most]


__all__ = ["Asked", "Candidate", "Scale", "answered", "ask", "certify", "check_judges", "other_classes"]
