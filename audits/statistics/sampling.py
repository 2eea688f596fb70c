"""Which of many rows are looked at. Needs no random numbers: the same rows give the same sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 5_000  # of a large set, on which the accuracy of many models is measured
LEAST_OF_GROUP = 50  # held-out examples of a group that are looked at, where it has so many


def evenly(rows: NDArray[np.int64], most: int = MOST_POINTS) -> NDArray[np.int64]:
    """At most so many of the rows, from the first on in equal steps; all of them where they are no more.

    The steps are whole: of 5,001 rows at most 5,000 are every second one. Content keys of audits depend on it.
    """
    return rows[:: max(1, -(-rows.size // most))]


def exactly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many of the rows, the first and the last among them; all of them where they are no more.

    Its steps differ by one where `evenly` would take fewer rows. Ledger entries name the examples that it chose.
    """
    return rows[np.linspace(0, rows.size - 1, min(rows.size, most)).round().astype(np.int64)]


def in_groups(
    number: NDArray[np.int64], most: int = MOST_POINTS, least: int = LEAST_OF_GROUP
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Points of the groups `number` [point] (-1: none): at most so many in the shares of all, and what lacks beside.

    The first are taken `evenly` along the groups, one after the other, so that the order of the points cannot hide one.
    The second are what these leave of a group that has fewer than `least` among them, up to so many: whoever measures
    all points together leaves them out, or small groups would weigh more than they do.
    """
    shares = np.sort(evenly(np.argsort(number, kind="stable"), most))
    beside = [np.empty(0, dtype=np.int64)]
    for group in np.unique(number[number >= 0]):
        here = np.flatnonzero(number == group)
        left = np.setdiff1d(here, shares)
        beside.append(exactly(left, max(0, min(here.size, least) - (here.size - left.size))))
    return shares, np.sort(np.concatenate(beside))
