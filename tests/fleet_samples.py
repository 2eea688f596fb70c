"""Small jobs on tiny images, and trainings that fail on purpose: for the tests of jobs, engines and fleets."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from conftest import MakeBlobs
from torch import nn

from unlearnkit.fleet import Progress
from unlearnkit.jobs import ModelJob, ObserveJob, Points, Sets, TrainJob, UnlearnJob
from unlearnkit.methods import FineTune
from unlearnkit.models import Architecture, build
from unlearnkit.store import Store
from unlearnkit.train import Recipe
from unlearnkit.types import Access, Examples, Method, Need

STACKED = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=2, batch_size=16)
ALONE = replace(STACKED, architecture=Architecture("fleet_samples:net", 3, (1, 8, 8)))
TRAINER = replace(STACKED, trainer="fleet_samples:train")
ROWS = np.arange(60)
POINTS = Points(np.arange(0, 60, 7), np.arange(5))

DIVERGES, BREAKS, DIES = 1_000, 1_001, 1_002  # seeds


def net(classes: int) -> nn.Module:
    """A user's network: none of those that are stacked."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))


def train(recipe: Recipe, examples: Examples, *, seed: int) -> nn.Module:
    """A user's training, as quick as can be, with seeds that fail each in a way of its own."""
    model = build(recipe.architecture, seed=seed)
    if seed == DIVERGES:
        nn.init.constant_(model.head.bias, float("nan"))
    if seed == BREAKS:
        raise RuntimeError("no luck")
    if seed == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    with torch.no_grad():
        model.head.bias += examples.labels().float().mean()
    return model


@dataclass(frozen=True)
class Keeps(Method):
    """Forgets nothing: what it returns is what it was given."""

    needs: ClassVar[Need] = Need.FORGET

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return model


def sets(blobs: MakeBlobs, side: int = 8) -> Sets:
    """60 training and 30 test images."""
    return Sets(blobs(60, side=side), blobs(30, seed=1, prefix="test", side=side))


def train_jobs(count: int, recipe: Recipe = STACKED, first: int = 0) -> list[TrainJob]:
    """Trainings on 50 of the rows each."""
    return [TrainJob(f"model {seed}", recipe, seed, ROWS[seed % 10 :][:50]) for seed in range(first, first + count)]


def unlearn_job(start: ModelJob, **changes: Any) -> UnlearnJob:
    """Unlearn rows 20 to 29 by one epoch of fine-tuning."""
    method = FineTune(epochs=1, batch_size=16)
    job = UnlearnJob(f"unlearn {start.name}", start.recipe, 3, start, method, ROWS[20:30], ROWS[30:])
    return replace(job, **changes)


def observe_job(*stages: ModelJob, **changes: Any) -> ObserveJob:
    """Look at POINTS."""
    return replace(ObserveJob(f"look at {stages[-1].name}", stages, POINTS), **changes)


def stored(store: Store, keys: Sequence[str]) -> list[bytes]:
    """The bytes of each result."""
    return [store.path(key).read_bytes() for key in keys]


def kinds(store: Store) -> Counter[str]:
    """How many results of each kind of job there are."""
    return Counter(entry.kind for entry in store.entries())


class Told:
    """What a fleet told of its progress."""

    def __init__(self) -> None:
        self.all: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.all.append(progress)

    @property
    def made(self) -> int:
        """Jobs that were made or failed, rather than found."""
        return self.all[-1].done - self.all[-1].kept

    @property
    def names(self) -> set[str]:
        """Every job that was seen running."""
        return {name for progress in self.all for name in progress.running}
