"""Attack R: where does the target's loss stand among those of models that never saw the point?

Ye et al. 2022 (2111.09679). The reference losses of a point are sorted between the sentinels 0 and 1000, and the
target's loss is placed among them by linear interpolation: α(x), the share of OUT models that fit the point as well as
the target does. A small α speaks for a member, so the score is 1 − α; over views it is averaged.

With references exchangeable with the target, "member where α ≤ a" errs on a share a of non-members. K references tell
no level finer than 1/(K + 1): what lies below is interpolation towards a sentinel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from unlearnkit.attacks.moments import blocks
from unlearnkit.masks import State
from unlearnkit.result import Flag
from unlearnkit.types import Attack, Holds, Known, Observation

_SENTINEL = 1000.0  # loss
_FINEST = 0.01  # false-positive rates below this are what low-FPR claims are about


@dataclass(frozen=True)
class AttackR(Attack):
    """1 − α(x)."""

    holds: ClassVar[Holds] = Holds.OUT

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """Per point: one minus the interpolated share of references with a smaller loss."""
        assert known.references is not None
        references = known.references
        models, points, views = references.margins.shape
        values = np.empty(points)
        for part in blocks(points, models * views):
            outside = (references.state[:, part] == State.OUT)[..., None]
            losses, own = _loss(references.margins[:, part]), _loss(target.margins[part])
            below = outside & (losses <= own)
            low = np.where(below, losses, 0.0).max(axis=0)
            high = np.where(outside & ~below, losses, _SENTINEL).min(axis=0)
            place = below.sum(axis=0) + (own - low) / (high - low)
            values[part] = 1 - (place / (outside.sum(axis=0) + 1)).mean(axis=1)
        return values

    def doubts(self, target: Observation, known: Known) -> tuple[Flag, ...]:
        """Says how fine a level the references can tell."""
        del target
        assert known.references is not None
        least = int(np.count_nonzero(known.references.state == State.OUT, axis=0).min())
        if 1 / (least + 1) <= _FINEST:
            return ()
        return (
            Flag(
                "coarse levels",
                f"{self.name}: with {least} references that never saw a point, false-positive rates are told no finer "
                f"than 1/{least + 1}.",
            ),
        )


def _loss(margins: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """log(1 + e^−φ), below the sentinel."""
    return np.asarray(np.minimum(np.logaddexp(0.0, -margins.astype(np.float64)), _SENTINEL - 1))
