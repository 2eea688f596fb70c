"""LiRA: is a point's margin more like that of models trained on it, or of models that never saw it?

Carlini et al. 2022 (2112.03570). Margins φ (their logit-scaled confidence), one normal law per point, view and side;
log-densities are averaged over views. Deviations from the paper: variances are shrunk unless told otherwise (see
`gaussian.py`, where the published variants stand), and centers are means, not medians (except in "legacy").

LiRA compares two laws, so it sees a margin that lies far *below* both for what it is: unlike a member. Whether
forgetting went too far is asked by ULiRA, whose references over-forget as the target does, or by LiRAOfflineDensity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from unlearnkit.attacks.gaussian import Gaussian, GaussianRatio, Law
from unlearnkit.masks import State
from unlearnkit.types import Holds


@dataclass(frozen=True)
class LiRA(GaussianRatio):
    """Online: log N(φ; IN) − log N(φ; OUT) (section V, algorithm 1)."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.IN
    inside: ClassVar[State | None] = State.IN


@dataclass(frozen=True)
class LiRAOffline(Gaussian):
    """Offline: one-sided, −log Pr[Z > φ] for Z ~ OUT (equation 4); over views this is Fisher's combination.

    One-sided: a point forgotten too well, whose margin lies far below OUT, scores like the most innocent of all.
    """

    holds: ClassVar[Holds] = Holds.OUT

    def compare(
        self, phi: Float[np.ndarray, "*m n v"], inside: Law | None, outside: Law
    ) -> Float[np.ndarray, "*m n v"]:
        """Minus the log of the upper tail."""
        del inside
        return -outside.log_tail(phi)


@dataclass(frozen=True)
class LiRAOfflineDensity(Gaussian):
    """What the research script computes under the name of offline LiRA: −log N(φ; OUT), the *density* (audits.md 10.4).

    Two-sided: whatever is unlike OUT scores high, margins that are too low as well. A weak attack on plain membership,
    and the one that sees over-forgetting.
    """

    holds: ClassVar[Holds] = Holds.OUT

    def compare(
        self, phi: Float[np.ndarray, "*m n v"], inside: Law | None, outside: Law
    ) -> Float[np.ndarray, "*m n v"]:
        """Minus the log-density."""
        del inside
        return -outside.log_density(phi)
