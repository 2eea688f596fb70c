"""A Gaussian world in which everything an attack may hold is known: the margin of a point is its difficulty, plus a
shift where the model was trained on it, plus noise of the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from unlearnkit.masks import State
from unlearnkit.types import Known, Observation, References


@dataclass(frozen=True, eq=False)
class World:
    """member: which of the target's points are trained on, or leave a trace, [point]."""

    target: Observation
    known: Known
    member: NDArray[np.bool_]


def observed(
    phi: NDArray[np.float64],
    rng: np.random.Generator,
    name: str = "point",
    classes: int = 3,
    difficulty: NDArray[np.float64] | None = None,
) -> Observation:
    """Margins [point, view] with logits that have them, and features of which the first is the difficulty, or else the
    margin: what a model makes of an image tells how hard it is, and not whether it was trained on."""
    y = rng.integers(0, classes, len(phi))
    logits = rng.normal(0, 0.3, (*phi.shape, classes))
    others = np.where(np.arange(classes) == y[:, None, None], -np.inf, logits)
    np.put_along_axis(logits, y[:, None, None], (phi + logsumexp(others, axis=-1))[..., None], axis=-1)
    features = rng.normal(0, 0.3, (len(phi), 4)).astype(np.float32)
    features[:, 0] += phi.mean(axis=1) if difficulty is None else difficulty
    ids = np.array([f"{name}/{i}" for i in range(len(phi))])
    return Observation(ids, y, phi, logits.astype(np.float32), features)


def world(
    seed: int,
    *,
    leak: float,
    trained: float | None = None,
    before: float | None = None,
    points: int = 40,
    models: int = 6,
    population: int = 40,
    views: int = 2,
    spread: float = 1.0,
    noise: float = 0.3,
    center: float = -2.0,
) -> World:
    """Half of the target's points are members, at random, and lie higher by `leak`; in the original by `before`
    (default: by `leak`).

    Each point is OUT, IN and FORGOTTEN in a third of the references; IN and FORGOTTEN lie higher by `trained` (default:
    by `leak`). Further members and a population that none was trained on come with it.
    """
    rng = np.random.default_rng(seed)
    shift = leak if trained is None else trained

    def answers(mu: NDArray[np.float64], moved: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
        return np.repeat((mu + moved)[:, None], views, axis=1) + rng.normal(0, noise, (len(mu), views))

    mu, beside, kept = (rng.normal(center, spread, size) for size in (points, population, population))
    member = rng.permutation(points) < points // 2
    state = ((rng.permuted(np.arange(models * points).reshape(points, models) % models, axis=1)) % 3).T.astype(np.uint8)
    references = References(np.stack([answers(mu, shift * (row != State.OUT)) for row in state]), state)
    return World(
        observed(answers(mu, leak * member), rng, difficulty=mu),
        Known(
            references=references,
            population=observed(answers(beside), rng, "population", difficulty=beside),
            population_references=References.unseen(
                [observed(answers(beside), rng, "population") for _ in range(models)]
            ),
            members=observed(answers(kept, shift), rng, "member", difficulty=kept),
            original=observed(answers(mu, (leak if before is None else before) * member), rng, difficulty=mu),
        ),
        member,
    )
