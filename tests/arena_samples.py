"""A small ground for searches: what was planted in it is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from unlearnkit.audits.worst_case.arena import Arena
from unlearnkit.fleet import Fleet
from unlearnkit.jobs import Sets, TrainJob
from unlearnkit.models import Architecture
from unlearnkit.store import Store
from unlearnkit.train import Recipe
from unlearnkit.types import Examples

RECIPE = Recipe(Architecture("mlp", 10, (1, 8, 8)), epochs=4, batch_size=16)


def arena_of(folder: Path, train: Examples, test: Examples, *, epochs: int = 4, fresh: bool = False) -> Arena:
    """The original is trained on all of `train`; every model on this one core, in this process."""
    fleet = Fleet(Sets(train, test), Store(folder), processes=1, fresh=fresh)
    rows = np.arange(len(train))
    original = TrainJob("original", replace(RECIPE, epochs=epochs), 0, rows)
    return Arena(fleet, original, rows, np.arange(len(test)))


def noise(n: int, seed: int, *, kinds: int = 0, copies: int = 1, prefix: str = "noise") -> Examples:
    """Pure noise with random labels, which memory alone can answer; the first `kinds` images stand `copies` times."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 1, 8, 8)).astype(np.uint8)
    y = rng.integers(0, 10, n)
    for start in range(kinds, kinds * copies, max(kinds, 1)):
        x[start : start + kinds], y[start : start + kinds] = x[:kinds], y[:kinds]
    ids = np.array([f"{prefix}/{i}" for i in range(n)])
    return Examples(torch.from_numpy(x), torch.from_numpy(y), ids)


def mislabeled(examples: Examples, places: list[int], classes: int = 3) -> Examples:
    """The same with the next class as the label at these places."""
    y = examples.labels().clone()
    y[places] = (y[places] + 1) % classes
    return Examples(examples.x, y, examples.ids)
