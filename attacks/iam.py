"""IAM: how far along the way from "never seen" to "trained on" does the audited model stand? Graded, not in or out.

2506.06112 (USENIX Security 2025). The answers of OUT references are moved step by step towards the answer of the
original model; the audited model's place among them, from a Gumbel law fitted by moments, is averaged over the steps,
each weighted by how far it has gone. One reference is usable. Offline, the original is replaced by certainty.

The score is the degree of membership, in [0, 1]; `completeness` is what is left to 1. A retrained model does not score
0: read completeness beside that of oracles. It is blind to damage off the line between the two, and forgetting too well
shows as a completeness above the oracles'.

Constants as published: 100 steps with the last left out, signal −log(0.01 − log(p + 0.00001)). Views are averaged.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from unlearnkit.attacks.moments import Moments, moments
from unlearnkit.masks import State
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Holds, Known, Observation, Scores

_ALPHAS = np.linspace(0, 1, 100)
_LEAST = 1e-6  # standard deviation


def signal(phi: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """−log(ε₁ − log(p + ε₂)) of the margin's confidence p, from −2.44 at p = 0 to 4.61 at p = 1."""
    p = np.exp(-np.logaddexp(0.0, -np.asarray(phi, dtype=np.float64)))
    return np.asarray(-np.log(1e-2 - np.log(p + 1e-5)))


CERTAIN = float(signal(np.array(np.inf)))  # the signal of p = 1


@dataclass(frozen=True)
class _IAM(Attack):
    """The average over steps; subclasses say where the way ends."""

    per_example: bool = False  # a spread for each point (two references or more) in the place of one for all per step

    @abstractmethod
    def _end(self, target: Observation, known: Known) -> Float[np.ndarray, "n v"]:
        """The signal that the references are moved towards."""

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """Degree of membership."""
        assert known.references is not None
        out = moments(known.references, State.OUT, signal)
        if self.per_example and (out.count < 2).any():
            raise UsageError(
                f"{self.name}: a spread for each point needs two references that never saw it, and "
                f"{np.count_nonzero(out.count < 2)} of {len(target)} points have one; leave per_example at False"
            )
        asked, end = signal(target.margins), self._end(target, known)
        if self.per_example:
            spreads = (1 - _ALPHAS[:, None, None]) * np.sqrt(out.squares / out.count[:, None])
        else:
            spreads = np.sqrt(_variances(out, end))[:, None, :]
        steps, weights = _ALPHAS[:-1], _ALPHAS[1:]
        reached = np.zeros(len(target))
        for alpha, weight, spread in zip(steps, weights, spreads[:-1], strict=True):
            scale = np.sqrt(6) / np.pi * np.maximum(spread, _LEAST)
            z = (asked - (1 - alpha) * out.mean - alpha * end) / scale + np.euler_gamma
            reached += weight * np.exp(-np.exp(np.minimum(-z, 700))).mean(axis=1)
        return np.asarray(reached / weights.sum())


def _variances(out: Moments, end: Float[np.ndarray, "n v"]) -> Float[np.ndarray, "steps v"]:
    """Variance of all references of all points, moved towards their ends, per step (as published: one for all points).

    Var((1 − α) s + α e) = (1 − α)² Var(s) + 2 α (1 − α) Cov(s, e) + α² Var(e), each over references and points.
    """
    weight = (out.count / out.count.sum())[:, None]
    start = out.mean - (weight * out.mean).sum(axis=0)
    finish = end - (weight * end).sum(axis=0)
    own = (weight * start**2).sum(axis=0) + out.squares.sum(axis=0) / out.count.sum()
    both, last = (weight * start * finish).sum(axis=0), (weight * finish**2).sum(axis=0)
    alpha = _ALPHAS[:, None]
    return np.asarray(np.maximum((1 - alpha) ** 2 * own + 2 * alpha * (1 - alpha) * both + alpha**2 * last, 0))


@dataclass(frozen=True)
class IAM(_IAM):
    """The way ends at what the original model says of the point."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.ORIGINAL

    def _end(self, target: Observation, known: Known) -> Float[np.ndarray, "n v"]:
        del target
        assert known.original is not None
        return signal(known.original.margins)


@dataclass(frozen=True)
class IAMOffline(_IAM):
    """The way ends at certainty: the original is not needed."""

    holds: ClassVar[Holds] = Holds.OUT

    def _end(self, target: Observation, known: Known) -> Float[np.ndarray, "n v"]:
        del known
        return np.full(target.margins.shape, CERTAIN)


def completeness(scores: Scores) -> Float[np.ndarray, " k"]:
    """1 minus the degree of membership: 0 = as if trained on, towards 1 = as if never seen."""
    return np.asarray(1 - scores.values)
