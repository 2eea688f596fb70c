"""Worst-case sets from a pool that exists already: models trained on random halves say what each example is like.

margins: [model, point] of the pool's models; trained: [model, point], True where the model was trained on the point.

- `out_of_sample_loss`: mean loss of the models that never saw the point. The lowest are known without being trained on:
  retraining keeps them, so a method that relabels or pushes them away goes too far (the cheap form of the bilevel
  search, with retrained models in the place of its lower level).
- `memorization`: mean margin of the models that saw the point minus that of the others. The highest are known only
  because they were trained on (Feldman & Zhang 2020, with margins in the place of accuracy); hard to forget.
- by = "mislabeled": the highest out-of-sample loss, examples whose label the others' answers contradict.
- `neighbor_influence`: what seeing its neighbors does for a point that was itself not seen. The highest are held up by
  what is retained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.worst_case.simplex import check_size
from unlearnkit.result import Flag, UsageError

By = Literal["loss", "memorization", "neighbors", "mislabeled"]
Floats = NDArray[np.floating[Any]]
_BLOCK = 1 << 12  # points at a time: the working arrays stay in a core's cache


@dataclass(frozen=True, eq=False)
class Ranked:
    """Places of the chosen points, the hardest first, and their scores; flags name the points that have none."""

    places: NDArray[np.int64]
    scores: NDArray[np.float64]
    flags: tuple[Flag, ...] = ()


def out_of_sample_loss(margins: Floats, trained: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of log(1 + e^-φ) over the models that never saw the point; infinite where all of them did."""
    total = np.zeros(margins.shape[1])
    for start in range(0, total.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        phi = margins[:, part]
        loss = np.maximum(-phi, 0) + np.log1p(np.exp(-np.abs(phi)))
        total[part] = np.where(trained[:, part], 0, loss).sum(axis=0, dtype=np.float64)
    return _ratio(total, np.count_nonzero(~trained, axis=0), np.inf)


def memorization(margins: Floats, trained: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean margin with the point minus mean margin without it; minus infinity where one of the two is missing."""
    seen = np.where(trained, margins, 0).sum(axis=0, dtype=np.float64)
    unseen = np.where(trained, 0, margins).sum(axis=0, dtype=np.float64)
    count = np.count_nonzero(trained, axis=0)
    gap = _ratio(seen, count, -np.inf) - np.where(
        count < len(trained), _ratio(unseen, len(trained) - count, 0.0), np.inf
    )
    return np.asarray(gap)


def neighbor_influence(
    margins: Floats,
    trained: NDArray[np.bool_],
    neighbors: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Sum over the neighbors j of E[φ | j seen] - E[φ | j not seen], over models that never saw the point itself.

    neighbors: [point, k], places of points. A neighbor that all or none of those models saw adds 0; minus infinity
    where every model saw the point.
    """
    out = ~trained
    alone = np.where(out, margins, 0).astype(np.float64)
    everything, models = alone.sum(axis=0), np.count_nonzero(out, axis=0)
    influence = np.where(models > 0, 0.0, -np.inf)
    for column in neighbors.T:
        beside = trained[:, column]
        count = np.count_nonzero(out & beside, axis=0)
        with_it = np.where(beside, alone, 0).sum(axis=0)
        both = (count > 0) & (count < models)
        difference = with_it / np.maximum(count, 1) - (everything - with_it) / np.maximum(models - count, 1)
        influence += np.where(both, difference, 0.0)
    return np.asarray(influence)


def pool_search(
    margins: Floats,
    trained: NDArray[np.bool_],
    *,
    size: int,
    by: By = "loss",
    ids: NDArray[Any],
    neighbors: NDArray[np.int64] | None = None,
    partial: bool = False,
) -> Ranked:
    """The `size` hardest points by one of the scores above; of equal ones the earlier.

    Every point needs a model that never saw it (by = "memorization": also one that did). Raises `UsageError` that names
    the first point without one; with `partial` such points are left out and flagged instead.
    """
    if margins.shape != trained.shape or margins.ndim != 2 or ids.shape != margins.shape[1:]:
        raise UsageError(
            "pool: margins and mask must be [model, point] and ids [point], got shapes "
            f"{margins.shape}, {trained.shape} and {ids.shape}"
        )
    if not np.isfinite(margins).all():
        raise UsageError("pool: every margin must be finite")
    check_size(size, margins.shape[1], "training examples")
    if by in ("loss", "mislabeled"):
        scores, sign = out_of_sample_loss(margins, trained), 1.0 if by == "loss" else -1.0
    elif by == "memorization":
        scores, sign = memorization(margins, trained), -1.0
    else:
        if neighbors is None:
            raise UsageError('pool: by = "neighbors" needs the neighbors of every point')
        scores, sign = neighbor_influence(margins, trained, neighbors), -1.0
    lacking = np.flatnonzero(~np.isfinite(scores))
    flags: tuple[Flag, ...] = ()
    if lacking.size:
        what = "that saw them and models that did not" if by == "memorization" else "that never saw them"
        first = f"{lacking.size:,} of {scores.size:,} points lack models {what}, the first is {str(ids[lacking[0]])!r}"
        if not partial:
            raise UsageError(f"pool: {first}; train more models, or leave such points out with partial = true")
        if scores.size - lacking.size < size:
            raise UsageError(f"pool: {first}; {size:,} are to be chosen among the others, which are too few")
        flags = (Flag("points without references", f"{first}; they could not be chosen."),)
    key = np.where(np.isfinite(scores), sign * scores, np.inf)
    places = np.argsort(key, kind="stable")[:size]
    return Ranked(places, scores[places], flags)


def nearest_neighbors(features: Floats, k: int, *, block: int = 1024) -> NDArray[np.int64]:
    """[point, k]: the k nearest other points by cosine of features [point, d], the nearest first.

    Raises `UsageError` unless 0 < k < points.
    """
    n = len(features)
    if not 0 < k < n:
        raise UsageError(f"neighbors: must lie between 1 and {n - 1:,}, got {k}")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = np.empty((n, k), dtype=np.int64)
    for start in range(0, n, block):
        likeness = unit[start : start + block] @ unit.T
        rows = np.arange(len(likeness))
        likeness[rows, start + rows] = -np.inf
        near = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(likeness, near, axis=1), axis=1, kind="stable")
        found[start : start + block] = np.take_along_axis(near, order, axis=1)
    return found


def _ratio(total: NDArray[np.float64], count: NDArray[np.int64], otherwise: float) -> NDArray[np.float64]:
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), otherwise))


__all__ = ["Ranked", "memorization", "nearest_neighbors", "neighbor_influence", "out_of_sample_loss", "pool_search"]
