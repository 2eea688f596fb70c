"""U-LiRA: is a point's margin that of models which unlearned it, or of models which never saw it?

Hayes et al. 2024 (2403.01218): LiRA with FORGOTTEN references (trained with the point, then unlearned by the same
method and hyperparameters as the target) in the place of IN. Deviations: the log ratio is kept instead of a decision at
probability 1/2, and variances are shrunk (`gaussian.py`).

Two-sided where it matters: references that forget too well lie below OUT, and a target which does so is found by it.
Where OUT is read is `References.from_pool`'s choice: from unlearned models (did the point leave a trace?) or from
retrained ones (does the unlearned model look retrained?).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unlearnkit.attacks.gaussian import GaussianRatio
from unlearnkit.masks import State
from unlearnkit.types import Holds


@dataclass(frozen=True)
class ULiRA(GaussianRatio):
    """log N(φ; FORGOTTEN) − log N(φ; OUT), averaged over views."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.FORGOTTEN
    inside: ClassVar[State | None] = State.FORGOTTEN
