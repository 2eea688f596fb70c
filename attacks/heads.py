"""Heads on frozen features: draws of few labeled images, a ridge head, and how well scores tell two groups apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import nn

from unlearnkit import editing
from unlearnkit.result import UsageError
from unlearnkit.train import deterministic
from unlearnkit.types import Examples, Splits

__all__ = [
    "auc",
    "draw",
    "draw_per_class",
    "features",
    "folds_auc",
    "forgotten_class",
    "matched",
    "ridge_scores",
    "shown_and_held",
]

_CPU = torch.device("cpu")


def features(model: nn.Module, examples: Examples, *, what: str) -> Float[np.ndarray, "n d"]:
    """Penultimate features, float64, before any steering; refuses a model without a head, `what` being who asks."""
    return editing.features(editing.require_seam(model, what=what), examples).double().numpy()


def forgotten_class(splits: Splits) -> int:
    """The class that is to be forgotten, for probes that are `class_wise`: `read` refuses other deletions."""
    assert splits.forget_class is not None
    return splits.forget_class


def draw(n: int, count: int, rng: torch.Generator) -> NDArray[np.int64]:
    """`count` of n rows at random, or all of them in random order where there are no more."""
    return torch.randperm(n, generator=rng)[:count].numpy()


def draw_per_class(y: NDArray[np.int64], count: int, rng: torch.Generator) -> NDArray[np.int64]:
    """Rows of up to `count` examples of every class, class after class."""
    rows = [np.flatnonzero(y == label) for label in np.unique(y)]
    return np.concatenate([of_class[draw(len(of_class), count, rng)] for of_class in rows])


def shown_and_held(
    forget: Examples, shots: int, rng: torch.Generator, *, what: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the forget set that are shown, `shots` at random, and all others. Refuses where nothing is left."""
    if len(forget) <= shots:
        raise UsageError(
            f"{what}: shows {shots} forget examples and asks about others, but there are {len(forget)}; show fewer"
        )
    order = draw(len(forget), len(forget), rng)
    return order[:shots], order[shots:]


def matched(splits: Splits, rng: torch.Generator, *, what: str, least: int) -> tuple[Examples, Examples]:
    """Forget examples and twins, equally many of each class, so that no class tells which is which."""
    if splits.twins is None:
        raise UsageError(f"{what}: needs twins, held-out examples to tell the forget set from; hand over splits.twins")
    parts = (splits.forget, splits.twins)
    labels = [part.labels().numpy() for part in parts]
    rows: list[list[NDArray[np.int64]]] = [[], []]
    for label in np.intersect1d(labels[0], labels[1]):
        both = [np.flatnonzero(y == label) for y in labels]
        count = min(len(one) for one in both)
        for kept, one in zip(rows, both, strict=True):
            kept.append(one[draw(len(one), count, rng)])
    found = sum(len(one) for one in rows[0])
    if found < least:
        raise UsageError(
            f"{what}: needs at least {least} forget examples with a twin of the same class, got {found}; hand over "
            "more held-out examples"
        )
    forget, twins = (part.take(np.concatenate(kept)) for part, kept in zip(parts, rows, strict=True))
    return forget, twins


def ridge_scores(
    known: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n k"],
    points: Float[np.ndarray, "m d"],
    *,
    penalty: float,
) -> Float[np.ndarray, "m k"]:
    """What a linear head, fitted to the targets of the known features by ridge regression, says of the points.

    Features are standardized by the known ones, so that a model that merely shrank them gains nothing; the penalty is
    in units of their variance. Closed form on one thread: the same input gives the same bytes.
    """
    mean, std = known.mean(0), known.std(0)
    std = np.where(std > 1e-9 * (np.abs(mean) + 1e-30), std, 1.0)  # constant features (dead units) stay zero
    x, z = (torch.from_numpy((part - mean) / std) for part in (known, points))
    t = torch.from_numpy(targets)
    n, d = x.shape
    with deterministic(_CPU):
        y = t - t.mean(0)
        # The same weights both ways (Woodbury); the smaller system is solved.
        if d <= n:
            weights = torch.linalg.solve(x.T @ x + n * penalty * torch.eye(d, dtype=x.dtype), x.T @ y)
        else:
            weights = x.T @ torch.linalg.solve(x @ x.T + n * penalty * torch.eye(n, dtype=x.dtype), y)
        return np.asarray((z @ weights + t.mean(0)).numpy())


def auc(higher: Float[np.ndarray, " n"], lower: Float[np.ndarray, " m"]) -> float:
    """Chance that one of `higher` lies above one of `lower`; ties count half (Mann-Whitney U / nm)."""
    ordered = np.sort(lower)  # scipy.stats would do, and bring 50 MB into every worker process
    twice = sum(int(np.searchsorted(ordered, higher, side=side).sum()) for side in ("left", "right"))
    return twice / 2 / (len(higher) * len(lower))


def folds_auc(
    first: Float[np.ndarray, "n d"],
    second: Float[np.ndarray, "m d"],
    *,
    folds: int,
    penalty: float,
    rng: torch.Generator,
) -> Float[np.ndarray, " folds"]:
    """Cross-validated AUC of a ridge head that tells two groups of features apart, fold by fold; 0.5 = not at all.

    Averaged over folds, not pooled: pooled scores of models that know nothing fall below 0.5.
    """
    groups = (first, second)
    fold_of: Sequence[NDArray[np.int64]] = [draw(len(part), len(part), rng) % folds for part in groups]
    found = []
    for fold in range(folds):
        known = [part[place != fold] for part, place in zip(groups, fold_of, strict=True)]
        asked = [part[place == fold] for part, place in zip(groups, fold_of, strict=True)]
        targets = np.repeat([1.0, -1.0], [len(part) for part in known])[:, None]
        scores = ridge_scores(np.concatenate(known), targets, np.concatenate(asked), penalty=penalty)[:, 0]
        found.append(auc(scores[: len(asked[0])], scores[len(asked[0]) :]))
    return np.array(found)
