"""RULI: U-LiRA with kernel densities in the place of normal laws.

2506.13009 (USENIX Security 2025): per point, a Gaussian kernel density of the margins of FORGOTTEN references and one
of OUT references. Their score f_u / (f_u + f_out) is a monotone function of log f_u − log f_out, which is what is
returned: it does not round to 0 and 1, and is averaged over views.

Deviation: the published code leaves the bandwidth at 1.0 whatever the scale of the margins (audits.md 10.8), so that a
leak much smaller than one logit vanishes; `legacy=True` reproduces that. Here it is Silverman's 1.06 s n^(−1/5) with
the shrunk spread s of `gaussian.py`, per point, state and view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import logsumexp

from unlearnkit.attacks.gaussian import pooled_variance, too_few
from unlearnkit.attacks.moments import Moments, blocks, moments, totals
from unlearnkit.masks import State
from unlearnkit.result import Flag, UsageError
from unlearnkit.types import Attack, Holds, Known, Observation, References


@dataclass(frozen=True)
class RULI(Attack):
    """log of the density of FORGOTTEN minus that of OUT, averaged over views."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.FORGOTTEN

    legacy: bool = False  # the published bandwidth, 1.0 on every scale
    nu0: float = 4.0  # references that the pooled spread is worth

    def __post_init__(self) -> None:
        if not self.nu0 > 0:
            raise UsageError(f"RULI.nu0: must be above 0, got {self.nu0}")

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """Log ratio of the two densities."""
        references = known.references
        assert references is not None
        phi = target.margins.astype(np.float64)
        found = {state: moments(references, state) for state in self.states()}
        common = {state: pooled_variance(state, {s: totals(one) for s, one in found.items()}) for state in found}
        forgotten, outside = (
            _log_density(phi, references, state, self._bandwidth(found[state], common[state]))
            for state in (State.FORGOTTEN, State.OUT)
        )
        return np.asarray((forgotten - outside).mean(axis=1))

    def doubts(self, target: Observation, known: Known) -> tuple[Flag, ...]:
        """Says where references are too few for a spread."""
        del target
        assert known.references is not None
        state = known.references.state
        return too_few(self.name, [np.count_nonzero(state == one, axis=0) for one in self.states()])

    def _bandwidth(self, one: Moments, common: Float[np.ndarray, " v"]) -> Float[np.ndarray, "n v"]:
        if self.legacy:
            return np.ones_like(one.mean)
        count = one.count[:, None]
        spread = np.sqrt((self.nu0 * common + one.squares) / (self.nu0 + count - 1))
        return np.asarray(1.06 * spread * count**-0.2)


def _log_density(
    phi: Float[np.ndarray, "n v"], references: References, state: State, bandwidth: Float[np.ndarray, "n v"]
) -> Float[np.ndarray, "n v"]:
    """log of the mean of the kernels of the references of one state."""
    models, points, views = references.margins.shape
    values = np.empty((points, views))
    for part in blocks(points, models * views):
        inside = (references.state[:, part] == state)[..., None]
        z = (phi[part] - references.margins[:, part]) / bandwidth[part]
        kernels = logsumexp(np.where(inside, -0.5 * z * z, -np.inf), axis=0)
        values[part] = kernels - np.log(inside.sum(axis=0)) - np.log(bandwidth[part]) - 0.5 * np.log(2 * np.pi)
    return values
