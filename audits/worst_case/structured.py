"""Forget sets with a structure that random ones lack: near to or far from what is retained, one group, doubles.

Features are penultimate features of the original, [n, d]. A set of these is a stress test, not the outcome of a search.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray

from unlearnkit.audits.duplicates import copies
from unlearnkit.audits.groups import groups_in_ids
from unlearnkit.audits.worst_case.simplex import check_size
from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Examples

Rows = NDArray[np.int64]


def entanglement(features: Float[np.ndarray, "n d"], forget: Bool[np.ndarray, " n"]) -> float:
    """Entanglement score (Zhao et al. 2024, arXiv 2406.01257): spread within the two sets over the distance between.

    (mean_R |f - μ_R|² + mean_F |f - μ_F|²) / ½(|μ_R - μ|² + |μ_F - μ|²), μ the mean of all. Large: forget and retain
    lie in one place, hard to take apart. Means are over whole sets; the published code averages means of batches.
    Raises `UsageError` where one of the sets is empty or the two have one mean.
    """
    if forget.all() or not forget.any():
        raise UsageError("entanglement: both the forget and the retain set must hold examples")
    f = np.asarray(features, dtype=np.float64)
    center = f.mean(axis=0)
    spread = apart = 0.0
    for part in (f[forget], f[~forget]):
        mean = part.mean(axis=0)
        spread += float(((part - mean) ** 2).sum(axis=1).mean())
        apart += float(((mean - center) ** 2).sum())
    if apart == 0.0:
        raise UsageError("entanglement: the two sets have the same mean, and no score; choose another set")
    return spread / (apart / 2)


def near_retain(features: Float[np.ndarray, "n d"], size: int) -> tuple[Rows, NDArray[np.float64]]:
    """The examples nearest to the mean of all, and their distances: a set that lies where the retained ones lie."""
    check_size(size, len(features), "training examples")
    f = np.asarray(features, dtype=np.float64)
    distance = np.linalg.norm(f - f.mean(axis=0), axis=1)
    places = np.argsort(distance, kind="stable")[:size]
    return places, distance[places]


def far_from_retain(features: Float[np.ndarray, "n d"], size: int) -> tuple[Rows, NDArray[np.float64]]:
    """The example farthest from the mean of all with those nearest to it, and their distances from the mean: a cluster
    of its own. The farthest examples one by one would surround the others and have their mean."""
    check_size(size, len(features), "training examples")
    f = np.asarray(features, dtype=np.float64)
    distance = np.linalg.norm(f - f.mean(axis=0), axis=1)
    places = np.argsort(np.linalg.norm(f - f[distance.argmax()], axis=1), kind="stable")[:size]
    return places, distance[places]


def group_of(ids: Shaped[np.ndarray, " n"], pattern: str, group: str | None) -> tuple[Rows, str]:
    """The examples of one group, where ids carry it, and its name: `pattern` is a regular expression whose first
    parenthesis is the group, as in "^(patient-[0-9]+)/". Left out, `group` is the largest one.

    Raises `UsageError` for a pattern that is none or fits no id, a group that does not occur, and one that is all.
    """
    names = groups_in_ids(ids, pattern, "worst_case.pattern")
    known, counts = np.unique(names[names != ""], return_counts=True)
    if group is None:
        group = str(known[counts.argmax()])
    if group not in known:
        raise UsageError(
            f"worst_case.group: no id is of group {group!r}{nearest(group, known.tolist())}"
            f" ({known.size} groups, the largest is {str(known[counts.argmax()])!r})"
        )
    places = np.flatnonzero(names == group)
    if places.size == ids.size:
        raise UsageError(f"worst_case.group: every training example is of group {group!r}; nothing would be retained")
    return places, group


def doubles(examples: Examples, size: int | None = None) -> Rows:
    """Examples with a near-copy that stays in the retain set: one of each pair, all others kept.

    Two numbers differ in a bit, so comparing the examples whose number has it with those whose number has not, bit by
    bit, compares each with every other. Raises `UsageError` when there are fewer than asked for, or none.
    """
    n = len(examples)
    place = np.arange(n)
    twin: dict[int, int] = {}
    for bit in range(max(1, (n - 1).bit_length())):
        one = place[(place >> bit) & 1 == 0]
        other = np.setdiff1d(place, one)
        for first, second in ((one, other), (other, one)):
            twin |= {int(first[i]): j for i, j in copies(examples.take(first), examples, second).items()}
    chosen: list[int] = []
    kept: set[int] = set()
    for i in sorted(twin):
        if i not in kept and twin[i] not in chosen:
            chosen.append(i)
            kept.add(twin[i])
    if len(chosen) < (size or 1):
        wanted = "" if size is None else f", and {size:,} are asked for"
        raise UsageError(f"worst_case: {len(chosen):,} training examples have a near-copy among the others{wanted}")
    return np.array(chosen[:size], dtype=np.int64)


__all__ = ["doubles", "entanglement", "far_from_retain", "group_of", "near_retain"]
