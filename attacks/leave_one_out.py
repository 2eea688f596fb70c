"""leave_one_out(): every model of a pool plays the target once, scored with the others as its references.

One pool of N models gives N audits of one attack. The attacks that are built on normal laws (`gaussian.py`) subtract
the one that leaves from sums over all, instead of fitting N times; every other attack is run N times.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped

from unlearnkit.attacks.gaussian import Gaussian
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Known, Observation, References, Scores


def leave_one_out(
    attack: Attack,
    references: References,
    *,
    targets: Float[np.ndarray, "m n v"] | None = None,
    population: References | None = None,
    originals: Float[np.ndarray, "m n v"] | None = None,
    together: Int[np.ndarray, " m"] | None = None,
    ids: Shaped[np.ndarray, " n"] | None = None,
) -> tuple[Scores, ...]:
    """One `Scores` per model; what the points were to it stands in `references.state`.

    references: the pool, e.g. `References.from_pool`, where one row is all stages of one seed, so that a model before
    and after unlearning leaves as one. targets: what each model says when it plays the target (default: what it says
    as a reference). population: the same models on points that none was trained on. originals: each model before its
    deletion. together: a group for every model; with a target its whole group leaves. Name the pairs of
    `masks.random_halves` and the triples of `masks.tri_state`: when a target leaves such a design alone, its own state
    lacks one reference that the others have, and those that were dealt the rest of its data tell of it too. With few
    models that alone moves an AUC far from one half.
    ids: names of the points, for the flags.
    Raises UsageError where no reference is left, and what `Attack.score` raises.
    """
    models, points, _ = references.margins.shape
    targets = references.margins if targets is None else targets
    together = np.arange(models) if together is None else together
    ids = np.array([f"point/{point}" for point in range(points)]) if ids is None else ids
    for name, other in (("targets", targets), ("originals", originals)):
        if other is not None and other.shape != references.margins.shape:
            raise UsageError(
                f"leave one out: {name} must be margins [model, point, view] like the pool, "
                f"{list(references.margins.shape)}, got {list(other.shape)}"
            )
    if len(together) != models or (population is not None and len(population) != models):
        got = len(together) if len(together) != models else len(population or ())
        raise UsageError(f"leave one out: groups and population must be of the pool's {models} models, got {got}")
    if np.unique(together).size < 2:
        raise UsageError(f"leave one out: when one group of {models} models leaves, no reference is left")
    if isinstance(attack, Gaussian) and attack.variance != "legacy" and np.isfinite(targets).all():
        return attack.leave_one_out(references, targets, together, ids)
    y = np.zeros(points, dtype=np.int64)  # margins are relative to the label; no attack on them asks for it
    scores = []
    for model in range(models):
        stay = together != together[model]
        known = Known(References(references.margins[stay], references.state[stay]))
        if population is not None:
            at = np.array([f"population/{point}" for point in range(population.margins.shape[1])])
            seen = Observation(at, np.zeros(len(at), dtype=np.int64), population.margins[model])
            rest = References(population.margins[stay], population.state[stay])
            known = dataclasses.replace(known, population=seen, population_references=rest)
        if originals is not None:
            known = dataclasses.replace(known, original=Observation(ids, y, originals[model]))
        scores.append(attack.score(Observation(ids, y, targets[model]), known))
    return tuple(scores)
