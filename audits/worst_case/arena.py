"""Where sets are searched and judged: the original, the rows it was trained on, and the fleet that answers questions.

Every question is a fleet job: asked twice, it is answered from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from unlearnkit.fleet import Fleet, Observations
from unlearnkit.jobs import ModelJob, ObserveJob, Points, TrainJob, UnlearnJob
from unlearnkit.result import Flag, UsageError
from unlearnkit.train import Recipe
from unlearnkit.types import Method, Need
from unlearnkit.unlearning import check_request

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Arena:
    """The rows are rows of the fleet's training and test sets. Points of every answer: `trained`, then `held_out`."""

    fleet: Fleet
    original: ModelJob
    trained: Rows
    held_out: Rows
    unseen: Rows | None = None  # rows of the test set lent to methods that need held-out examples; never looked at

    @property
    def recipe(self) -> Recipe:
        """How the original was trained, and by which every oracle is."""
        return self.original.recipe

    @cached_property
    def points(self) -> Points:
        """What every model is asked about."""
        return Points(self.trained, self.held_out)

    @cached_property
    def y(self) -> NDArray[np.int64]:
        """Labels of all points."""
        sets = self.fleet.bench.sets
        return np.concatenate(
            [sets.train.labels().numpy()[self.trained], sets.test.labels().numpy()[self.held_out]]
        ).astype(np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels of the trained rows."""
        return self.y[: self.trained.size]

    @cached_property
    def ids(self) -> Shaped[np.ndarray, " n"]:
        """Names of all points."""
        sets = self.fleet.bench.sets
        return np.concatenate([sets.train.ids[self.trained], sets.test.ids[self.held_out]])

    def unlearned(self, method: Method, places: Rows, *, seed: int, forget_class: int | None = None) -> UnlearnJob:
        """The method asked to forget the trained rows at these places (positions in `trained`)."""
        check_needs(method, self, forget_class)
        check_request(method, forget=places.size, retain=self.trained.size - places.size, forget_class=forget_class)
        forget = np.zeros(self.trained.size, dtype=bool)
        forget[places] = True
        return UnlearnJob(
            f"{method.name} on {places.size} examples",
            self.recipe,
            seed,
            self.original,
            method,
            self.trained[forget],
            self.trained[~forget],
            forget_class,
            self.unseen,
        )

    def retrained(self, places: Rows, *, seed: int) -> TrainJob:
        """An oracle: trained from scratch without the rows at these places."""
        return TrainJob(
            f"oracle without {places.size} examples", self.recipe, seed, np.delete(self.trained, np.sort(places))
        )

    def look(self, job: ModelJob, *, points: Points | None = None, logits: bool = False) -> ObserveJob:
        """What the model of a job says about these points, or about all; its weights are not kept."""
        return ObserveJob(f"look at {job.name}", (job,), points or self.points, logits=logits, keep_weights=False)

    def margins(self, jobs: Sequence[ModelJob]) -> Float[np.ndarray, "model point"]:
        """Margins of all points under every job's model, made where the store does not hold them."""
        self.fleet.run([self.original])  # kept, since everything starts from it
        keys = self.fleet.run([self.look(job) for job in jobs])
        seen: NDArray[np.float32] = Observations(self.fleet.store, keys).margins()
        return seen[:, 0, :, 0]


def check_needs(method: Method, arena: Arena, forget_class: int | None) -> None:
    """Raise `UsageError` when the method cannot be asked for sets of examples here, before anything is trained."""
    if Need.CLASS_WISE in method.needs and forget_class is None:
        raise UsageError(
            f"worst_case: {method.name} forgets whole classes only and cannot be asked for a set of examples; use "
            'search = "bilevel" with over = "classes" and size = 1, or another method'
        )
    if Need.UNSEEN in method.needs and arena.unseen is None:
        raise UsageError(f"worst_case: {method.name} needs held-out examples of its own, and none are lent here")
    if Need.PRETRAINED in method.needs and not isinstance(arena.original, TrainJob):
        raise UsageError(
            f"worst_case: {method.name} needs the model before training, which weights that were handed in do not "
            "have; leave model.weights out, or use another method"
        )


@dataclass(frozen=True)
class Step:
    """One step of a search."""

    objective: float  # what the search lowers (a loss) or raises (a leak)
    replaced: float  # share of the set that this step exchanged
    overlap: float  # share of the set that was in the start


@dataclass(frozen=True, eq=False)
class Found:
    """A set that a search has found: places in `Arena.trained`, the hardest first, with what put them there."""

    search: str
    against: str  # the method in whose way the set was put; empty where none was asked
    places: Rows
    scores: NDArray[np.float64]  # one per place, in the search's own unit
    unit: str
    trace: tuple[Step, ...] = ()
    flags: tuple[Flag, ...] = ()
    forget_class: int | None = None  # set when the set is one whole class
    keys: tuple[str, ...] = ()  # of every model that the search looked at, but for the original
    details: Mapping[str, Any] = field(default_factory=dict)  # plain values, for the record


Over = Literal["examples", "classes"]

__all__ = ["Arena", "Found", "Over", "Rows", "Step", "check_needs"]
