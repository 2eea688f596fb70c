"""Threshold attack: one population threshold on one signal (Yeom et al. 2018; Song and Mittal 2021).

The weakest attack and the cheapest: it needs one model and no references. It cannot tell a hard non-member from a
forgotten member, so an audit reads it against retrained oracles only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Attack, Known, Observation


@dataclass(frozen=True)
class Threshold(Attack):
    """Scores are the signal itself; every ROC point is one threshold on it."""

    signal: str = "margin"  # a name in SIGNALS

    def __post_init__(self) -> None:
        check_signal("Threshold", self.signal)

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        del known
        return SIGNALS[self.signal](target)


def check_signal(attack: str, signal: str) -> None:
    """Raise UsageError unless there is such a signal."""
    if signal not in SIGNALS:
        raise UsageError(
            f"{attack}.signal: must be one of {', '.join(SIGNALS)}, got {signal!r}" + nearest(signal, SIGNALS)
        )
