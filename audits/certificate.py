"""Certificate of hardness: the found sets and random ones beside them, each held against oracles retrained without it.

Nothing here was used in the search: seeds come from `EvaluationSeeds`, and the keys of all models are compared with
those that the search looked at before the first number is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.apart import EvaluationSeeds, check_apart
from unlearnkit.audits.arena import Arena, Found, Rows
from unlearnkit.audits.hardness import among_random, like_mix, mean_gap, mean_interval
from unlearnkit.audits.rank import oracle_rank
from unlearnkit.audits.roc import auc
from unlearnkit.hardest import FOUND, RANDOM
from unlearnkit.jobs import ModelJob
from unlearnkit.result import Cell, Flag, Hardness, Measure, SetRecord, UsageError
from unlearnkit.types import Attack, Known, Method, Observation, References

Array = NDArray[np.float64]
Efficacy = Callable[[Observation, Known], float]  # share of the forget set that a membership classifier calls unseen
UA, RA, TA, MIA = "UA", "RA", "TA", "MIA efficacy"
MARGIN = "margin shift"


@dataclass(frozen=True, eq=False)
class Instruments:
    """What is measured beside UA, RA, TA and the margins: attacks by name (their AUC), and the legacy efficacy."""

    attacks: Mapping[str, Attack] = field(default_factory=dict)
    efficacy: Efficacy | None = None
    logits: bool = False  # whether one of them needs whole outputs


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
    forget_class: int | None
    beside: str = ""  # of a random set: the found one that it is like


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was measured, and what it says of every found set."""

    sets: tuple[SetRecord, ...]
    cells: tuple[Cell, ...]
    hardness: tuple[Hardness, ...]
    flags: tuple[Flag, ...]


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
    candidates, flags = _candidates(arena, found, seeds, scale)
    oracles = {
        one.name: [
            arena.retrained(one.places, seed=seed) for seed in seeds.draw(f"oracles of {one.name}", scale.oracles)
        ]
        for one in candidates
    }
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise UsageError(f"worst_case.methods: every method may stand there once, got {', '.join(names)}")
    unlearned = {
        (method.name, one.name): [
            arena.unlearned(method, one.places, seed=seed, forget_class=one.forget_class)
            for seed in seeds.draw(f"{method.name} on {one.name}", scale.unlearnings)
        ]
        for method in methods
        for one in candidates
    }
    groups: list[Sequence[ModelJob]] = [*oracles.values(), *unlearned.values()]
    jobs = [job for group in groups for job in group]
    key = arena.fleet.key
    check_apart((k for one in found.values() for k in one.keys), map(key, jobs))
    arena.fleet.run([arena.original])
    keys = iter(arena.fleet.run([arena.look(job, logits=instruments.logits) for job in jobs]))
    seen = [[arena.seen(next(keys)) for _ in group] for group in groups]
    by_set = dict(zip(oracles, seen[: len(oracles)], strict=True))
    by_pair = dict(zip(unlearned, seen[len(oracles) :], strict=True))
    sets = tuple(_set_record(arena, one, by_set[one.name], scale) for one in candidates)
    cells = tuple(
        _cell(arena, method, one, by_pair[method, one.name], by_set[one.name], scale, instruments)
        for method, name in by_pair
        for one in candidates
        if one.name == name
    )
    return Certificate(sets, cells, _hardness(candidates, sets, cells, scale), tuple(flags))


def _candidates(
    arena: Arena, found: Mapping[str, Found], seeds: EvaluationSeeds, scale: Scale
) -> tuple[list[Candidate], list[Flag]]:
    """The found sets, each followed by random ones of the same size and class mix; a class by other classes."""
    candidates, flags = [], []
    classes = np.unique(arena.labels)
    for name, one in found.items():
        candidates.append(Candidate(name, FOUND, one.against, one.places, one.forget_class))
        rng = seeds.generator(f"random sets beside {name}")
        if one.forget_class is not None:
            others = rng.permutation(classes[classes != one.forget_class])[: scale.random]
            flags.append(
                Flag("other classes", f"{name} is a whole class; {others.size} other classes stand for random sets.")
            )
            candidates += [
                Candidate(f"class {c} beside {name}", RANDOM, "", np.flatnonzero(arena.labels == c), int(c), name)
                for c in others
            ]
            continue
        mixed = True
        for i in range(scale.random):
            places, mixed = like_mix(arena.labels, one.places, rng)
            candidates.append(Candidate(f"random {i + 1} beside {name}", RANDOM, "", places, None, name))
        if not mixed:
            flags.append(
                Flag("class mix", f"{name} is made of whole classes; the random sets have its size, not its class mix.")
            )
    return candidates, flags


def _rates(one: Observation, places: Rows, trained: int) -> dict[str, float]:
    """UA, RA, TA in percent."""
    right = one.margins[:, 0] > 0
    forget = np.zeros(trained, dtype=bool)
    forget[places] = True
    return {
        UA: 100 * float(np.mean(~right[:trained][forget])),
        RA: 100 * float(np.mean(right[:trained][~forget])),
        TA: 100 * float(np.mean(right[trained:])),
    }


def _set_record(arena: Arena, one: Candidate, oracles: Sequence[Observation], scale: Scale) -> SetRecord:
    rates = [_rates(oracle, one.places, arena.trained.size) for oracle in oracles]
    ids = sorted(arena.ids[one.places].tolist())
    return SetRecord(
        one.name,
        one.kind,
        one.against,
        one.places.size,
        tuple(np.bincount(arena.labels[one.places], minlength=int(arena.labels.max()) + 1).tolist()),
        hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        one.forget_class,
        {
            name: mean_interval(np.array([rate[name] for rate in rates]), confidence=scale.confidence)
            for name in rates[0]
        },
    )


def _cell(
    arena: Arena,
    method: str,
    one: Candidate,
    audited: Sequence[Observation],
    oracles: Sequence[Observation],
    scale: Scale,
    instruments: Instruments,
) -> Cell:
    n, places = arena.trained.size, one.places
    rates = [[_rates(model, places, n) for model in group] for group in (audited, oracles)]
    if instruments.efficacy is not None:
        for group, models in zip(rates, (audited, oracles), strict=True):
            for rate, model in zip(group, models, strict=True):
                rate[MIA] = 100 * instruments.efficacy(model.take(places), _attacker(model, places, n))
    values = {name: [np.array([rate[name] for rate in group]) for group in rates] for name in rates[0][0]}
    measures = [_measure(name, "%", own, others, scale) for name, (own, others) in values.items()]
    margins = [np.stack([model.margins[places, 0] for model in group]) for group in (audited, oracles)]
    sigma = max(float(np.sqrt(margins[1].var(axis=0, ddof=1).mean())), 1e-12)
    own, others = (group.mean(axis=1) / sigma for group in margins)
    ranked = oracle_rank(
        np.concatenate([own[:1], others])[:, None], tolerances=np.ones(1), confidence=scale.confidence
    )[0]
    measures.append(_measure(MARGIN, "σ", own, others, scale, ranked.p))
    for name, attack in instruments.attacks.items():
        own, others = _aucs(attack, places, n, audited, oracles)
        measures.append(_measure(f"{name} AUC", "", own, others, scale))
    distances = [np.abs(pair[0] - pair[1].mean()) for pair in values.values()]
    floors = [np.abs(pair[1] - (pair[1].sum() - pair[1]) / (pair[1].size - 1)) for pair in values.values()]
    return Cell(
        method,
        one.name,
        tuple(measures),
        mean_interval(np.mean(distances, axis=0), confidence=scale.confidence),
        float(np.mean(floors)),
    )


def _measure(name: str, unit: str, audited: Array, oracles: Array, scale: Scale, p: float | None = None) -> Measure:
    return Measure(
        name,
        unit,
        mean_interval(audited, confidence=scale.confidence),
        mean_interval(oracles, confidence=scale.confidence),
        mean_gap(audited, oracles, confidence=scale.confidence),
        p,
    )


def _attacker(model: Observation, places: Rows, trained: int) -> Known:
    """Members and population for a classifier of membership: what is retained, and what is held out."""
    retained = np.delete(np.arange(trained), np.sort(places))
    return Known(population=model.take(np.arange(trained, len(model))), members=model.take(retained))


def _aucs(
    attack: Attack, places: Rows, trained: int, audited: Sequence[Observation], oracles: Sequence[Observation]
) -> tuple[Array, Array]:
    """AUC of forget against held-out points, of every audited model with all oracles but one as references, and of
    every oracle with the others: both sides see equally many."""
    held_out = np.arange(trained, len(oracles[0]))
    others, population = held_out[::2], held_out[1::2]
    points = np.concatenate([places, others])

    def one_auc(model: Observation, beside: Sequence[Observation]) -> float:
        known = Known(
            references=References.unseen([r.take(points) for r in beside]),
            population=model.take(population),
            population_references=References.unseen([r.take(population) for r in beside]),
            members=model.take(np.delete(np.arange(trained), np.sort(places))),
        )
        values = attack.score(model.take(points), known).values
        return auc(values[: places.size], values[places.size :])

    others_of = [[o for o in oracles if o is not oracle] for oracle in oracles]
    return (
        np.array([one_auc(model, others_of[i % len(oracles)]) for i, model in enumerate(audited)]),
        np.array([one_auc(oracle, beside) for oracle, beside in zip(oracles, others_of, strict=True)]),
    )


def _hardness(
    candidates: Sequence[Candidate], sets: Sequence[SetRecord], cells: Sequence[Cell], scale: Scale
) -> tuple[Hardness, ...]:
    """Every found set among the random ones beside it: what retraining itself answers, then every method's gaps."""
    rows: list[Hardness] = []

    def hold(method: str, name: str, measure: str, value: Callable[[str], float], like: list[str]) -> None:
        among = among_random(value(name), [value(other) for other in like], confidence=scale.confidence)
        rows.append(Hardness(method, name, measure, among.found, among.random, among.ratio, among.p))

    retrained = {one.name: one.retrained[UA].value for one in sets}
    by_pair = {(cell.method, cell.set): cell for cell in cells}
    for one in candidates:
        if one.kind != FOUND:
            continue
        like = [other.name for other in candidates if other.beside == one.name]
        if len(like) < 2:  # two classes only: nothing to hold a class against
            continue
        hold("", one.name, "retrained UA", retrained.__getitem__, like)
        for method in dict.fromkeys(cell.method for cell in cells):
            hold(method, one.name, "average gap", lambda s, m=method: by_pair[m, s].average_gap.value, like)  # type: ignore[misc]
            for i, measure in enumerate(by_pair[method, one.name].measures):
                if measure.unit != "%":
                    hold(
                        method,
                        one.name,
                        f"|{measure.name}|",
                        lambda s, m=method, i=i: abs(by_pair[m, s].measures[i].gap.value),  # type: ignore[misc]
                        like,
                    )
    return tuple(rows)


__all__ = ["Certificate", "Instruments", "Scale", "certify"]
