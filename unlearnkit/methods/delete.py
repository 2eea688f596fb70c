"""DELETE: teach the model its own answers on the forget set, with the true class taken out.

Idea: what the original knows of a forget image beyond its class, how it shares the rest among the other classes, is
to stay; the probability of the true class is to go. The target is the softmax of the original's logits without the
true class, and one step descends on KL(target ‖ student).

Reference: "Decoupled Distillation to Erase: A General Unlearning Method for Any Class-centric Tasks", CVPR 2025,
arXiv 2503.23751.

Must see: the forget set with labels; never the retain set.

Differences from the paper: made for whole classes, and allowed for any forget set. Differences from the published
code: Batch normalization runs in eval mode, since batches of forget examples alone would replace the running
statistics. The batch size and a weight decay of 0 are ours. Random crops and flips only if `augment` asks for them.

Weaknesses: on a random subset it makes the model wrong where a retrained one would mostly be right. Nothing defends the
retain set but the small learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import divergence, frozen
from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import count_classes, inputs
from unlearnkit.train import Augmentation, augment, make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Method, Need

_NEVER = -1e10  # a logit that no softmax sees; finite, since 0 · ∞ is not 0


@dataclass(frozen=True)
class DELETE(Method):
    """Distillation from the original on the forget set, the true class masked."""

    needs: ClassVar[Need] = Need.FORGET

    epochs: Count = 20  # passes over the forget set
    lr: Positive = 1e-4
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 0.0
    batch_size: Count = 128  # examples
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget = access.forget
        y = forget.labels()
        count_classes(model, forget)  # with one class nothing would be left to answer
        teacher = frozen(model)
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def loss(rows: Tensor) -> Tensor:
            x = augment(inputs(model, forget, rows), self.augment, rng)
            return divergence(without_class(teacher(x), y[rows].to(x.device)), model(x), 1.0).mean()

        model.eval()
        for epoch in range(self.epochs):
            batches = shuffled(len(forget), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
        return model


def without_class(logits: Float[Tensor, "b k"], y: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
    """The logits with that of class `y` so low that its probability is 0 and the others share what it had."""
    return logits.float().masked_fill(functional.one_hot(y, logits.shape[1]).bool(), _NEVER)
