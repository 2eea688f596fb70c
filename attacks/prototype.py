"""Prototype: a head of class means, made of k images per class, mixed with the model's own head.

Each class's prototype is the mean penultimate feature of k images at length 1; the new weights of every class are
share · prototype + (1 − share) · old, biases likewise with 0 for the prototype (audits.md 6: arXiv 2506.01318, k = 5,
share 0.5). The reading is the accuracy on forget examples that are not shown.

Differences from the published code: every class gets its prototype, not the forgotten one alone, whose row would win or
lose by its length rather than its direction; prototypes are scaled to the mean length of the old rows; and a share of
1 is tried too, since half of an old head that was made to say no still says it. The reading is the mean over the
shares and over several draws of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from unlearnkit.attacks.heads import draw_per_class, features, forgotten_class, shown_and_held
from unlearnkit.editing import require_seam
from unlearnkit.methods.hyperparameters import Count, PositiveShare, check
from unlearnkit.result import UsageError
from unlearnkit.types import Probe, Reading, Splits

Shares = Annotated[tuple[PositiveShare, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Prototype(Probe):
    """Accuracy on the forgotten class of a head mixed with class means."""

    unit: ClassVar[str] = "share of the class means in the head"
    class_wise: ClassVar[bool] = True

    k: Count = 5  # images per class
    shares: Shares = (0.5, 1.0)  # of the prototypes in the new head
    draws: Count = 10  # of the images

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        head = require_seam(model, what=self.name).head
        if not isinstance(head, nn.Linear):
            raise UsageError(f"{self.name}: needs a linear head to mix class means into, got {type(head).__name__}")
        label = forgotten_class(splits)
        old = head.weight.detach().double().cpu().numpy()
        bias = np.zeros(len(old)) if head.bias is None else head.bias.detach().double().cpu().numpy()
        length = np.linalg.norm(old, axis=1).mean()
        pool = splits.retain.take(draw_per_class(splits.retain.labels().numpy(), self.k * self.draws, rng))
        others, forgotten = (features(model, part, what=self.name) for part in (pool, splits.forget))
        y = pool.labels().numpy()
        right = np.zeros((self.draws, len(self.shares)))
        for i in range(self.draws):
            kept = draw_per_class(y, self.k, rng)
            shown, held = shown_and_held(splits.forget, self.k, rng, what=self.name)
            means = np.zeros_like(old)  # a class nobody has an image of keeps its old row, shortened
            for c in np.unique(y):
                means[c] = others[kept[y[kept] == c]].mean(0)
            means[label] = forgotten[shown].mean(0)
            norms = np.linalg.norm(means, axis=1, keepdims=True)
            prototypes = length * means / np.where(norms > 0, norms, 1.0)
            for j, share in enumerate(self.shares):
                weights = share * prototypes + (1 - share) * old
                scores = forgotten[held] @ weights.T + (1 - share) * bias
                right[i, j] = (scores.argmax(1) == label).mean()
        curve = right.mean(0)
        return Reading(float(curve.mean()), np.array(self.shares), curve)
