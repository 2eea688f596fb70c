"""Deletion inference from two versions of a model: what did the original say that the audited one does not?

Chen et al. 2021 train a shadow attack on features of both answers; here each feature is a score by itself. A PERFECT
RETRAINING FAILS THIS, TOO: whoever holds both versions sees what changed, and with an exact deletion most of all. So a
score says nothing about the deletion until it is read beside the same attack on retrained models; what it shows then
is the risk of releasing both versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import softmax

from unlearnkit.attacks.signals import confidence, margin
from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Attack, Holds, Known, Observation

Difference = Callable[[Observation, Observation], Float[np.ndarray, " n"]]


def direct(original: Observation, audited: Observation) -> Float[np.ndarray, " n"]:
    """Confidence in the label that the deletion took away ("direct difference", the label's entry)."""
    return np.asarray(confidence(original) - confidence(audited))


def in_margin(original: Observation, audited: Observation) -> Float[np.ndarray, " n"]:
    """φ that the deletion took away: as `direct`, without saturation."""
    return np.asarray(margin(original) - margin(audited))


def sorted_difference(original: Observation, audited: Observation) -> Float[np.ndarray, " n"]:
    """Confidence taken from the original's first choice ("sorted difference", first entry): needs no label."""
    before, after = _posteriors(original), _posteriors(audited)
    first = before.argmax(axis=-1)[..., None]
    return np.asarray(np.take_along_axis(before - after, first, axis=-1)[..., 0].mean(axis=1))


def l2(original: Observation, audited: Observation) -> Float[np.ndarray, " n"]:
    """Euclidean distance of the two posteriors: any change, whichever way."""
    return np.asarray(np.linalg.norm(_posteriors(original) - _posteriors(audited), axis=-1).mean(axis=1))


def _posteriors(seen: Observation) -> Float[np.ndarray, "n v c"]:
    return np.asarray(softmax(seen.outputs().astype(np.float64), axis=-1))


DIFFERENCES: Mapping[str, Difference] = MappingProxyType(
    {"direct": direct, "margin": in_margin, "sorted": sorted_difference, "l2": l2}
)


@dataclass(frozen=True)
class TwoModel(Attack):
    """Scores are how much the answer changed; views are averaged. Higher = more like an example that was deleted.

    `sorted` and `l2` need the logits of both versions.
    """

    holds: ClassVar[Holds] = Holds.ORIGINAL

    difference: str = "direct"  # a name in DIFFERENCES

    def __post_init__(self) -> None:
        if self.difference not in DIFFERENCES:
            raise UsageError(
                f"TwoModel.difference: must be one of {', '.join(DIFFERENCES)}, got {self.difference!r}"
                + nearest(self.difference, DIFFERENCES)
            )

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        assert known.original is not None  # checked by `holds`
        return DIFFERENCES[self.difference](known.original, target)
