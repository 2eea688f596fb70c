"""Gap attack: a member is whom the model gets right (Yeom et al. 2018). The least that any other attack must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unlearnkit.types import Attack, Holds, Known, Observation


@dataclass(frozen=True)
class Gap(Attack):
    """Scores are the share of views whose largest logit is the label's: 1 or 0 where there is one view.

    Its advantage is the gap in accuracy between members and non-members, hence the name. φ > 0 would say that the label
    has more than half of the probability, which is more than being right among three classes or more.
    """

    holds: ClassVar[Holds] = Holds.LOGITS

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        del known
        return np.asarray((target.outputs().argmax(axis=-1) == target.y[:, None]).mean(axis=1))
