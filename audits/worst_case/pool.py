"""A pool for searching: models trained on random halves of what the original was trained on, and what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from unlearnkit.audits.worst_case.apart import SearchSeeds
from unlearnkit.audits.worst_case.arena import Arena, Found, Rows
from unlearnkit.audits.worst_case.pool_search import By, Ranked, nearest_neighbors, pool_search
from unlearnkit.jobs import TrainJob
from unlearnkit.masks import State, random_halves
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.types import Examples, References

NEIGHBORS = 10  # of each point, for their influence

UNITS: dict[str, str] = {
    "loss": "mean out-of-sample loss (the smallest is the hardest: known without being trained on)",
    "memorization": "in-out margin gap",
    "neighbors": "margin owed to neighbors",
    "mislabeled": "mean out-of-sample loss (the largest first)",
}


@dataclass(frozen=True, eq=False)
class Pool:
    """margins: [model, point] of the arena's points, trained then held out; trained: [model, trained row]."""

    margins: Float[np.ndarray, "model point"]
    trained: Bool[np.ndarray, "model n"]
    keys: tuple[str, ...]

    @property
    def own(self) -> Float[np.ndarray, "model n"]:
        """Margins of the trained rows."""
        return self.margins[:, : self.trained.shape[1]]

    def references(self, models: NDArray[np.int64], points: NDArray[np.int64]) -> References:
        """Some of the models on some of the points, for an attack. Held-out points were seen by no model."""
        state = np.full(self.margins.shape, State.OUT, dtype=np.uint8)
        state[:, : self.trained.shape[1]][self.trained] = State.IN
        return References(self.margins[models][:, points, None], state[models][:, points])


def pool_jobs(arena: Arena, models: int, seeds: SearchSeeds) -> list[TrainJob]:
    """The trainings of a pool, each on its half. Raises `UsageError` for a number that is odd or below 2."""
    if models < 2 or models % 2:
        raise UsageError(f"worst_case.pool: models come in pairs of complementary halves, got {models}")
    return [
        TrainJob(f"pool {i + 1}", arena.recipe, seed, arena.trained[row])
        for i, (seed, row) in enumerate(zip(seeds.draw("pool", models), _halves(arena, models, seeds), strict=True))
    ]


def _halves(arena: Arena, models: int, seeds: SearchSeeds) -> Bool[np.ndarray, "model n"]:
    return random_halves(arena.trained.size, models, seed=seeds.draw("pool halves", 1)[0])


def pool_of(arena: Arena, models: int, seeds: SearchSeeds) -> Pool:
    """Train the pool, or take it from the store. Raises `UsageError` for a number that is odd or below 2."""
    jobs = pool_jobs(arena, models, seeds)
    keys = tuple(arena.fleet.key(job) for job in jobs)
    return Pool(arena.margins(jobs), _halves(arena, models, seeds), keys)


def search_pool(
    arena: Arena, pool: Pool, *, size: int, by: By, partial: bool = False, among: Rows | None = None
) -> Found:
    """The hardest set by what the pool knows; see `pool_search` for the scores.

    among: the places that may be chosen, in ascending order; all by default. Not with neighbors, which may be any.
    """
    if among is not None and by == "neighbors":
        raise UsageError("worst_case.pool: influence of neighbors is asked of all training examples, not of a part")
    among = np.arange(arena.trained.size) if among is None else among
    neighbors = None
    if by == "neighbors":
        neighbors = nearest_neighbors(features_of(arena), min(NEIGHBORS, arena.trained.size - 1))
    ranked: Ranked = pool_search(
        pool.own[:, among],
        pool.trained[:, among],
        size=size,
        by=by,
        ids=arena.ids[among],
        neighbors=neighbors,
        partial=partial,
    )
    return Found(
        by if by == "mislabeled" else f"pool-{by}",
        "",
        among[ranked.places],
        ranked.scores,
        UNITS[by],
        flags=ranked.flags,
        keys=pool.keys,
        details={"pool": len(pool.trained), "neighbors": NEIGHBORS if by == "neighbors" else None},
    )


def features_of(arena: Arena) -> Float[np.ndarray, "n d"]:
    """Penultimate features of the original on the trained rows."""
    fleet = arena.fleet
    fleet.run([arena.original])
    examples: Examples = fleet.bench.sets.train.take(arena.trained)
    seen = observe(fleet.read(arena.original), examples, features=True, device=fleet.bench.device)
    assert seen.features is not None  # asked for
    return seen.features


__all__ = ["UNITS", "Pool", "features_of", "pool_jobs", "pool_of", "search_pool"]
