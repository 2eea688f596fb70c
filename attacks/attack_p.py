"""Attack P: how many examples that the model never saw does it know less well than this one (Ye et al. 2022)?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unlearnkit.attacks.signals import loss
from unlearnkit.types import Attack, Holds, Known, Observation


@dataclass(frozen=True)
class AttackP(Attack):
    """Scores are the share of the population with a larger loss, a tied one counting half.

    One null for all points, so that with one population the ROC is nearly that of the loss itself (it has steps of one
    population point); what the population adds is calibration: where points are exchangeable with it, a score above
    1 − α has a false-positive rate of about α.
    """

    holds: ClassVar[Holds] = Holds.POPULATION

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        assert known.population is not None  # checked by `holds`
        own, others = loss(target), np.sort(loss(known.population))  # minus the loss: higher = better known
        below, up_to = (np.searchsorted(others, own, side=side) for side in ("left", "right"))
        return np.asarray((below + up_to) / (2 * others.size))
