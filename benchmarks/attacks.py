"""What the attacks cost; written to benchmarks/attacks.md, one section for each switch.

    python benchmarks/attacks.py --speed          # the fast paths against naive twins and plain formulas: a minute

One thread. Every figure is the best of several repeats; on a shared machine the ratios of one run say more than the
seconds. The naive twin works point by point (or model by model); the plain formulas are what one would write in numpy
without a thought for memory. Where these take long they are timed on a part and scaled up, as the table says.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from unlearnkit.attacks import LiRA, RMIAOffline, ULiRA, leave_one_out
from unlearnkit.types import Attack, Known, Observation, References

RESULTS = Path(__file__).parent / "attacks.md"


@dataclass
class Row:
    """One line of the table of speed."""

    work: str
    seconds: float
    megabytes: float
    naive: float  # seconds, scaled up
    naive_part: str
    plain: float
    plain_part: str
    target: str

    def __str__(self) -> str:
        return (
            f"| {self.work} | {self.target} | {self.seconds:.3f} s | {self.megabytes:.0f} MB | "
            f"{self.naive:.3g} s ({self.naive_part}) | {self.naive / self.seconds:.0f}× | "
            f"{self.plain:.3g} s ({self.plain_part}) | {self.plain / self.seconds:.1f}× |"
        )


def best(work: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the fastest of several runs."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def peak(work: Callable[[], object]) -> float:
    """Megabytes held at most beyond what was held before."""
    tracemalloc.start()
    work()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return megabytes


def observation(margins: NDArray[np.floating], name: str = "point") -> Observation:
    """Margins [point, view] with ids."""
    ids = np.array([f"{name}/{i}" for i in range(len(margins))])
    return Observation(ids, np.zeros(len(margins), dtype=np.int64), margins)


def pool(models: int, points: int, states: tuple[int, ...], seed: int = 0) -> References:
    """float32 margins of one view; every point is in each of the states in an equal share of the models."""
    rng = np.random.default_rng(seed)
    state = np.array(states, dtype=np.uint8)[
        rng.permuted(np.arange(models * points).reshape(points, models), axis=1).T % len(states)
    ]
    margins = rng.normal(0, 2, points) + state + rng.normal(0, 1, (models, points))
    return References(margins[..., None].astype(np.float32), state)


def lira(points: int = 50_000, models: int = 64, part: int = 500) -> list[Row]:
    """Online LiRA with shrunk variances, and as published."""
    references = pool(models, points, (0, 1))
    target = observation(np.random.default_rng(1).normal(0, 2, (points, 1)))
    known = Known(references)

    def twin() -> None:
        x, inside = references.margins[:, :part, 0].astype(np.float64), references.state[:, :part] == 1
        for i in range(part):
            one, other = x[inside[:, i], i], x[~inside[:, i], i]
            phi = target.margins[i, 0]
            stats.norm.logpdf(phi, one.mean(), one.std()) - stats.norm.logpdf(phi, other.mean(), other.std())

    def plain() -> None:
        x, inside = references.margins[..., 0].astype(np.float64), references.state == 1
        scores = np.zeros(points)
        for sign, mask in ((1, inside), (-1, ~inside)):
            side = np.where(mask, x, np.nan)
            law = stats.norm.logpdf(target.margins[:, 0], np.nanmean(side, axis=0), np.nanstd(side, axis=0))
            scores += sign * law

    naive, formulas = best(twin, 3) * points / part, best(plain, 3)

    def row(attack: Attack) -> Row:
        work = f"{attack.name}, {points:,} points × {models} models"
        run = lambda: attack.score(target, known)  # noqa: E731
        return Row(work, best(run), peak(run), naive, f"from {part} points", formulas, "whole", "≤ 0.3 s")

    return [row(LiRA()), row(LiRA("example"))]


def rmia(points: int = 50_000, others: int = 10_000, models: int = 4, part: int = 1_000) -> list[Row]:
    """Offline RMIA; the pairwise count is what costs."""
    rng = np.random.default_rng(2)
    references, beside = pool(models, points, (0,)), pool(models, others, (0,), seed=3)
    target = observation(rng.normal(0, 2, (points, 1)))
    population = observation(rng.normal(0, 2, (others, 1)), "population")
    known = Known(references, population=population, population_references=beside)

    def ratios(seen: Observation, among: References) -> NDArray[np.float64]:
        mean = expit(among.margins[..., 0].astype(np.float64)).mean(axis=0)
        return np.asarray(expit(seen.margins[:, 0]) / ((1.3 * mean + 0.7) / 2))

    def twin() -> None:
        x, z = ratios(target, references)[: part // 5], ratios(population, beside)
        for one in x:
            np.mean(one / z >= 2.0)

    def plain() -> None:  # the whole matrix would hold 4 GB
        x, z = ratios(target, references)[:part], ratios(population, beside)
        np.mean(x[:, None] / z >= 2.0, axis=1)

    run = lambda: RMIAOffline().score(target, known)  # noqa: E731
    work = f"RMIAOffline, {points:,} points, {others:,} population points, {models} references"
    return [
        Row(
            work,
            best(run),
            peak(run),
            best(twin, 3) * points / (part // 5),
            f"from {part // 5} points",
            best(plain, 3) * points / part,
            f"from {part} points",
            "≤ 0.05 s, < 100 MB",
        )
    ]


def u_lira(models: int = 256, points: int = 5_000, part: int = 8) -> list[Row]:
    """U-LiRA, every model as the target once."""
    references = pool(models, points, (0, 1, 2))
    run = lambda: leave_one_out(ULiRA(), references)  # noqa: E731

    def twin() -> None:
        for model in range(part):
            ULiRA().score(observation(references.margins[model]), Known(references.without(model)))

    def plain() -> None:
        for model in range(part):
            rest = np.arange(models) != model
            x, state = references.margins[rest, :, 0].astype(np.float64), references.state[rest]
            scores = np.zeros(points)
            for sign, one in ((1, 2), (-1, 0)):
                side = np.where(state == one, x, np.nan)
                center, spread = np.nanmean(side, axis=0), np.nanstd(side, axis=0)
                scores += sign * stats.norm.logpdf(references.margins[model, :, 0], center, spread)

    work = f"ULiRA, leave one out, {models} models × {points:,} points"
    scale = models / part
    return [
        Row(
            work,
            best(run, 3),
            peak(run),
            best(twin, 2) * scale,
            f"refit, from {part} models",
            best(plain, 2) * scale,
            f"from {part} models",
            "≤ 5 s",
        )
    ]


def speed() -> str:
    """The section on speed."""
    rows = [*lira(), *rmia(), *u_lira()]
    head = (
        "| work | to reach | ours | memory | naive twin | ratio | plain formulas | ratio |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    where = (
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    )
    return (
        f"Recorded by `OMP_NUM_THREADS=1 python benchmarks/attacks.py --speed` ({where}), one thread, best of several "
        "repeats. The machine was shared: read the ratios. The time is that of `score`, checks and flags included; "
        "memory is what it takes beyond its input.\n\n" + head + "\n".join(map(str, rows))
    )


def record(title: str, text: str) -> None:
    """Puts a section into the file of results in the place of the one with its title; the others stay."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# The attacks\n"
    head, *sections = old.split("\n## ")
    kept = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in sections}
    kept[title] = text
    body = "".join(f"\n## {name}\n\n{content}\n" for name, content in kept.items())
    RESULTS.write_text(head.rstrip() + "\n" + body, encoding="utf-8")


def main() -> None:
    """Measures what the switches ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="time the fast paths")
    asked = parser.parse_args()
    if not asked.speed:
        parser.error("name what to measure: --speed")
    record("Speed", speed())


if __name__ == "__main__":
    main()
