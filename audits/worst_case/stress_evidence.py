"""Other sets than the requested one, as evidence: what was seen of them, and all that a report says about them.

Pure functions of arrays, so that `unlearnkit verify` judges the page again. No verdict hangs on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from unlearnkit.audits.statistics.hardness import prediction_reach
from unlearnkit.audits.worst_case.gaps import Answers, Certificate, Instruments, Looked, average_gap, measured, told
from unlearnkit.hardest import FOUND, RANDOM
from unlearnkit.result import Flag, HardExample, Interval, Measure, StressSets, UsageError

PREFIX = "stress/"
ALL = "all of them"  # of a fault: no set was asked for
SHOWN = 10  # hardest examples that are named, and shown where they are images
LEAST = 5  # examples of a set, below which none is called clearly harder
WORTH = {"%": 1.0}  # points by which a percentage must be farther from retraining, on top of all intervals


@dataclass(frozen=True, eq=False)
class StressEvidence:
    """What models say of every set, and what was written down before any of them was made.

    document: method, rules, sizes, numbers of models, content keys of the pool, what was left out. hardest: scores of
    the first examples of each found set that a search ranked. faults: sets that were asked for and failed, with the
    reason. images: of the first examples of the set that `hardest_set` names. Raises `UsageError` for sets of one name.
    """

    document: Mapping[str, Any]
    sets: tuple[Looked, ...]
    hardest: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    images: UInt8[np.ndarray, "k c h w"] | None = None

    def __post_init__(self) -> None:
        names = [one.name for one in self.sets]
        if len(set(names)) < len(names):
            raise UsageError(f"evidence: every set must have a name of its own, got {', '.join(names)}")
        if strange := sorted(set(self.hardest) - set(names)):
            raise UsageError(f"evidence: scores of a set that is not there, {strange[0]!r}")

    @property
    def planned(self) -> dict[str, Any]:
        """What was registered, to be set beside `done`."""
        names = ("random", "size", "oracles", "unlearnings")
        points = self.document.get("points", {})
        return {
            "found": sorted(self.document["rules"]),
            **{name: self.document[name] for name in names},
            "points": {one.name: points[_sized(one)] for one in self.sets if points},
        }

    @property
    def done(self) -> dict[str, Any]:
        """What lies here, or is said to have failed: no set may be left out in silence, or judged by fewer models."""
        failed = {fault.partition(": ")[0] for fault in self.faults}
        if ALL in failed:
            return self.planned
        there = {one.name for one in self.sets if one.kind == FOUND}
        lost = failed & set(self.document["rules"])
        counts = {
            "size": {one.ids.size for one in self.sets if one.forget_class is None},
            "oracles": {len(one.oracles.margins) for one in self.sets},
            "unlearnings": {len(answers.margins) for one in self.sets for answers in one.unlearned.values()},
        }
        return {
            "found": sorted(there | lost),
            "random": len(self.sets) - len(there) + len(failed - lost),
            **{name: found.pop() if len(found) == 1 else self._usual(name, found) for name, found in counts.items()},
            "points": {
                one.name: [one.ids.size, one.retained, one.y.size - one.ids.size - one.retained]
                for one in self.sets
                if "points" in self.document
            },
        }

    def _usual(self, name: str, found: set[int]) -> Any:
        """Of no set everything is as planned; several numbers never are."""
        return sorted(found) if found else self.document[name]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """For the sidecar: margins as float32, names and settings as JSON."""
        about = {
            "document": dict(self.document),
            "faults": list(self.faults),
            "hardest": {name: list(scores) for name, scores in self.hardest.items()},
            "sets": [
                {
                    **{name: getattr(one, name) for name in ("name", "kind", "against", "forget_class", "retained")},
                    "beside": list(one.beside),
                    "ids": one.ids.tolist(),
                    "methods": list(one.unlearned),
                }
                for one in self.sets
            ],
        }
        arrays: dict[str, NDArray[np.generic]] = {
            f"{PREFIX}about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)
        }
        for i, one in enumerate(self.sets):
            arrays[f"{PREFIX}{i}/label"] = one.y.astype(np.int32)
            for name, answers in {"oracles": one.oracles, **one.unlearned}.items():
                arrays[f"{PREFIX}{i}/{name}/margins"] = answers.margins.astype(np.float32)
                arrays[f"{PREFIX}{i}/{name}/right"] = answers.right.astype(np.uint8)
        if self.images is not None:
            arrays[f"{PREFIX}images"] = self.images
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> StressEvidence | None:
        """Of a sidecar; None where it holds no such sets."""
        if f"{PREFIX}about" not in arrays:
            return None
        about = json.loads(arrays[f"{PREFIX}about"].tobytes())

        def answers(i: int, name: str) -> Answers:
            right = arrays[f"{PREFIX}{i}/{name}/right"]
            return Answers(arrays[f"{PREFIX}{i}/{name}/margins"], right.astype(bool))

        return cls(
            document=about["document"],
            sets=tuple(
                Looked(
                    one["name"],
                    one["kind"],
                    one["against"],
                    one["forget_class"],
                    tuple(one["beside"]),
                    np.array(one["ids"], dtype=str),
                    arrays[f"{PREFIX}{i}/label"].astype(np.int64),
                    one["retained"],
                    answers(i, "oracles"),
                    {name: answers(i, name) for name in one["methods"]},
                )
                for i, one in enumerate(about["sets"])
            ),
            hardest={name: tuple(scores) for name, scores in about["hardest"].items()},
            faults=tuple(about["faults"]),
            images=arrays.get(f"{PREFIX}images"),
        )


def _sized(one: Looked) -> str:
    """By what a document names the points of a set: of each class its own, of examples the same."""
    return "examples" if one.forget_class is None else str(one.forget_class)


def hardest_set(sets: Sequence[Looked], ranked: Mapping[str, tuple[float, ...]]) -> str:
    """Of the sets that a search ranked the one with the largest average gap; empty where there is none."""
    gaps = {one.name: average_gap(one, method) for one in sets if one.name in ranked for method in one.unlearned}
    return max(gaps, key=gaps.__getitem__, default="")


def stress_sets(
    seen: StressEvidence, *, classes: Sequence[str], confidence: float, instruments: Instruments
) -> StressSets:
    """All that is said of these sets. classes: names by label. Where they cannot be judged, they are left out."""
    document, faults = seen.document, seen.faults
    try:
        found = measured(seen.sets, classes=len(classes), confidence=confidence, instruments=instruments)
    except UsageError as error:
        found, seen = Certificate((), (), ()), replace(seen, sets=(), hardest={}, images=None)
        faults = (*faults, f"{ALL}: {error}.")
    floors = [cell.floor for cell in found.cells if cell.floor is not None]
    name = hardest_set(seen.sets, seen.hardest)
    hardest: tuple[HardExample, ...] = ()
    if name:
        one = next(one for one in seen.sets if one.name == name)
        hardest = tuple(
            HardExample(str(one.ids[i]), classes[one.y[i]], score) for i, score in enumerate(seen.hardest[name])
        )
    result = StressSets(
        method=document["method"],
        confidence=confidence,
        oracles=document["oracles"],
        unlearnings=document["unlearnings"],
        pool=len(document["pool"]),
        sets=found.sets,
        cells=found.cells,
        hardness=found.hardness,
        floor=float(np.mean(floors)) if floors else None,
        hardest_set=name,
        hardest=hardest,
        unit=document["units"].get(name, ""),
        sentences=(),
        left_out=(*document["left out"], *faults),
    )
    return replace(result, sentences=_sentences(result, document, classes))


def harder(found: StressSets) -> dict[str, tuple[str, ...]]:
    """Found sets on which the method is clearly farther from retraining than on random ones, and by which measures.

    Clearly: the whole Welch interval of the gap lies farther from 0 than the farther end of the interval on every
    random set, and the gap itself farther than Student's prediction interval over their gaps, which allows for how much
    sets differ by chance under one and the same original, and whose error all sets and measures share (Bonferroni); of
    a percentage, by more than one point. With five random sets an exact rank could not fall below 1/6.
    Simulated where no set is harder: three found and five random sets of one law, one original, a method that leaves
    each example what that one remembers of it, 4 σ in the mean. Of 250 audits each were flagged, and by Welch intervals
    alone: of 1 example in a set 7.6 % (17.6 %), of 3 2.8 % (14.0 %), of 20 0.8 % (7.2 %), of 100 none (2.0 %); at 8 σ
    of 5 examples 2.0 % (20.8 %), of 20 2.0 % (19.6 %). Below `LEAST` examples, therefore, nothing is said.
    """
    held, sets = _held(found), {one.name: one for one in found.sets}
    random = [cell for cell in found.cells if sets[cell.set].kind == RANDOM]
    if not held or _smallest(found) < LEAST:
        return {}
    names = [measure.name for measure in random[0].measures]
    confidence = 1 - (1 - found.confidence) / (len(held) * len(names))
    gaps = {name: [cell.measures[i].gap for cell in random] for i, name in enumerate(names)}
    reach = {name: max(map(_reach, of)) for name, of in gaps.items()}
    usual = {
        name: prediction_reach(np.array([gap.value for gap in of]), confidence=confidence) for name, of in gaps.items()
    }

    def clearly(measure: Measure) -> bool:
        worth = WORTH.get(measure.unit, 0.0)
        beyond = abs(measure.gap.value) > usual[measure.name] + worth
        return beyond and _nearest(measure.gap) > reach[measure.name] + worth

    worse = {cell.set: tuple(m.name for m in cell.measures if clearly(m)) for cell in found.cells if cell.set in held}
    return {name: measures for name, measures in worse.items() if measures}


def _held(found: StressSets) -> set[str]:
    """Found sets beside which random ones of their kind stand."""
    return {row.set for row in found.hardness}


def _smallest(found: StressSets) -> int:
    """Examples in the smallest set that is held against another."""
    return min(one.size for one in found.sets if one.kind == RANDOM or one.name in _held(found))


def _reach(gap: Interval) -> float:
    """The farther end from 0."""
    low, high = _ends(gap)
    return max(abs(low), abs(high))


def _nearest(gap: Interval) -> float:
    """The nearer end to 0; 0 where the interval holds it."""
    low, high = _ends(gap)
    return max(low, -high, 0.0)


def _ends(gap: Interval) -> tuple[float, float]:
    if gap.low is None or gap.high is None:  # of one model nothing is sure
        return -np.inf, np.inf
    return gap.low, gap.high


def stress_flags(found: StressSets) -> tuple[Flag, ...]:
    """For page one, where a request for other examples would have been carried out clearly worse."""
    worse = harder(found)
    if not worse:
        return ()
    beside = [one for one in found.sets if one.kind == RANDOM]
    random, what = len(beside), "other classes" if beside[0].forget_class is not None else "random ones"
    return (
        Flag(
            "harder sets",
            f"{found.method} is clearly farther from retraining on other sets than on any of {random} {what}: "
            f"{_listed(worse)}. {_clearly(found)} The verdict is about the requested examples and does not count this.",
        ),
    )


def _listed(worse: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{name} ({', '.join(measures)})" for name, measures in worse.items())


def _clearly(found: StressSets) -> str:
    return (
        f"Clearly: the whole {100 * found.confidence:g}\u00a0% Welch interval of the gap lies farther from 0 than each "
        "of theirs, and the gap than a prediction interval over their gaps (Student, Bonferroni over all sets and "
        "measures); of a percentage by more than one point."
    )


def _sentences(found: StressSets, document: Mapping[str, Any], classes: Sequence[str]) -> tuple[str, ...]:
    sets = [one for one in found.sets if one.kind == FOUND]
    random = len(found.sets) - len(sets)
    if not sets:
        return ("No other set could be asked for.",)
    others = "1 other set" if len(sets) == 1 else f"{len(sets)} other sets"
    beside = (
        "All found sets of examples are held against the same random ones, of their size but not of their class mix."
        if document["shared"]
        else "Other classes stand for random sets."
    )
    said = [
        f"{found.method} was asked to forget {others} of these training data and {random} random ones, "
        f"{found.unlearnings} times each from the same original; every set has {found.oracles} models of its own that "
        f"were retrained without it. {found.pool} models on random halves found the sets, and none of them judges. "
        "All sets are drawn from retained examples: no requested one and no canary is in any. "
        f"{beside}"
    ]
    for one in sets:
        which = "" if one.forget_class is None else f" ({classes[one.forget_class]!r})"
        size = (
            f"{one.name}{which}: {one.size:,} of {document['of']:,} training examples, {document['rules'][one.name]}."
        )
        alone = ["One class; nothing of its kind stands beside it."] if document["shared"] and which else []
        said.append(" ".join([size, *alone, *told(one.name, found.hardness, random)]))
    worse = harder(found)
    if not _held(found):
        said.append("There are too few random sets of their kind to hold these against.")
    elif _smallest(found) < LEAST:
        said.append(
            f"With fewer than {LEAST} examples in a set, chance alone sets one apart: none is called clearly harder."
        )
    elif worse:
        said.append(f"Clearly farther from retraining than on every random set: {_listed(worse)}. {_clearly(found)}")
    else:
        said.append(f"On none of those held against random sets is a gap clearly larger. {_clearly(found)}")
    return tuple(said)


__all__ = ["ALL", "LEAST", "PREFIX", "SHOWN", "StressEvidence", "harder", "hardest_set", "stress_flags", "stress_sets"]
