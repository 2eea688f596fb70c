"""Gaps of forget sets to retraining, found sets among random ones: all numbers of a certificate, from arrays alone.

A set is judged by what unlearned models and models retrained without that very set say of its points, of retained and
of held-out ones. Pure functions, so that `unlearnkit verify` can compute a page on such sets again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from unlearnkit.audits.statistics.hardness import Stand, among_random, mean_gap, mean_interval, stand
from unlearnkit.audits.statistics.rank import oracle_rank
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.hardest import FOUND
from unlearnkit.result import Cell, Flag, Hardness, Measure, SetRecord, UsageError
from unlearnkit.types import Attack, Known, Observation, References

Array = NDArray[np.float64]
Efficacy = Callable[[Observation, Known], float]  # share of the forget set that a membership classifier calls unseen
UA, RA, TA, MIA = "UA", "RA", "TA", "MIA efficacy"
MARGIN = "margin shift"
RANKED = 19  # oracles, from which on the first unlearning is ranked among them: fewer cannot give p <= 0.05
RETRAINED_UA, AVERAGE_GAP = "retrained UA", "average gap"  # measures of a `Hardness`


@dataclass(frozen=True, eq=False)
class Instruments:
    """What is measured beside UA, RA, TA and the margins: attacks by name (their AUC), and the legacy efficacy."""

    attacks: Mapping[str, Attack] = field(default_factory=dict)
    efficacy: Efficacy | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """What several models say about the points of one set: margins, and whether the largest logit is the label's."""

    margins: Float[np.ndarray, "model point"]
    right: Bool[np.ndarray, "model point"]


@dataclass(frozen=True, eq=False)
class Looked:
    """One forget set as its models see it. Points: the set's own in the order of `ids`, then `retained` ones, then
    held-out ones.

    kind: found or random. against: the method in whose way it was put. forget_class: of a whole class, its label; no
    held-out example of it is counted as held-out, since none is to be told any more. beside: of a random set, the found
    ones that are held against it. Raises `UsageError` where points and models do not belong together.
    """

    name: str
    kind: str
    against: str
    forget_class: int | None
    beside: tuple[str, ...]
    ids: Shaped[np.ndarray, " s"]
    y: Int[np.ndarray, " point"]
    retained: int
    oracles: Answers
    unlearned: Mapping[str, Answers]  # by method

    def __post_init__(self) -> None:
        if not 0 < self.retained < self.y.size - self.ids.size - 1 or not self.ids.size:
            raise UsageError(
                f"set {self.name!r}: {self.y.size} points must be {self.ids.size} of the set, {self.retained} retained "
                "ones and held-out ones, at least one, one and two of them"
            )
        if self.forget_class is not None and self.parts[2].size < 2:
            raise UsageError(
                f"set {self.name!r}: at least two held-out points must be of other classes than {self.forget_class}, "
                f"got {self.parts[2].size}"
            )
        for name, one in {"oracles": self.oracles, **self.unlearned}.items():
            if one.margins.shape != one.right.shape or one.margins.shape[1:] != self.y.shape or not len(one.margins):
                raise UsageError(
                    f"set {self.name!r}: answers of {name} must be [model, {self.y.size} points], got "
                    f"{one.margins.shape} and {one.right.shape}"
                )
            if not np.isfinite(one.margins).all():
                raise UsageError(f"set {self.name!r}: margins of {name} must be finite")
        if len(self.oracles.margins) < 2:
            raise UsageError(f"set {self.name!r}: at least two oracles are needed, got {len(self.oracles.margins)}")

    @property
    def parts(self) -> tuple[Int[np.ndarray, " s"], Int[np.ndarray, " r"], Int[np.ndarray, " h"]]:
        """Points of the set, retained and held-out ones; the last without those of a class that is forgotten whole."""
        forget, retained, held_out = np.split(np.arange(self.y.size), [self.ids.size, self.ids.size + self.retained])
        if self.forget_class is not None:
            held_out = held_out[self.y[held_out] != self.forget_class]
        return forget, retained, held_out


@dataclass(frozen=True)
class Standing:
    """What holding a found set against the random ones beside it shows, for one method by one measure."""

    method: str
    set: str
    measure: str  # as of `Hardness`
    word: Stand
    found: float
    random: float  # mean of the random sets
    beside: int  # how many


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was measured, and what it says of every found set."""

    sets: tuple[SetRecord, ...]
    cells: tuple[Cell, ...]
    hardness: tuple[Hardness, ...]
    standings: tuple[Standing, ...] = ()  # one for every row of hardness that is of a method
    flags: tuple[Flag, ...] = ()


def measured(looked: Sequence[Looked], *, classes: int, confidence: float, instruments: Instruments) -> Certificate:
    """Everything that a certificate says of these sets. classes: how many there are, 0 to classes - 1."""
    sets = tuple(_set_record(one, classes, confidence) for one in looked)
    methods = dict.fromkeys(method for one in looked for method in one.unlearned)
    cells = tuple(
        _cell(one, method, confidence, instruments) for method in methods for one in looked if method in one.unlearned
    )
    beside = {
        one.name: [other.name for other in looked if one.name in other.beside] for one in looked if one.kind == FOUND
    }
    return Certificate(sets, cells, *hardness_of(sets, cells, beside, confidence=confidence))


def average_gap(one: Looked, method: str) -> float:
    """Mean distance of UA, RA and TA from retraining, percentage points: `Cell.average_gap` without MIA efficacy."""
    audited, oracles = _rates(one.unlearned[method], one), _rates(one.oracles, one)
    return float(np.mean(_distances([(audited[name], oracles[name]) for name in audited])))


def _distances(rates: Iterable[tuple[Array, Array]]) -> list[Array]:
    """Of every rate: how far each audited model is from the mean of the oracles."""
    return [np.abs(own - others.mean()) for own, others in rates]


def _rates(answers: Answers, looked: Looked) -> dict[str, Array]:
    """UA, RA, TA in percent, one per model. Of a whole class TA is over the held-out examples of all others, as in the
    literature: a model that forgot the class gets its held-out examples wrong, and should."""
    forget, retained, held_out = (100 * answers.right[:, part].mean(axis=1) for part in looked.parts)
    return {UA: 100 - forget, RA: retained, TA: held_out}


def _set_record(one: Looked, classes: int, confidence: float) -> SetRecord:
    forget = one.parts[0]
    return SetRecord(
        one.name,
        one.kind,
        one.against,
        one.ids.size,
        tuple(np.bincount(one.y[forget], minlength=classes).tolist()),
        hashlib.sha256("\n".join(sorted(one.ids.tolist())).encode()).hexdigest(),
        one.forget_class,
        {name: mean_interval(rates, confidence=confidence) for name, rates in _rates(one.oracles, one).items()},
    )


def _cell(one: Looked, method: str, confidence: float, instruments: Instruments) -> Cell:
    pair = (one.unlearned[method], one.oracles)
    rates = [_rates(answers, one) for answers in pair]
    if instruments.efficacy is not None:
        for rate, answers in zip(rates, pair, strict=True):
            rate[MIA] = 100 * np.array([_efficacy(row, one, instruments.efficacy) for row in answers.margins])
    values = {name: (rates[0][name], rates[1][name]) for name in rates[0]}
    measures = [_measure(name, "%", own, others, confidence) for name, (own, others) in values.items()]
    margins = [answers.margins[:, one.parts[0]].astype(np.float64) for answers in pair]
    sigma = max(float(np.sqrt(margins[1].var(axis=0, ddof=1).mean())), 1e-12)
    own, others = (group.mean(axis=1) / sigma for group in margins)
    p = None
    if others.size >= RANKED:
        row = np.concatenate([own[:1], others])[:, None]
        p = oracle_rank(row, tolerances=np.ones(1), confidence=confidence)[0].p
    measures.append(_measure(MARGIN, "σ", own, others, confidence, p))
    for name, attack in instruments.attacks.items():
        own, others = _aucs(attack, one, pair[0].margins)
        measures.append(_measure(f"{name} AUC", "", own, others, confidence))
    floors = [np.abs(others - (others.sum() - others) / (others.size - 1)) for _, others in values.values()]
    return Cell(
        method,
        one.name,
        tuple(measures),
        mean_interval(np.mean(_distances(values.values()), axis=0), confidence=confidence),
        float(np.mean(floors)),
    )


def _measure(
    name: str, unit: str, audited: Array, oracles: Array, confidence: float, p: float | None = None
) -> Measure:
    return Measure(
        name,
        unit,
        mean_interval(audited, confidence=confidence),
        mean_interval(oracles, confidence=confidence),
        mean_gap(audited, oracles, confidence=confidence),
        p,
    )


def _observed(margins: Float[np.ndarray, " point"], one: Looked) -> Observation:
    return Observation(np.arange(one.y.size).astype(str), one.y, margins[:, None].astype(np.float64))


def _efficacy(margins: Float[np.ndarray, " point"], one: Looked, efficacy: Efficacy) -> float:
    """Of one model: members and population for its classifier are what is retained, and what is held out."""
    forget, retained, held_out = one.parts
    seen = _observed(margins, one)
    return efficacy(seen.take(forget), Known(population=seen.take(held_out), members=seen.take(retained)))


def _aucs(attack: Attack, one: Looked, audited: Float[np.ndarray, "model point"]) -> tuple[Array, Array]:
    """AUC of forget against held-out points, of every audited model with all oracles but one as references, and of
    every oracle with the others: both sides see equally many."""
    forget, retained, held_out = one.parts
    others, population = held_out[::2], held_out[1::2]
    points = np.concatenate([forget, others])
    oracles = [_observed(row, one) for row in one.oracles.margins]

    def one_auc(model: Observation, beside: Sequence[Observation]) -> float:
        known = Known(
            references=References.unseen([r.take(points) for r in beside]),
            population=model.take(population),
            population_references=References.unseen([r.take(population) for r in beside]),
            members=model.take(retained),
        )
        values = attack.score(model.take(points), known).values
        return auc(values[: forget.size], values[forget.size :])

    others_of = [[o for o in oracles if o is not oracle] for oracle in oracles]
    return (
        np.array([one_auc(_observed(row, one), others_of[i % len(oracles)]) for i, row in enumerate(audited)]),
        np.array([one_auc(oracle, beside) for oracle, beside in zip(oracles, others_of, strict=True)]),
    )


def hardness_of(
    sets: Sequence[SetRecord], cells: Sequence[Cell], beside: Mapping[str, Sequence[str]], *, confidence: float
) -> tuple[tuple[Hardness, ...], tuple[Standing, ...]]:
    """Found sets among the random ones beside them: what retraining itself answers, then every method's gaps.

    beside: the names of the random sets that are held against each found one; fewer than two show nothing. Every set
    has its UA, and a method the same measures on all sets.
    """
    rows: list[Hardness] = []
    shown: list[Standing] = []
    retrained = {one.name: one.retrained[UA].value for one in sets}
    for name, like in beside.items():
        if len(like) < 2:  # two classes only: nothing to hold a class against
            continue
        values = {("", RETRAINED_UA): [retrained[one] for one in (name, *like)]}
        for method in [cell.method for cell in cells if cell.set == name]:
            by_set = {cell.set: cell for cell in cells if cell.method == method}
            own = [by_set[one] for one in (name, *like)]
            values[method, AVERAGE_GAP] = [cell.average_gap.value for cell in own]
            values |= {
                (method, f"|{measure.name}|"): [abs(cell.measures[i].gap.value) for cell in own]
                for i, measure in enumerate(own[0].measures)
                if measure.unit != "%"
            }
        for (method, measure), (found, *others) in values.items():
            among = among_random(found, others, confidence=confidence)
            rows.append(Hardness(method, name, measure, among.found, among.random, among.ratio, among.p))
            if method:
                word = stand(found, others, confidence=confidence)
                shown.append(Standing(method, name, measure, word, found, among.random.value, len(others)))
    return tuple(rows), tuple(shown)


def told(name: str, hardness: Sequence[Hardness], random: int) -> list[str]:
    """What holding a found set against random ones says of it, in sentences."""
    said = []
    for row in hardness:
        if row.set != name:
            continue
        if row.measure == RETRAINED_UA:
            said.append(
                f"Models retrained without them answer {row.found:.1f} % of them wrong ({UA}); of random sets "
                f"{row.random.value:.1f} %."
            )
        elif row.measure == AVERAGE_GAP:
            times = "" if row.ratio is None else f", {row.ratio:.1f} times as much"
            said.append(
                f"{row.method}: average gap {row.found:.2f} points on this set, {row.random.value:.2f} on random "
                f"sets{times} (exact p = {row.p:.2g}, {random} random sets)."
            )
    return said


__all__ = [
    "AVERAGE_GAP",
    "MARGIN",
    "UA",
    "Answers",
    "Certificate",
    "Instruments",
    "Looked",
    "Standing",
    "average_gap",
    "hardness_of",
    "measured",
    "told",
]
