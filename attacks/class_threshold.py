"""Thresholds of each class, learned from points whose state the attacker knows (Song and Mittal 2021, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.attacks.threshold import check_signal
from unlearnkit.types import Attack, Holds, Known, Observation


@dataclass(frozen=True)
class ClassThreshold(Attack):
    """Scores are the signal above the threshold of the point's class: positive means called a member.

    A class's threshold has the best balanced accuracy between known members and the population of that class; a class
    that lacks one of the two gets the threshold of all points. The paper learns thresholds on a shadow model; hand
    over its observations as members and population to do the same.
    """

    holds: ClassVar[Holds] = Holds.MEMBERS | Holds.POPULATION

    signal: str = "modified-entropy"  # a name in SIGNALS

    def __post_init__(self) -> None:
        check_signal("ClassThreshold", self.signal)

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        assert known.members is not None  # both checked by `holds`
        assert known.population is not None
        signal = SIGNALS[self.signal]
        inside, outside = signal(known.members), signal(known.population)
        values, common = signal(target), best_threshold(inside, outside)
        for label in np.unique(target.y):
            own = inside[known.members.y == label], outside[known.population.y == label]
            values[target.y == label] -= best_threshold(*own) if own[0].size and own[1].size else common
        return values


def best_threshold(members: Float[np.ndarray, " m"], nonmembers: Float[np.ndarray, " n"]) -> float:
    """The threshold t of the best balanced accuracy of `score >= t means member`; of equally good ones the highest.

    It lies in the middle between the scores that it parts, so that neither is on it.
    """
    scores = np.unique(np.concatenate([members, nonmembers]))
    true = 1 - np.searchsorted(np.sort(members), scores, side="left") / members.size
    false = 1 - np.searchsorted(np.sort(nonmembers), scores, side="left") / nonmembers.size
    best = scores.size - 1 - int(np.argmax((true - false)[::-1]))
    below = scores[best - 1] if best else scores[best]
    return float(below + (scores[best] - below) / 2)
