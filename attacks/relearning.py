"""Relearning probes: how fast does the model get the forget set right again?

RetainRelearning fine-tunes on the retain set only; what comes back was never gone ("From Dormant to Deleted",
arXiv 2505.22310). FewShotRelearning adds a few forget examples and asks about the others. The reading is the area under
the curve of forget accuracy (audits.md A8); a large learning rate hides the difference from retrained models, which
learn the examples, too.

Differences from the paper: SGD steps instead of epochs; shown forget examples come with as many retain examples as
make them a share of 1 / (1 + retain_per_shot), since a handful in the whole retain set would hardly ever be drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unlearnkit.attacks.heads import draw, shown_and_held
from unlearnkit.methods.hyperparameters import Count, CountOrZero, Momentum, Positive, check
from unlearnkit.relearning import relearn
from unlearnkit.types import Examples, Probe, Reading, Splits, join


@dataclass(frozen=True)
class RetainRelearning(Probe):
    """Mean forget accuracy while the model is fine-tuned on the retain set, which holds no forget example."""

    unit: ClassVar[str] = "steps"

    steps: Count = 100
    lr: Positive = 1e-3  # constant; small, so that what returns was there
    momentum: Momentum = 0.9
    batch_size: Count = 64  # examples
    every: Count = 10  # steps between two looks

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        return _area(self, model, splits.retain, splits.forget, rng)


@dataclass(frozen=True)
class FewShotRelearning(Probe):
    """Mean accuracy on forget examples that are not shown, while others of them are, among retain examples."""

    unit: ClassVar[str] = "steps"

    shots: Count = 10  # forget examples that are shown
    retain_per_shot: CountOrZero = 9  # retain examples shown for each of them
    steps: Count = 50
    lr: Positive = 1e-2  # constant
    momentum: Momentum = 0.9
    batch_size: Count = 64  # examples
    every: Count = 5  # steps between two looks

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        shown, held = shown_and_held(splits.forget, self.shots, rng, what=self.name)
        kept = draw(len(splits.retain), self.shots * self.retain_per_shot, rng)
        lesson = join(splits.forget.take(shown), splits.retain.take(kept))
        return _area(self, model, lesson, splits.forget.take(held), rng)


def _area(
    probe: RetainRelearning | FewShotRelearning,
    model: nn.Module,
    lesson: Examples,
    asked: Examples,
    rng: torch.Generator,
) -> Reading:
    curves = relearn(
        model,
        lesson,
        steps=probe.steps,
        lr=probe.lr,
        momentum=probe.momentum,
        batch_size=probe.batch_size,
        seed=int(torch.randint(2**31, (), generator=rng)),
        watch=[asked],
        every=probe.every,
    )
    return Reading(float(curves.areas()[0]), curves.steps.astype(float), curves.accuracy[0])
