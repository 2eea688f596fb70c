"""The models of a SWAP test, made by the fleet: A(R + F) that forgets F, and A(R + T) that forgets T."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from unlearnkit.fleet import Fleet
from unlearnkit.jobs import ObserveJob, Points, TrainJob, UnlearnJob
from unlearnkit.result import UsageError
from unlearnkit.train import Recipe
from unlearnkit.types import Method, Observation


@dataclass(frozen=True, eq=False)
class SwapPairs:
    """What both models of each pair say about the pool, and what the first of them forgot."""

    observations: tuple[tuple[Observation, Observation], ...]
    forget: Bool[np.ndarray, "p n"]

    @property
    def margins(self) -> Float[np.ndarray, "p 2 n"]:
        """φ, averaged over views: the scores of the simplest attack. Others take the observations."""
        return np.stack([[one.margins.mean(axis=1) for one in pair] for pair in self.observations])


def swap_pairs(
    fleet: Fleet,
    recipe: Recipe,
    method: Method,
    *,
    retain: NDArray[np.int64],
    pool: NDArray[np.int64],
    pairs: int,
    seed: int,
) -> SwapPairs:
    """Deal the pool, train, unlearn and observe: see `swap_jobs`."""
    jobs, forget = swap_jobs(recipe, method, retain=retain, pool=pool, pairs=pairs, seed=seed)
    keys = fleet.run(jobs, step="SWAP test")
    examples = fleet.bench.points(Points(pool, np.array([], dtype=np.int64)))
    y = examples.labels().numpy()
    seen = []
    for key in keys:
        arrays = fleet.store.map(key)
        margins = np.asarray(arrays["margins"][0], dtype=np.float64)
        seen.append(Observation(examples.ids, y, margins, np.asarray(arrays["logits"][0])))
    return SwapPairs(tuple(zip(seen[::2], seen[1::2], strict=True)), forget)


def swap_jobs(
    recipe: Recipe,
    method: Method,
    *,
    retain: NDArray[np.int64],
    pool: NDArray[np.int64],
    pairs: int,
    seed: int,
    unseen: NDArray[np.int64] | None = None,
    keep_weights: bool = True,
) -> tuple[list[ObserveJob], Bool[np.ndarray, "p n"]]:
    """Looks at both models of each pair in turn, and what the first of them forgets.

    Two trainings and two deletions a pair. Rows of the training set; unseen: of the test set, lent to the method.
    Both models of a pair share their seeds, so that what is left between them is the deal: after an exact deletion
    they are one and the same model. Raises UsageError for a pool of odd size or one that overlaps the retained rows.
    """
    if pool.size < 2 or pool.size % 2:
        raise UsageError(f"swap pairs: the pool is dealt into two halves and must be even, got {pool.size} rows")
    if pairs < 1:
        raise UsageError(f"swap pairs: needs one pair at least, got {pairs}")
    both = np.intersect1d(pool, retain)
    if both.size:
        raise UsageError(f"swap pairs: {both.size} rows of the pool are retained rows too, the first is {both[0]}")
    rng = np.random.default_rng([seed, 0x5A4B])
    forget = np.zeros((pairs, pool.size), dtype=bool)
    jobs = []
    for pair in range(pairs):
        forget[pair, rng.permutation(pool.size)[: pool.size // 2]] = True
        train_seed, unlearn_seed = (int(s) for s in rng.integers(2**31, size=2))
        for name, rows in (("first", pool[forget[pair]]), ("second", pool[~forget[pair]])):
            what = f"{name} of pair {pair + 1}"
            start = TrainJob(f"train {what}", recipe, train_seed, np.union1d(retain, rows))
            done = UnlearnJob(
                f"unlearn {what}", recipe, unlearn_seed, start, method, np.sort(rows), np.sort(retain), unseen=unseen
            )
            points = Points(pool, np.array([], dtype=np.int64))
            jobs.append(ObserveJob(f"look at {what}", (done,), points, logits=True, keep_weights=keep_weights))
    return jobs, forget
