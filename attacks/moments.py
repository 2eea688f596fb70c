"""Moments of the references, point by point: how many, their mean, and their squared distances from it.

Everything that attacks need of their references comes from here, in float64 and in blocks of points, so that memory
stays small whatever the size of the pool (256 models × 60,000 points).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from unlearnkit.masks import State
from unlearnkit.types import References

_BLOCK = 1 << 17  # numbers worked on at once: a float64 array of them stays in a core's cache


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the references of one state. A leading axis, if there is one, is the model that plays the target."""

    count: Float[np.ndarray, "*m n"]
    mean: Float[np.ndarray, "*m n v"]
    squares: Float[np.ndarray, "*m n v"]  # sum of squared distances from the mean


@dataclass(frozen=True, eq=False)
class Totals:
    """The moments of all points in sum, one row per view; they add up over blocks of points."""

    count: Float[np.ndarray, "*m 1"]
    freedom: Float[np.ndarray, "*m 1"]  # sum of count - 1: what is left after one mean per point
    within: Float[np.ndarray, "*m v"]  # sum of the squared distances from the points' own means
    first: Float[np.ndarray, "*m v"]  # sum of all margins
    second: Float[np.ndarray, "*m v"]  # sum of count × mean²

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.count + other.count,
            self.freedom + other.freedom,
            self.within + other.within,
            self.first + other.first,
            self.second + other.second,
        )

    def spread_within(self) -> Float[np.ndarray, "*m v"]:
        """Variance of references about their own point's mean, pooled over points; 0 where none has two references."""
        return np.asarray(self.within / np.maximum(self.freedom, 1))

    def spread_in_all(self) -> Float[np.ndarray, "*m v"]:
        """Variance of all references about one mean: the spread between points is in it."""
        count = np.maximum(self.count, 1)
        return np.asarray(np.maximum(self.within + self.second - self.first**2 / count, 0) / count)


def blocks(points: int, width: int) -> Iterator[slice]:
    """Slices over `points` points of `width` numbers each."""
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, points, step):
        yield slice(start, min(start + step, points))


def moments(
    references: References,
    state: State,
    signal: Callable[[Float[np.ndarray, "m n v"]], Float[np.ndarray, "m n v"]] | None = None,
) -> Moments:
    """Of the references of one state, of their margins or of a signal computed from these."""
    models, points, views = references.margins.shape
    count = np.count_nonzero(references.state == state, axis=0).astype(np.float64)
    mean, squares = np.empty((points, views)), np.empty((points, views))
    for part in blocks(points, models * views):
        x = references.margins[:, part].astype(np.float64)
        one = moments_of(x if signal is None else signal(x), references.state[:, part], state)
        mean[part], squares[part] = one.mean, one.squares
    return Moments(count, mean, squares)


def moments_of(x: Float[np.ndarray, "m n v"], states: UInt8[np.ndarray, "m n"], state: State) -> Moments:
    """The same for one block, in two passes: squares of distances, not differences of squares."""
    inside = (states == state).astype(np.float64)
    count = inside.sum(axis=0)
    mean = np.einsum("mnv,mn->nv", x, inside) / np.maximum(count, 1)[:, None]
    distance = x - mean
    distance *= inside[..., None]
    return Moments(count, mean, np.einsum("mnv,mnv->nv", distance, distance))


def totals(one: Moments, covered: Float[np.ndarray, "*m n"] | None = None) -> Totals:
    """Sums over points; `covered` is 1 for points that count and 0 for those that do not."""
    weight = np.ones_like(one.count) if covered is None else covered
    count = (one.count * weight)[..., None]
    return Totals(
        count.sum(axis=-2),
        (np.maximum(one.count - 1, 0) * weight).sum(axis=-1, keepdims=True),
        (one.squares * weight[..., None]).sum(axis=-2),
        (count * one.mean).sum(axis=-2),
        (count * one.mean**2).sum(axis=-2),
    )
