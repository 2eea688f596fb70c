"""BASE: RMIA without a population: log p_θ(x) − log p(x).

For one view RMIA's score is a step function, never falling, of this log-ratio (`rmia.py`): the population only turns it
into a share. So the ROC curve is the same, but for ties where the ratios of two points fall between the same two of the
population. 2603.11799 names the ratio BASE and states that it is equivalent to RMIA.

Deviation: p as in RMIA (with `a`, or from both sides), not the mean of OUT references only; `a=1` gives that mean.
Over views the log-ratio is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unlearnkit.attacks.rmia import check_a, log_ratio
from unlearnkit.types import Attack, Holds, Known, Observation


@dataclass(frozen=True)
class BASE(Attack):
    """Online: p is the mean of IN and OUT references."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.IN

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """The log-ratio."""
        assert known.references is not None
        return np.asarray(log_ratio(target.margins, known.references, a=None).mean(axis=1))


@dataclass(frozen=True)
class BASEOffline(Attack):
    """Offline: from OUT references alone, one of them if need be."""

    holds: ClassVar[Holds] = Holds.OUT

    a: float = 0.3  # as in RMIAOffline; 1: the plain mean of OUT references

    def __post_init__(self) -> None:
        check_a(type(self).__name__, self.a)

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """The log-ratio."""
        assert known.references is not None
        return np.asarray(log_ratio(target.margins, known.references, a=self.a).mean(axis=1))
