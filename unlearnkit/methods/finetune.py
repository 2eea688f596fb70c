"""FineTune: go on training on the retain set alone, and let the forget set fade.

Idea: what is no longer rehearsed is overwritten (catastrophic forgetting), the faster the larger the learning rate.

Reference: the baseline FT of "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv 2304.04934.

Must see: the retain set with labels; never the forget set.

Differences from the published code: random crops and flips only if `augment` asks for them. Batch normalization runs
in train mode, as published: running statistics move to the retain set, which is part of the effect.

Weaknesses: nothing pushes the forget set out, so at a small learning rate hardly anything is forgotten, and at a
large one accuracy on test data goes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import cross_entropy
from unlearnkit.train import Augmentation, make_optimizer, shuffled, take_steps, train_mode
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class FineTune(Method):
    """Cross-entropy on the retain set, SGD with a constant learning rate."""

    needs: ClassVar[Need] = Need.RETAIN

    epochs: Count = 10  # passes over the retain set
    lr: Positive = 0.01  # search 1e-3 to 1e-1
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 256  # examples
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        retain = access.retain
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def loss(rows: Tensor) -> Tensor:
            return cross_entropy(model, retain, rows, self.augment, rng).mean()

        train_mode(model, len(retain), self.batch_size)
        for epoch in range(self.epochs):
            batches = shuffled(len(retain), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
        return model
