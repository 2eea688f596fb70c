"""Near-duplicates: held-out examples that the model was trained on all the same, under another name.

A twin that has a copy in the training data is no held-out example: the audited model and every oracle know it. It would
make a leak look smaller, so it is left out of the twins, and said.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlearnkit.types import Examples

CLOSE = 0.05  # root mean square difference, in standard deviations of the training inputs, below which two are one
SIZES = 64  # numbers that stand for an input in the first search
_BLOCK = 1 << 22  # numbers in memory at once
_MOST = 2_000  # training examples from which the standard deviation is measured


def copies(points: Examples, train: Examples, rows: NDArray[np.int64]) -> dict[int, int]:
    """Which of `points` have a copy among the rows of `train`: position -> row of the nearest one.

    Two inputs are one when their root mean square difference is below `CLOSE` standard deviations. Candidates come from
    a seeded random projection, which keeps distances within a fraction (Johnson and Lindenstrauss 1984), and are then
    compared in full, so nothing is reported that is not close.
    """
    if not len(points) or not rows.size:
        return {}
    numbers = int(np.prod(points.x.shape[1:]))
    step = max(1, _BLOCK // numbers)
    projection = np.random.default_rng(0).standard_normal((numbers, min(SIZES, numbers))).astype(np.float32)
    projection /= np.sqrt(projection.shape[1])
    sample = _flat(train, rows[:: max(1, rows.size // _MOST)])
    limit = CLOSE * max(float(sample.std()), 1e-12) * np.sqrt(numbers)  # as a distance
    short = _flat(points, np.arange(len(points))) @ projection
    lengths = (short**2).sum(axis=1)
    found: dict[int, tuple[float, int]] = {}
    for start in range(0, rows.size, step):
        block = rows[start : start + step]
        inputs = _flat(train, block)
        other = inputs @ projection
        for first in range(0, len(short), 512):
            part = slice(first, first + 512)
            squared = lengths[part, None] + (other**2).sum(axis=1) - 2 * short[part] @ other.T
            # differences of large numbers: distances of copies come out as small noise, of either sign
            noise = 1e-5 * (lengths[part, None] + (other**2).sum(axis=1))
            for i, j in np.argwhere(squared < (2 * limit) ** 2 + noise):
                point = first + int(i)
                distance = float(np.linalg.norm(_flat(points, np.array([point]))[0] - inputs[j]))
                if distance < min(limit, found.get(point, (np.inf, 0))[0]):
                    found[point] = (distance, int(block[j]))
    return {point: row for point, (_, row) in sorted(found.items())}


def _flat(examples: Examples, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """[row, number], images as they are stored."""
    x = examples.x[np.asarray(rows)].numpy()
    return np.asarray(x.reshape(len(rows), -1), dtype=np.float32)
