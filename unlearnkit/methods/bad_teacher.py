"""BadTeacher: learn the forget set from a model that knows nothing, and the retain set from the original.

Idea: the student starts as the original. On forget examples it is pulled to an incompetent teacher, a freshly
initialized model; on a part of the retain set to a competent one, the original itself. Both parts are shuffled
together, and one step descends on the mean of T²·KL(teacher ‖ student).

Reference: "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an Incompetent Teacher", AAAI 2023,
arXiv 2205.08096.

Must see: the inputs of the forget set and of the retain set; never a label.

Differences from the paper: none in the loss. The incompetent teacher is a copy of the model whose layers draw their
weights anew from the method's generator, so no recipe is needed; running statistics start anew with it.
Differences from the published code: that averages the divergence over the classes too, which divides the loss by their
number; Adam hardly notices. Batch normalization runs in eval mode: that code's notebook never puts the student into
train mode. Random crops and flips only if `augment` asks for them.

Weaknesses: the answers of a fresh model are nearly uniform, and no model that was retrained answers like that. On a
random subset this is seen at once: the deletion gives its examples away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearnkit.methods.distill import divergence, frozen, reinitialized
from unlearnkit.methods.hyperparameters import Count, NotNegative, Positive, Share, check
from unlearnkit.methods.steps import inputs, two_parts
from unlearnkit.train import Augmentation, augment, make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class BadTeacher(Method):
    """Distillation from a fresh model on the forget set, and from the original on a part of the retain set."""

    needs: ClassVar[Need] = Need.FORGET_INPUTS | Need.RETAIN_INPUTS

    epochs: Count = 1  # passes over the forget set and the drawn part of the retain set together
    lr: Positive = 1e-4  # Adam
    retain_share: Share = 0.3  # share of the retain set that is drawn, once
    temperature: Positive = 1.0
    weight_decay: NotNegative = 0.0
    batch_size: Count = 256  # examples
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget, retain = access.forget, access.retain
        competent, incompetent = frozen(model), reinitialized(model, rng)
        drawn = torch.randperm(len(retain), generator=rng)[: math.ceil(self.retain_share * len(retain))]
        optimizer = make_optimizer(model, "adamw", lr=self.lr, weight_decay=self.weight_decay)

        def loss(rows: Tensor) -> Tensor:
            old, kept = two_parts(rows, len(forget))
            x = augment(torch.cat([inputs(model, forget, old), inputs(model, retain, drawn[kept])]), self.augment, rng)
            parts = ((incompetent, x[: len(old)]), (competent, x[len(old) :]))
            teacher = torch.cat([ask(part) for ask, part in parts if len(part)])  # not every net takes a batch of none
            return divergence(teacher, model(x), self.temperature).mean()

        model.eval()
        for epoch in range(self.epochs):
            batches = shuffled(len(forget) + len(drawn), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
        return model
