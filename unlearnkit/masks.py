"""Masks: which model of a pool is trained on which example. One pool then serves every deletion, method and attack."""

from __future__ import annotations

import enum

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from unlearnkit.result import UsageError


class State(enum.IntEnum):
    """What an example is to one model of a pool."""

    OUT = 0  # never trained on
    IN = 1  # trained on
    FORGOTTEN = 2  # trained on, then unlearned


class Stage(enum.IntEnum):
    """The two ages of a model whose pool knows it before and after unlearning; places on a pool's stage axis."""

    TRAINED = 0
    UNLEARNED = 1


def random_halves(n: int, models: int, *, seed: int) -> Bool[np.ndarray, "m n"]:
    """[model, example]: every model is trained on half of the examples, every example by half of the models.

    Models come in pairs of complements (Carlini et al. 2022 draw each example's half alone, which leaves the models
    of unequal size). An odd n gives one of a pair the example more.
    """
    _check(n, models, 2, "random halves")
    rng = np.random.default_rng(seed)
    mask = np.zeros((models, n), dtype=bool)
    for first in range(0, models, 2):
        mask[first, rng.permutation(n)[: (n + first // 2 % 2) // 2]] = True
        mask[first + 1] = ~mask[first]
    return mask


def leave_out(n: int, forget: NDArray[np.int64], models: int) -> Bool[np.ndarray, "m n"]:
    """[model, example]: every model is trained on all but the forget rows."""
    mask = np.ones((models, n), dtype=bool)
    mask[:, forget] = False
    return mask


def tri_state(n: int, targets: NDArray[np.int64], models: int, *, seed: int) -> UInt8[np.ndarray, "m n"]:
    """[model, example] of `State`: each target is OUT, IN and FORGOTTEN in a third of the models each (RULI's design).

    Models come in triples. Within one the targets are dealt into three equal parts at random, and the parts change
    places. Of the other examples each model is trained on a random half.
    """
    _check(n, models, 3, "tri-state masks")
    if targets.size and not 0 <= targets.min() <= targets.max() < n:
        raise UsageError(f"tri-state masks: targets must lie in 0..{n - 1}, got {targets.min()} to {targets.max()}")
    if targets.size < 3 or np.unique(targets).size < targets.size:
        raise UsageError(f"tri-state masks: name at least three distinct targets, got {targets.size}")
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(n), targets)
    mask = np.full((models, n), State.OUT, dtype=np.uint8)
    for first in range(0, models, 3):
        part = rng.permutation(np.arange(targets.size) % 3)
        for model in range(3):
            mask[first + model, targets] = (part + model) % 3
            mask[first + model, rng.permutation(others)[: others.size // 2]] = State.IN
    return mask


def _check(n: int, models: int, group: int, what: str) -> None:
    if models < group or models % group:
        raise UsageError(f"{what}: models come in groups of {group}, got {models}")
    if n < group:
        raise UsageError(f"{what}: there must be at least {group} examples, got {n}")


__all__ = ["Stage", "State", "leave_out", "random_halves", "tri_state"]
