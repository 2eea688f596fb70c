"""The known-truth anchor: mechanisms whose epsilon is known, and how often the lower limits of an audit exceed it.

An audit that shows more than the truth is wrong, and one that shows nothing where much leaks is blind: `violations` and
`alive` find both. Randomized response and the Gaussian mechanism have an exact epsilon; DP-SGD is written out here in
numpy, so that the proof of the auditor rests on no library that might itself be what an audit finds fault with.

Epsilon is in nats, of adding or removing one example. Score direction: higher = more like a trained-on example. The
limits under test are those of `epsilon.py`: one run with many canaries, and two worlds with many runs.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from unlearnkit.audits.statistics.epsilon import (
    Split,
    gaussian_epsilon,
    one_run_epsilon,
    one_run_guesses,
    split_epsilon,
)
from unlearnkit.audits.statistics.roc import check_share
from unlearnkit.result import UsageError

_ORDERS = np.arange(2, 257, dtype=np.float64)  # of Rényi's divergence


@dataclass(frozen=True, eq=False)
class Games:
    """Repetitions of one game: scores [r, m] of m canaries, and the coins [r, m] that put each in (True) or out."""

    scores: NDArray[np.float64]
    heads: NDArray[np.bool_]


@dataclass(frozen=True)
class Mechanism(ABC):
    """Something of known epsilon that m canaries are put into, each by a fair coin of its own.

    heads: so many of them are put in, every such set being equally likely, as `canaries.draw` does; None: fair coins.
    """

    canaries: int = dataclasses.field(default=200, kw_only=True)
    heads: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.canaries < 1:
            raise UsageError(f"canaries must be a count of at least 1, got {self.canaries}; pass a number of coins")
        if self.heads is not None and not 0 <= self.heads <= self.canaries:
            raise UsageError(f"heads must lie between 0 and canaries = {self.canaries}, got {self.heads}; take half")

    @abstractmethod
    def epsilon(self, *, delta: float) -> float:
        """The epsilon (nats) of one canary at delta; where it is not exact, no true one is larger."""

    @abstractmethod
    def play(self, repetitions: int, rng: np.random.Generator) -> Games:
        """So many games, independent of each other."""

    def _tossed(self, repetitions: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        if self.heads is None:
            return rng.random((repetitions, self.canaries)) < 0.5
        return rng.permuted(np.tile(np.arange(self.canaries) < self.heads, (repetitions, 1)), axis=1)


@dataclass(frozen=True)
class RandomizedResponse(Mechanism):
    """Tells each coin truly with probability 1 / (1 + e**-nats): (nats, 0)-DP, and no better test of it exists.

    Raises `UsageError` for nats that are negative or not finite.
    """

    nats: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.nats < math.inf:
            raise UsageError(f"nats must be at least 0 and finite, got {self.nats}; 0 tells nothing of the coins")

    def epsilon(self, *, delta: float) -> float:
        """Exact: delta = (e**nats - e**epsilon) / (1 + e**nats), solved for epsilon."""
        inside = 1.0 - delta - delta * math.exp(-self.nats)
        return max(0.0, self.nats + math.log(inside)) if inside > 0.0 else 0.0

    def play(self, repetitions: int, rng: np.random.Generator) -> Games:
        """Scores in [0, 1) for "out", [1, 2) for "in": the rest is chance, which breaks the ties."""
        heads = self._tossed(repetitions, rng)
        told = heads ^ (rng.random(heads.shape) >= special.expit(self.nats))
        return Games(told + rng.random(heads.shape), heads)


@dataclass(frozen=True)
class GaussianMechanism(Mechanism):
    """Adds normal noise to mu for every canary that is in: mu-GDP, which is exact.

    Raises `UsageError` for a mu that is negative or not finite.
    """

    mu: float  # in standard deviations of the noise

    def __post_init__(self) -> None:
        super().__post_init__()
        gaussian_epsilon(self.mu, delta=0.5)  # refuses what is no mu

    def epsilon(self, *, delta: float) -> float:
        """Exact (`gaussian_epsilon`)."""
        return gaussian_epsilon(self.mu, delta=delta)

    def play(self, repetitions: int, rng: np.random.Generator) -> Games:
        heads = self._tossed(repetitions, rng)
        return Games(rng.normal(self.mu * heads, 1.0), heads)


@dataclass(frozen=True)
class PrivateRegression(Mechanism):
    """Logistic regression by DP-SGD (Abadi 2016), scored by the margin of each canary after training.

    Poisson sampling; the sum of clipped gradients plus noise, divided by a public constant, the batch expected if every
    coin fell heads. Every canary has a direction of its own, so that they do not hide each other; ordinary examples
    share a few. No feature is computed from other examples.
    Raises `UsageError` for a noise multiplier, clip or learning rate that is not positive and finite, a rate outside
    (0, 1] or negative counts.
    """

    noise_multiplier: float  # standard deviation of the noise in units of `clip`
    sample_rate: float = 0.2  # chance of each example to be in a batch
    steps: int = 20
    clip: float = 0.1  # largest norm of one example's gradient
    lr: float = 1.0
    examples: int = 50  # ordinary ones, trained on in every game
    features: int = 5  # that they share

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise_multiplier", "clip", "lr"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be above 0 and finite, got {getattr(self, name)}; 1.0 is usual")
        for name, least in (("steps", 1), ("examples", 0), ("features", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be a count of at least {least}, got {getattr(self, name)}; raise it")
        if not 0.0 < self.sample_rate <= 1.0:
            raise UsageError(f"sample_rate must lie in (0, 1], got {self.sample_rate}; 1 takes all examples every time")

    def epsilon(self, *, delta: float) -> float:
        """An upper limit (`sampled_gaussian_epsilon`)."""
        return sampled_gaussian_epsilon(self.noise_multiplier, self.sample_rate, self.steps, delta=delta)

    def play(self, repetitions: int, rng: np.random.Generator) -> Games:
        heads = self._tossed(repetitions, rng)
        x, y = self._data()
        present = np.concatenate([heads, np.ones((repetitions, self.examples), dtype=np.bool_)], axis=1)
        lengths = np.linalg.norm(x, axis=1)
        batch = self.sample_rate * len(x)
        weights = np.zeros((repetitions, x.shape[1]))
        for _ in range(self.steps):
            errors = special.expit(weights @ x.T) - y  # an example's gradient is its error times its features
            norms = np.abs(errors) * lengths
            shrunk = errors * np.minimum(1.0, self.clip / np.maximum(norms, self.clip))
            drawn = present & (rng.random(present.shape) < self.sample_rate)
            total = (drawn * shrunk) @ x + rng.normal(0.0, self.noise_multiplier * self.clip, weights.shape)
            weights -= self.lr * total / batch
        return Games(weights @ x[: self.canaries].T, heads)

    def _data(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Features [canaries, then examples], all of length 1, and labels; the same in every game."""
        x = np.zeros((self.canaries + self.examples, self.canaries + self.features))
        x[: self.canaries, : self.canaries] = np.eye(self.canaries)
        shared = np.random.default_rng(0).normal(size=(self.examples, self.features))
        x[self.canaries :, self.canaries :] = shared / np.linalg.norm(shared, axis=1, keepdims=True)
        y = np.ones(len(x))
        y[self.canaries :] = shared[:, 0] > 0.0
        return x, y


def sampled_gaussian_epsilon(noise_multiplier: float, sample_rate: float, steps: int, *, delta: float) -> float:
    """Upper limit of epsilon (nats) of Poisson-sampled Gaussian steps, adding or removing one example.

    Without sampling exact: sqrt(steps) / noise_multiplier-GDP. Otherwise from Rényi's divergence of integer order a,
    ln(sum_k C(a, k) (1 - q)**(a - k) q**k e**(k (k - 1) / (2 sigma**2))) / (a - 1) a step (Mironov 2019, section 3.3),
    as epsilon = divergence + ln((a - 1) / a) - ln(delta a) / (a - 1) (Balle 2020, theorem 21), at the best order.
    Raises `UsageError` for a delta outside (0, 1).
    """
    if sample_rate == 1.0:
        return gaussian_epsilon(math.sqrt(steps) / noise_multiplier, delta=delta)
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta must lie in (0, 1), got {delta}; a Gaussian mechanism has no epsilon at 0, use 1e-5")
    best = math.inf
    for order in _ORDERS:
        k = np.arange(order + 1)
        chosen = special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
        law = chosen + k * math.log(sample_rate) + (order - k) * math.log1p(-sample_rate)
        divergence = float(special.logsumexp(law + k * (k - 1) / (2 * noise_multiplier**2))) / (order - 1)
        bound = steps * divergence + math.log((order - 1) / order) - math.log(delta * order) / (order - 1)
        best = min(best, bound)
    return max(0.0, best)


def one_run_bounds(
    mechanism: Mechanism,
    *,
    repetitions: int,
    positive: int,
    negative: int,
    delta: float = 0.0,
    confidence: float = 0.95,
    seed: int,
) -> NDArray[np.float64]:
    """`one_run_epsilon` [repetitions] of independent games, from the registered numbers of guesses.

    A mechanism with a fixed number of heads is held against the law of such a split; then every canary is guessed.

    Raises `UsageError` as `one_run_guesses` and `one_run_epsilon` do, and for fewer than one repetition.
    """
    _check_count("repetitions", repetitions)
    games = mechanism.play(repetitions, np.random.default_rng(seed))
    split = None if mechanism.heads is None else Split(mechanism.heads, positive)
    known: dict[int, float] = {}
    bounds = []
    for scores, heads in zip(games.scores, games.heads, strict=True):
        correct, guesses = one_run_guesses(scores, heads, positive=positive, negative=negative)
        if correct not in known:
            known[correct] = one_run_epsilon(
                correct, guesses, canaries=mechanism.canaries, delta=delta, confidence=confidence, split=split
            )
        bounds.append(known[correct])
    return np.array(bounds)


def two_world_bounds(
    mechanism: Mechanism, *, repetitions: int, runs: int, delta: float = 0.0, confidence: float = 0.95, seed: int
) -> NDArray[np.float64]:
    """`split_epsilon` [repetitions] of `runs` runs each, with one canary, which a coin puts into about half of them.

    Raises `UsageError` as `split_epsilon` does, and for fewer than one repetition or run.
    """
    _check_count("repetitions", repetitions)
    _check_count("runs", runs)
    alone = dataclasses.replace(mechanism, canaries=1, heads=None)
    rng = np.random.default_rng(seed)
    bounds = []
    for repetition in range(repetitions):
        games = alone.play(runs, rng)
        members, nonmembers = games.scores[games.heads], games.scores[~games.heads]
        found = split_epsilon(members, nonmembers, confidence=confidence, delta=delta, seed=seed + repetition)
        bounds.append(found.epsilon)
    return np.array(bounds)


@dataclass(frozen=True)
class Violations:
    """How many of `repetitions` lower limits exceed the truth, and the most that chance would allow, 99.9 % of times.

    A limit of confidence c may exceed the truth in 1 - c of all audits; `sound` is False where it does so more often.
    """

    count: int
    limit: int
    repetitions: int

    @property
    def sound(self) -> bool:
        return self.count <= self.limit


def violations(bounds: NDArray[np.float64], truth: float, *, confidence: float = 0.95) -> Violations:
    """Count the lower limits [r] of `confidence` that exceed the true epsilon (audits.md 4.7).

    Raises `UsageError` for no limits or a confidence outside (0, 1).
    """
    check_share("confidence", confidence)
    _check_count("bounds", bounds.size)
    limit = int(stats.binom.ppf(0.999, bounds.size, 1.0 - confidence))
    return Violations(int(np.count_nonzero(bounds > truth)), limit, bounds.size)


def alive(bounds: NDArray[np.float64]) -> float:
    """Share of the lower limits [r] that show a leak at all; at a true epsilon of 2 and more it should be near 1.

    That much can be had where one canary tells all it may, as in randomized response and the Gaussian mechanism; the
    final weights of DP-SGD tell less than the accountant, which counts every step as published.
    Raises `UsageError` for no limits.
    """
    _check_count("bounds", bounds.size)
    return float(np.mean(bounds > 0.0))


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise UsageError(f"{name} must be a count of at least 1, got {count}; pass how many there are to be")
