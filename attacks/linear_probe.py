"""Linear probes: the body is frozen, and a new linear head shows what its features still tell.

LinearProbe asks for a forgotten class: a head on a few labeled images of every class, and how many other forget
examples it calls by their name. TwinProbe asks for single examples: can a head tell them from held-out twins? For a
random forget set the class of an example can be read off every model, so only the second question tells anything.

References: audits.md 6 (IDI, arXiv 2405.17878; arXiv 2604.08271). Differences: the head is a ridge regression on
standardized features, in closed form, instead of steps of an optimizer; the mean over several draws of the images.
Steering before the head is bypassed, as an attacker with the weights would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from unlearnkit.attacks.heads import draw_per_class, features, folds_auc, matched, ridge_scores, shown_and_held
from unlearnkit.methods.hyperparameters import Count, Positive, check
from unlearnkit.types import Probe, Reading, Splits

Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Folds = Annotated[int, Field(ge=2)]


@dataclass(frozen=True)
class LinearProbe(Probe):
    """Accuracy on the forgotten class of a head that was fitted to few images of every class."""

    unit: ClassVar[str] = "images per class"
    class_wise: ClassVar[bool] = True

    shots: Counts = (1, 3, 10)  # images per class; the reading is the mean over these
    draws: Count = 10  # of the images, each number of shots
    penalty: Positive = 0.1  # of the ridge regression, variances

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        y = splits.retain.labels().numpy()
        pool = splits.retain.take(draw_per_class(y, max(self.shots) * self.draws, rng))
        others, forgotten = (features(model, part, what=self.name) for part in (pool, splits.forget))
        y = pool.labels().numpy()
        classes = np.unique(y)
        curve = []
        for shots in self.shots:
            right = []
            for _ in range(self.draws):
                kept = draw_per_class(y, shots, rng)
                shown, held = shown_and_held(splits.forget, shots, rng, what=self.name)
                known = np.concatenate([forgotten[shown], others[kept]])
                # column 0 is the forgotten class
                own = (y[kept, None] == classes).astype(float)
                targets = np.pad(own, ((shots, 0), (1, 0)))
                targets[:shots, 0] = 1.0
                scores = ridge_scores(known, targets, forgotten[held], penalty=self.penalty)
                right.append((scores.argmax(1) == 0).mean())
            curve.append(np.mean(right))
        return Reading(float(np.mean(curve)), np.array(self.shots, dtype=float), np.array(curve))


@dataclass(frozen=True)
class TwinProbe(Probe):
    """Cross-validated AUC of a head that tells the features of forget examples from those of held-out twins."""

    unit: ClassVar[str] = "fold"

    folds: Folds = 5
    penalty: Positive = 0.1  # of the ridge regression, variances

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        forget, twins = matched(splits, rng, what=self.name, least=self.folds)
        first, second = (features(model, part, what=self.name) for part in (forget, twins))
        curve = folds_auc(first, second, folds=self.folds, penalty=self.penalty, rng=rng)
        return Reading(float(curve.mean()), np.arange(1.0, self.folds + 1), curve)
