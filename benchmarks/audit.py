"""Speed of the audit statistics beside their naive twins: same task, same run, one thread.

    OMP_NUM_THREADS=1 python benchmarks/audit.py

On a shared machine the ratio says more than the seconds; each figure is the best of several rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from unlearnkit.audits.roc import auc, auc_bootstrap

ROUNDS = 5


def seconds(task: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Best wall time of one call."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        found.append(time.perf_counter() - start)
    return min(found)


def bootstrap_auc(size: int = 5000, resamples: int = 1000) -> None:
    """BCa interval of an AUC against one `auc` per resample, which gives the same law but no acceleration."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(0.5, 1.0, size), rng.normal(0.0, 1.0, size)
    print(f"| AUC, {size} + {size} scores, {resamples} resamples | ours | naive | ratio |\n| --- | --- | --- | --- |")
    for name, (members, nonmembers) in (
        ("no ties", smooth),
        ("one decimal", (np.round(smooth[0], 1), np.round(smooth[1], 1))),
    ):

        def naive(members: np.ndarray = members, nonmembers: np.ndarray = nonmembers) -> None:
            for _ in range(resamples):
                auc(members[rng.integers(0, size, size)], nonmembers[rng.integers(0, size, size)])

        def fast(members: np.ndarray = members, nonmembers: np.ndarray = nonmembers) -> None:
            auc_bootstrap(members, nonmembers, resamples=resamples, seed=0)

        ours, theirs = seconds(fast), seconds(naive, rounds=1)
        print(f"| {name} | {ours:.3f} s | {theirs:.2f} s | {theirs / ours:.0f} |")


if __name__ == "__main__":
    bootstrap_auc()
