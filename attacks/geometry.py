"""Geometry: is the forgotten class still a class inside the model?

Retrained models never learned that these inputs belong together: they scatter them over other classes. A model that
hides a class keeps its inputs in one tight place of their own, far from all other classes.

- MahalanobisNovelty, MaxLogitNovelty: do inputs of the forgotten class look like none of the others (Lee et al. 2018,
  arXiv 1807.03888; Hendrycks et al. 2022, arXiv 1911.11132)? AUC against held-out inputs of retained classes.
- ClassCollapse: how tight the class lies around its mean, beside the others (NC1 of Papyan et al. 2020, for one class).
- ClassSeparability: AUC of a linear head that tells the class from all others.
- NeighborClasses: do the outputs on the retained classes tell forget examples from held-out ones of the same class
  (arXiv 2506.20893)?

Retrained models find unknown inputs novel, too: only the rank among oracles tells. Features are those before any
steering; outputs are those of the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import nn

from unlearnkit.attacks.heads import auc, draw_per_class, features, folds_auc, forgotten_class, matched
from unlearnkit.attacks.linear_probe import Folds
from unlearnkit.methods.hyperparameters import Count, Positive, PositiveShare, check
from unlearnkit.methods.steps import device_of_model
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.types import Examples, Probe, Reading, Splits

_FALSE_ALARMS = np.array([0.01, 0.05, 0.1, 0.2, 0.5])
_NOVELTY = "retained inputs called novel"


@dataclass(frozen=True)
class MahalanobisNovelty(Probe):
    """AUC of the distance to the nearest retained class: inputs of the forgotten class against held-out others."""

    unit: ClassVar[str] = _NOVELTY
    class_wise: ClassVar[bool] = True

    per_class: Count = 100  # retain examples of each class that fix the means and the covariance
    shrinkage: PositiveShare = 0.1  # of the covariance towards a multiple of the identity

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        known = _some(splits.retain, self.per_class, rng)
        held = _others(splits, self.name)
        inside, forgotten, familiar = (features(model, part, what=self.name) for part in (known, splits.forget, held))
        y = known.labels().numpy()
        novelty = [mahalanobis(inside, y, points, shrinkage=self.shrinkage) for points in (forgotten, familiar)]
        return _novel(*novelty)


@dataclass(frozen=True)
class MaxLogitNovelty(Probe):
    """AUC of minus the largest logit of a retained class: inputs of the forgotten class against held-out others."""

    unit: ClassVar[str] = _NOVELTY
    class_wise: ClassVar[bool] = True

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        del rng
        parts = (splits.forget, _others(splits, self.name))
        return _novel(*(-_retained_logits(model, part, splits).max(1) for part in parts))


@dataclass(frozen=True)
class ClassCollapse(Probe):
    """Share of the class's spread that lies between it and the others, less the median of that of the others.

    Of class c: b / (b + w), b the squared distance of its mean from the mean of the others' means, w the mean squared
    distance of its features from their mean. 1 = collapsed to a point.
    """

    unit: ClassVar[str] = "class"
    class_wise: ClassVar[bool] = True

    per_class: Count = 100  # retain examples of each class

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        known = _some(splits.retain, self.per_class, rng)
        label = forgotten_class(splits)
        inside, forgotten = (features(model, part, what=self.name) for part in (known, splits.forget))
        y = np.concatenate([known.labels().numpy(), np.full(len(forgotten), label)])
        classes, shares = collapse(np.concatenate([inside, forgotten]), y)
        own = classes == label
        return Reading(float(shares[own][0] - np.median(shares[~own])), classes.astype(float), shares)


@dataclass(frozen=True)
class ClassSeparability(Probe):
    """Cross-validated AUC of a linear head that tells features of the forgotten class from those of all others."""

    unit: ClassVar[str] = "fold"
    class_wise: ClassVar[bool] = True

    per_class: Count = 100  # retain examples of each class
    folds: Folds = 5
    penalty: Positive = 0.1  # of the ridge regression, variances

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        parts = (splits.forget, _some(splits.retain, self.per_class, rng))
        if min(len(part) for part in parts) < self.folds:
            raise UsageError(
                f"{self.name}: needs at least {self.folds} examples of the class and of others, got "
                f"{' and '.join(str(len(part)) for part in parts)}"
            )
        own, others = (features(model, part, what=self.name) for part in parts)
        curve = folds_auc(own, others, folds=self.folds, penalty=self.penalty, rng=rng)
        return Reading(float(curve.mean()), np.arange(1.0, self.folds + 1), curve)


@dataclass(frozen=True)
class NeighborClasses(Probe):
    """Cross-validated AUC of a linear head on log-probabilities of retained classes: forget examples against twins."""

    unit: ClassVar[str] = "fold"
    class_wise: ClassVar[bool] = True

    folds: Folds = 5
    penalty: Positive = 0.1  # of the ridge regression, variances

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        parts = matched(splits, rng, what=self.name, least=self.folds)
        own, held = (log_softmax(_retained_logits(model, part, splits), axis=1) for part in parts)
        curve = folds_auc(own, held, folds=self.folds, penalty=self.penalty, rng=rng)
        return Reading(float(curve.mean()), np.arange(1.0, self.folds + 1), curve)


def mahalanobis(
    known: Float[np.ndarray, "n d"], y: NDArray[np.int64], points: Float[np.ndarray, "m d"], *, shrinkage: float
) -> Float[np.ndarray, " m"]:
    """Squared Mahalanobis distance of each point to the nearest class mean, under the classes' common covariance.

    The covariance is (1 − shrinkage) · Σ + shrinkage · tr Σ / d · 1: dead units and few examples leave it regular.
    """
    classes = np.unique(y)
    means = np.stack([known[y == label].mean(0) for label in classes])
    within = known - means[np.searchsorted(classes, y)]
    covariance = within.T @ within / len(known)
    d = len(covariance)
    scale = np.trace(covariance) / d
    if scale <= 0:  # every class a single point: any distance will do
        covariance, scale = np.eye(d), 1.0
    root = np.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * scale * np.eye(d))
    white, centers = (np.linalg.solve(root, part.T).T for part in (points, means))
    return np.asarray(np.stack([((white - center) ** 2).sum(1) for center in centers]).min(0))


def collapse(points: Float[np.ndarray, "n d"], y: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The classes, and of each the share b / (b + w) of `ClassCollapse`; 0 where nothing differs at all."""
    classes = np.unique(y)
    means = np.stack([points[y == label].mean(0) for label in classes])
    rest = (means.sum(0) - means) / max(1, len(classes) - 1)  # mean of the others' means
    between = ((means - rest) ** 2).sum(1)
    within = np.array(
        [((points[y == label] - mean) ** 2).sum(1).mean() for label, mean in zip(classes, means, strict=True)]
    )
    total = between + within
    return classes, between / np.where(total > 0, total, 1.0)


def _novel(forgotten: Float[np.ndarray, " n"], familiar: Float[np.ndarray, " m"]) -> Reading:
    """AUC, and the share of forgotten inputs that is called novel when so many of the familiar ones are."""
    cuts = np.quantile(familiar, 1 - _FALSE_ALARMS)
    return Reading(auc(forgotten, familiar), _FALSE_ALARMS, (forgotten[:, None] > cuts).mean(0))


def _retained_logits(model: nn.Module, examples: Examples, splits: Splits) -> Float[np.ndarray, "n k"]:
    """Logits of all classes but the forgotten one, float64."""
    logits = observe(model, examples, device=str(device_of_model(model))).outputs()[:, 0].astype(np.float64)
    return np.delete(logits, forgotten_class(splits), axis=1)


def _some(examples: Examples, per_class: int, rng: torch.Generator) -> Examples:
    return examples.take(draw_per_class(examples.labels().numpy(), per_class, rng))


def _others(splits: Splits, what: str) -> Examples:
    """Held-out inputs of retained classes."""
    kept = splits.test.labels().numpy() != splits.forget_class
    if not kept.any():
        raise UsageError(
            f"{what}: needs held-out examples of retained classes, but all of splits.test are of the class"
        )
    return splits.test.take(kept)
