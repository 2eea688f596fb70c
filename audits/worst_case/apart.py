"""Search and evaluation never share a seed, so that a set is never judged by the models it was picked with.

Seeds of a search are even, seeds of an evaluation odd: no two can be equal, whatever is drawn. The two kinds are types
of their own, which functions ask for, and `check_apart` looks at the jobs themselves before anything is judged.
"""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from unlearnkit.result import UsageError


@dataclass(frozen=True)
class Seeds(ABC):
    """Seeds of one purpose, drawn by name from one root: the same name gives the same seeds."""

    parity: ClassVar[int]
    purpose: ClassVar[str]

    root: int

    @final
    def draw(self, what: str, count: int) -> list[int]:
        """So many seeds for `what`: the first k of more are the same."""
        tag = int.from_bytes(hashlib.sha256(f"{self.purpose}/{what}".encode()).digest()[:4], "big")
        state = np.random.SeedSequence([self.root, self.parity, tag]).generate_state(count)
        return [2 * (int(seed) // 2) + self.parity for seed in state]

    @final
    def generator(self, what: str) -> np.random.Generator:
        """Random numbers for `what`."""
        return np.random.default_rng(self.draw(what, 1)[0])


class SearchSeeds(Seeds):
    """For everything that a set is picked with: searches, their unlearnings, the pool."""

    parity, purpose = 0, "search"


class EvaluationSeeds(Seeds):
    """For everything that a set is judged by: its oracles, the unlearnings held against them, the random sets."""

    parity, purpose = 1, "evaluation"


def check_apart(search: Iterable[str], evaluation: Iterable[str]) -> None:
    """Raise `UsageError` when a job of the search (by key) is asked to judge what the search has found."""
    shared = sorted(set(search) & set(evaluation))
    if shared:
        raise UsageError(
            f"certificate: {len(shared)} models were used in the search and cannot judge what it found, the first is "
            f"{shared[0][:12]}; draw other seeds for the evaluation"
        )


__all__ = ["EvaluationSeeds", "SearchSeeds", "Seeds", "check_apart"]
