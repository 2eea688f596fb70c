"""What a worst-case search found and how hard it is: the versioned file worst_case.json. Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pydantic
from pydantic import ConfigDict, TypeAdapter

from unlearnkit.result import DataRecord, Environment, Evidence, Flag, Interval, UsageError

SCHEMA = 1
FOUND, RANDOM = "found", "random"


@dataclass(frozen=True)
class TraceStep:
    """One step of a search."""

    objective: float
    replaced: float  # share of the set that this step exchanged
    overlap: float  # share of the set that was in the random start


@dataclass(frozen=True)
class SetRecord:
    """One forget set: a found one, or a random one beside it."""

    name: str
    kind: str  # found, random
    against: str  # the method in whose way it was put; empty: none, or a random set
    size: int
    classes: tuple[int, ...]  # how many examples of each class
    fingerprint: str  # SHA-256 of the sorted ids, one a line
    forget_class: int | None
    retrained: dict[str, Interval]  # UA, RA, TA of its oracles, percent


@dataclass(frozen=True)
class SearchRecord:
    """How a set was found. ids: the whole set, the hardest first, as `deletion.forget_ids` reads them."""

    set: str  # name of the set
    search: str
    against: str
    cost: str
    settings: dict[str, Any]
    unit: str  # of the scores
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    trace: tuple[TraceStep, ...]


@dataclass(frozen=True)
class Measure:
    """One number of a method on a set, beside that of the oracles of that very set."""

    name: str
    unit: str
    audited: Interval  # mean over unlearnings with different seeds
    oracles: Interval
    gap: Interval  # audited minus oracles
    p: float | None = None  # exact rank among the oracles, where there is a test


@dataclass(frozen=True)
class Cell:
    """One method on one set."""

    method: str
    set: str
    measures: tuple[Measure, ...]
    average_gap: Interval  # mean distance of UA, RA, TA (and MIA) from retraining, percentage points, over the seeds
    floor: float | None  # the same of one oracle held against the others; None for a single oracle


@dataclass(frozen=True)
class Hardness:
    """A found set among the random ones."""

    method: str  # empty: of the oracles themselves
    set: str
    measure: str
    found: float
    random: Interval
    ratio: float | None  # None where the random sets have none
    p: float  # exact; bounded below by 1 / (1 + random sets)


@dataclass(frozen=True)
class WorstCase:
    """Everything that `unlearnkit worst-case` found. A page is a pure function of it and of its evidence (images)."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    schema: int
    id: str
    organization: str
    command: str
    spec: dict[str, Any]
    data: DataRecord
    architecture: str
    seed: int
    confidence: float
    oracles: int  # of each set
    unlearnings: int  # of each method on each set
    searches: tuple[SearchRecord, ...]
    sets: tuple[SetRecord, ...]
    methods: tuple[str, ...]
    cells: tuple[Cell, ...]
    hardness: tuple[Hardness, ...]
    sentences: tuple[str, ...]  # what was found, in words
    flags: tuple[Flag, ...]
    evidence: Evidence  # images of the ten hardest examples
    environment: Environment

    def cell(self, method: str, name: str) -> Cell:
        """One method on one set."""
        return next(cell for cell in self.cells if (cell.method, cell.set) == (method, name))

    def to_json(self) -> str:
        """The file's text with a digest over all of it; NaN and infinity are refused."""
        body = dataclasses.asdict(self)
        return json.dumps({**body, "digest": _digest(body)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, what: str = "worst_case.json") -> WorstCase:
        """Read and validate; refuses another schema, what is no such result, and one changed afterwards."""
        try:
            body = json.loads(text)
            json.dumps(body, allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{what}: not readable as JSON ({error})") from error
        if not isinstance(body, dict) or body.get("schema") != SCHEMA or "searches" not in body:
            raise UsageError(f"{what}: not a worst-case result of schema {SCHEMA}; 'unlearnkit worst-case' writes one")
        digest = body.pop("digest", None)
        try:
            result: WorstCase = TypeAdapter(cls).validate_json(json.dumps(body), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{what}: not a valid worst-case result: {where}: {first['msg']}") from error
        if digest != _digest(body):
            raise UsageError(f"{what}: the content does not match its own digest; the file was changed afterwards")
        return result


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


__all__ = [
    "FOUND",
    "RANDOM",
    "SCHEMA",
    "Cell",
    "Hardness",
    "Measure",
    "SearchRecord",
    "SetRecord",
    "TraceStep",
    "WorstCase",
]
