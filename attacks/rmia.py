"""RMIA: against how many points of a population does the target prefer this one, compared with reference models?

Zarifzadeh et al. 2024 (2312.03262). ratio(x) = p_θ(x) / p(x), and the score is Pr_z[ratio(x) / ratio(z) ≥ γ] over a
population z that no model was trained on. p is the softmax probability of the true class. A mean over references is all
that is estimated, never a variance: one reference is enough.

The pairwise count is an empirical distribution function: the population's ratios are sorted once and searched, so no
n × m matrix arises. Probabilities enter as log(1 − Q), Q the mean of 1 − p, which keeps its digits where p rounds to 1.

Deviations from the paper: plain softmax (its experiments on images use a soft-margin Taylor softmax and a temperature);
over views the score is averaged (there each view decides, and the majority is taken); the mean of the references is not
trimmed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import expit

from unlearnkit.attacks.moments import moments
from unlearnkit.masks import State
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Holds, Known, Observation, References

_LEAST = 1e-300  # probability


def log_ratio(
    margins: Float[np.ndarray, "n v"], references: References, *, a: float | None
) -> Float[np.ndarray, "n v"]:
    """log p_θ(x) − log p(x) per point and view.

    a given: p = ((1 + a) p_OUT + (1 − a)) / 2, from p_IN ≈ a p_OUT + 1 − a (offline, their section 3). a is None: the
    mean of p_IN and p_OUT, each side weighing one half; points that no reference was trained on have p = p_OUT.
    """

    def mean(state: State, sign: int) -> Float[np.ndarray, "n v"]:
        return moments(references, state, lambda phi: expit(sign * phi)).mean

    share = np.full(len(margins), (1 + (1 if a is None else a)) / 2)  # weight of OUT; the rest is IN, or certainty
    trained = (references.state == State.IN).any(axis=0) if a is None else np.zeros(len(margins), dtype=bool)
    share[trained] = 0.5
    weight = share[:, None]
    miss, hit = weight * mean(State.OUT, -1), weight * mean(State.OUT, 1)
    if trained.any():
        miss, hit = miss + (1 - weight) * mean(State.IN, -1), hit + (1 - weight) * mean(State.IN, 1)
    else:
        hit = hit + (1 - weight)
    near_one = miss < 0.5
    log_p = np.where(near_one, np.log1p(-np.where(near_one, miss, 0)), np.log(np.maximum(hit, _LEAST)))
    return np.asarray(-np.logaddexp(0.0, -margins.astype(np.float64)) - log_p)


def check_a(attack: str, a: float) -> None:
    """Refuses a share outside [0, 1]."""
    if not 0 <= a <= 1:
        raise UsageError(f"{attack}.a: must lie between 0 and 1, got {a}")


@dataclass(frozen=True)
class _RMIA(Attack):
    """The count over the population; subclasses say what stands for p."""

    gamma: float = 2.0  # how many times the ratio of a population point must be reached (the paper's choice)

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and np.isfinite(self.gamma)):
            raise UsageError(f"{type(self).__name__}.gamma: must be above 0, got {self.gamma}")

    def _count(self, target: Observation, known: Known, a: float | None) -> NDArray[np.float64]:
        population, beside = known.population, known.population_references
        assert known.references is not None
        assert population is not None
        assert beside is not None
        if beside.margins.shape[1:] != population.margins.shape:
            raise UsageError(
                f"{self.name}: the references must be seen on the population's points and views, "
                f"{list(population.margins.shape)}, got {list(beside.margins.shape[1:])}"
            )
        if population.margins.shape[1] != target.margins.shape[1]:
            raise UsageError(
                f"{self.name}: the population must be seen in the target's views, {target.margins.shape[1]}, got "
                f"{population.margins.shape[1]}"
            )
        if len(beside) != len(known.references):
            raise UsageError(
                f"{self.name}: the references on the population must be those on the points, {len(known.references)}, "
                f"got {len(beside)}"
            )
        if (beside.state != State.OUT).any():
            raise UsageError(f"{self.name}: no reference may have been trained on the population")
        points = log_ratio(target.margins, known.references, a=a)
        others = np.sort(log_ratio(population.margins, beside, a=a), axis=0)
        reach = points - np.log(self.gamma)
        below = [np.searchsorted(others[:, v], reach[:, v], side="right") for v in range(reach.shape[1])]
        return np.asarray(np.mean(below, axis=0) / len(others))


@dataclass(frozen=True)
class RMIA(_RMIA):
    """Online: p is the mean of IN and OUT references; for the population, of the references as they are."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.IN | Holds.POPULATION | Holds.POPULATION_REFERENCES

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """Share of the population that is beaten γ-fold."""
        return self._count(target, known, None)


@dataclass(frozen=True)
class RMIAOffline(_RMIA):
    """Offline: from OUT references alone, one of them if need be."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.POPULATION | Holds.POPULATION_REFERENCES

    a: float = 0.3  # how far p_IN is thought to follow p_OUT: 0.3 on CIFAR-10 and CINIC-10, 0.6 on CIFAR-100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_a(type(self).__name__, self.a)

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """Share of the population that is beaten γ-fold."""
        return self._count(target, known, self.a)
