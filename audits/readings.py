"""read_all(): a set of probes, read off many models with one seed; what `resurrection` ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import nn

from unlearnkit.result import UsageError
from unlearnkit.types import Probe, Reading, Splits

__all__ = ["Readings", "read_all"]


@dataclass(frozen=True, eq=False)
class Readings:
    """What every probe read off every model, in the order in which they were given.

    values: [model, probe], higher = more is left of the forget set. at, curves: per probe the points [k] of its curve,
    in `units`, and the curves [model, k].
    """

    probes: tuple[str, ...]
    units: tuple[str, ...]
    values: Float[np.ndarray, "m p"]
    at: tuple[Float[np.ndarray, " _"], ...]
    curves: tuple[Float[np.ndarray, "m _"], ...]


def read_all(probes: Sequence[Probe], models: Sequence[nn.Module], splits: Splits, *, seed: int) -> Readings:
    """Read each probe off each model, always with the same seed: draws and batches are those of every other model.

    The models stay as they are. Raises UsageError where there is no probe or no model, where two probes have one name,
    where a probe does not fit the deletion, and where its curve runs over other points from model to model.
    """
    names = tuple(probe.name for probe in probes)
    if not names or not models:
        raise UsageError(f"read_all: needs a probe and a model, got {len(names)} probes and {len(models)} models")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"read_all: every probe is read once, got {twice[0]!r} more than once")
    found: list[list[Reading]] = [[probe.read(model, splits, seed=seed) for model in models] for probe in probes]
    for name, readings in zip(names, found, strict=True):
        if not all(np.array_equal(one.at, readings[0].at) for one in readings):
            raise UsageError(f"{name}: its curve must run over the same points for every model")
    return Readings(
        names,
        tuple(probe.unit for probe in probes),
        np.array([[one.value for one in readings] for readings in found]).T,
        tuple(readings[0].at for readings in found),
        tuple(np.stack([one.curve for one in readings]) for readings in found),
    )
