"""Attack-driven search: exchange examples until the audit's own leakage statistic is as large as a budget allows.

One evaluation is one unlearning per search seed. The set whose leak is largest is the parent; a child keeps its members
that leak most and takes others in, some that leaked when they were members before, some that nobody has tried, the more
likely the more the original knows of them. A child that leaks more becomes the parent.

The leak is measured against models of the pool that never saw an example (there is no oracle for every set that is
tried), and on search seeds: it flatters the set that was picked. What it is worth, the certificate says, on other seeds
and with oracles retrained without this very set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.statistics.roc import auc
from unlearnkit.audits.worst_case.apart import SearchSeeds
from unlearnkit.audits.worst_case.arena import Arena, Found, Rows, Step, check_needs
from unlearnkit.audits.worst_case.pool import Pool
from unlearnkit.audits.worst_case.simplex import check_size
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Holds, Known, Method, Observation

Array = NDArray[np.float64]
LEAST_POOL = 4  # models on random halves: two of them never saw an example
HELD = Holds.OUT | Holds.POPULATION | Holds.POPULATION_REFERENCES  # what an attack may ask for


@dataclass(frozen=True)
class AttackSearch:
    """Settings. Without an attack the leak is the mean margin shift of the set, in σ between models of the pool; with
    one it is the attack's AUC, set against held-out points, beyond that of models that never saw the set."""

    size: int
    method: Method
    attack: Attack | None = None
    budget: int = 40  # unlearnings
    repeats: int = 2  # unlearnings of each set that is tried, each with a seed of its own
    exchange: float = 0.3  # share of the set that a child changes

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"worst_case.repeats: must be at least 1, got {self.repeats}")
        if self.budget < 2 * self.repeats:
            raise UsageError(
                f"worst_case.budget: {self.budget} unlearnings are too few for one exchange, which takes "
                f"{2 * self.repeats} ({self.repeats} for the start, {self.repeats} for the child); raise it"
            )
        if not 0 < self.exchange <= 1:
            raise UsageError(f"worst_case.exchange: must be above 0 and at most 1, got {self.exchange}")


def attack_search(arena: Arena, pool: Pool, settings: AttackSearch, seeds: SearchSeeds) -> Found:
    """Search. Raises `UsageError` for a size of none or all, and for a method that cannot be asked for examples."""
    n, m = arena.trained.size, settings.size
    check_size(m, n, "training examples")
    check_needs(settings.method, arena, None)
    rng = seeds.generator("attack search")
    unlearn_seeds = seeds.draw("attack search unlearning", settings.repeats)
    leak = Leak(arena, pool, settings.attack)
    known = leak.shift(arena.margins([arena.original])[0])[:n]  # what an untouched member would show
    told, times = np.zeros(n), np.zeros(n)  # of every example that was a member: its mean shift, and how often
    keys: list[str] = []

    def evaluate(places: Rows) -> tuple[float, Array]:
        jobs = [arena.unlearned(settings.method, places, seed=seed) for seed in unlearn_seeds]
        keys.extend(arena.fleet.key(job) for job in jobs)
        seen = arena.margins(jobs)
        each = np.mean([leak.shift(row)[places] for row in seen], axis=0)
        told[places] += (each - told[places]) / (times[places] + 1)
        times[places] += 1
        return float(np.mean([leak(row, places) for row in seen])), each

    start = parent = np.sort(rng.permutation(n)[:m])
    value, each = evaluate(parent)
    trace = [Step(value, 0.0, 1.0)]
    change = min(n - m, max(1, round(settings.exchange * m)))
    for _ in range(settings.budget // settings.repeats - 1):
        direction = 1.0 if value >= 0 else -1.0
        keep = parent[np.argsort(-direction * each, kind="stable")[: m - change]]
        outside = np.setdiff1d(np.arange(n), parent)
        tried = outside[times[outside] > 0]
        again = tried[np.argsort(-direction * told[tried], kind="stable")[: change // 2]]
        again = again[direction * told[again] > np.median(direction * each)]
        fresh = np.setdiff1d(outside, again)
        chance = np.argsort(np.argsort(known[fresh])) + 1.0
        drawn = rng.choice(fresh, size=change - again.size, replace=False, p=chance / chance.sum())
        child = np.sort(np.concatenate([keep, again, drawn]))
        found, shifts = evaluate(child)
        better = abs(found) > abs(value)
        replaced = np.setdiff1d(child, parent).size / m if better else 0.0
        if better:
            parent, value, each = child, found, shifts
        trace.append(Step(value, replaced, np.intersect1d(start, parent).size / m))
    order = np.argsort(-abs(each), kind="stable")
    return Found(
        "attack",
        settings.method.name,
        parent[order],
        each[order],
        "margin shift, σ",
        trace=tuple(trace),
        keys=(*pool.keys, *keys),
        details={
            "statistic": "margin shift" if settings.attack is None else settings.attack.name,
            "start": trace[0].objective,
            "found": value,
            "budget": settings.budget,
            "repeats": settings.repeats,
            "exchange": settings.exchange,
            "pool": len(pool.trained),
        },
    )


class Leak:
    """The leak of a set: how far a model's answers on it lie from those of models that never saw the examples."""

    def __init__(self, arena: Arena, pool: Pool, attack: Attack | None) -> None:
        self.arena, self.pool, self.attack = arena, pool, attack
        out = np.ones(pool.margins.shape, dtype=bool)
        out[:, : arena.trained.size] = ~pool.trained
        count = np.count_nonzero(out, axis=0)
        lacking = np.flatnonzero(count < 2)
        if lacking.size:
            raise UsageError(
                f"worst_case.pool: {lacking.size:,} points have fewer than two models that never saw them, the first "
                f"is {str(arena.ids[lacking[0]])!r}; train at least {LEAST_POOL} models"
            )
        kept = np.where(out, pool.margins, 0).astype(np.float64)
        self.mean = kept.sum(axis=0) / count
        squares = np.where(out, (pool.margins - self.mean) ** 2, 0).sum(axis=0) / (count - 1)
        self.sigma = max(float(np.sqrt(squares.mean())), 1e-12)  # one unit for all, as in the audit's rank test
        if attack is not None:
            half = len(pool.margins) // 4 * 2  # whole pairs of complementary halves on both sides
            self.references = np.arange(half)
            self.others = self._strangers(half, out)

    def _strangers(self, first: int, out: NDArray[np.bool_]) -> Array:
        """[k, point]: each row is made of answers by models that never saw the point in question."""
        margins, out = self.pool.margins[first:], out[first:]
        k = int(np.count_nonzero(out, axis=0).min())
        models = np.argsort(~out, axis=0, kind="stable")[:k]
        return np.take_along_axis(margins, models, axis=0).astype(np.float64)

    def shift(self, margins: NDArray[np.float32]) -> Array:
        """Of every point, in σ: above 0 remembered, below 0 over-forgotten."""
        return np.asarray((margins - self.mean) / self.sigma)

    def __call__(self, margins: NDArray[np.float32], places: Rows) -> float:
        """The leak of the set under the model with these margins."""
        if self.attack is None:
            return float(self.shift(margins)[places].mean())
        own = self._auc(margins.astype(np.float64), places)
        return own - float(np.mean([self._auc(row, places) for row in self.others]))

    def _auc(self, margins: Array, places: Rows) -> float:
        assert self.attack is not None
        held_out = np.arange(self.arena.trained.size, margins.size)
        others, population = held_out[::2], held_out[1::2]
        points = np.concatenate([places, others])

        def view(rows: Rows) -> Observation:
            return Observation(self.arena.ids[rows], self.arena.y[rows], margins[rows, None])

        known = Known(
            references=self.pool.references(self.references, points),
            population=view(population),
            population_references=self.pool.references(self.references, population),
        )
        scores = self.attack.score(view(points), known)
        if scores.rows is not None:
            raise UsageError(
                f"worst_case.attack: {scores.flags[0].sentence[:-1]}; take an attack that holds out-of-sample "
                "references only, such as RMIAOffline"
            )
        return auc(scores.values[: places.size], scores.values[places.size :])


__all__ = ["HELD", "LEAST_POOL", "AttackSearch", "Leak", "attack_search"]
