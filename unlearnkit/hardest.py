"""What a worst-case search found and how hard it is: the versioned file worst_case.json. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from unlearnkit.result import Cell, DataRecord, Environment, Evidence, Flag, Hardness, SetRecord, opened, sealed

SCHEMA = 1
FOUND, RANDOM = "found", "random"
IDS = "forget.txt"  # file of the first set that was found, as `deletion.forget_ids` reads it


@dataclass(frozen=True)
class TraceStep:
    """One step of a search."""

    objective: float
    replaced: float  # share of the set that this step exchanged
    overlap: float  # share of the set that was in the random start


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
        return sealed(self)

    @classmethod
    def from_json(cls, text: str | bytes, *, what: str = "worst_case.json") -> WorstCase:
        """Read and validate; refuses another schema, what is no such result, and one changed afterwards."""
        return opened(cls, text, what=what, kind="worst-case result", mark="searches", schema=SCHEMA)


def beside(name: str, sets: Sequence[SetRecord]) -> list[SetRecord]:
    """The random sets, or other classes, that stand beside a found set."""
    return [one for one in sets if one.kind == RANDOM and one.name.endswith(f" beside {name}")]


def drawable(images: NDArray[Any] | None) -> bool:
    """Whether these are images of bytes, gray or in color, [image, channel, height, width]."""
    return images is not None and images.ndim == 4 and images.shape[1] in (1, 3) and images.dtype == np.uint8


__all__ = ["FOUND", "IDS", "RANDOM", "SCHEMA", "SearchRecord", "TraceStep", "WorstCase", "beside", "drawable"]
