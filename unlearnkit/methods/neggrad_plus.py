"""NegGradPlus: in every step, down on a batch of the retain set and a little up on a batch of the forget set.

Idea: the ascent of NegativeGradient with a defense beside it. One step descends on

    alpha · CE(retain batch) − (1 − alpha) · min(CE(forget batch), cap · log C)

and an epoch is one pass over the retain set, with the forget set cycled beside it.

Reference: the baseline NegGrad+ of "Towards Unbounded Machine Unlearning", NeurIPS 2023, arXiv 2302.09880.

Must see: the forget set and the retain set, both with labels.

Differences from the published code: the cross-entropy of each forget example is capped, since it has no upper end;
log C is that of a guess among C classes, and an example beyond the cap is pushed no further, though momentum may carry
it on. Batch normalization runs in eval mode, as in the Deep-Unlearn benchmark's version, so that batches of forget
examples do not enter the running statistics; that version's pull to the original weights is left out. No dropout, and
no random crops and flips unless `augment` asks for them. Published are alpha 0.95 (10 epochs, small models) and 0.9999
(5 epochs, CIFAR-10), each tuned on its task. The default is 0.95 for every request: on the embedded digits 0.9999 does
next to nothing, and a default that depends on the request would hide what was run.

Weaknesses: alpha decides everything, and its useful range depends on the sizes of both sets: the smaller the forget
set, the more often each of its examples is climbed. Confidence on the forget set can end below that of unseen data,
which an attack recognizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, Share, check
from unlearnkit.methods.steps import count_classes, cross_entropy
from unlearnkit.train import Augmentation, forever, make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class NegGradPlus(Method):
    """Descent on the retain set and capped ascent on the forget set, in one step."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN

    epochs: Count = 5  # passes over the retain set
    lr: Positive = 0.01
    alpha: Share = 0.95  # weight of the retain loss; 1 − alpha is that of the ascent
    cap: Positive = 2.0  # the ascent on an example ends at this many times log C
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 0.0
    batch_size: Count = 256  # examples of each set
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget, retain = access.forget, access.retain
        ceiling = self.cap * math.log(count_classes(model, retain))
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def loss(rows: tuple[Tensor, Tensor]) -> Tensor:
            keep = cross_entropy(model, retain, rows[0], self.augment, rng).mean()
            climb = cross_entropy(model, forget, rows[1], self.augment, rng).clamp(max=ceiling).mean()
            return self.alpha * keep - (1 - self.alpha) * climb

        model.eval()
        forget_batches = forever(len(forget), self.batch_size, rng)
        for epoch in range(self.epochs):
            batches = zip(shuffled(len(retain), self.batch_size, rng), forget_batches, strict=False)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
        return model
