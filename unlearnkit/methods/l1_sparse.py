"""L1Sparse: fine-tune on the retain set with a penalty that presses weights toward zero.

Idea: a sparser model has fewer weights left to remember with, and what the retain set does not rehearse is pressed out
first. In epoch t of E the loss is

    CE(retain) + alpha · (1 − t/E) · ‖θ‖₁,   t = 0 … E − 1

so that the last epochs repair what the first ones took.

Reference: l1-sparse of "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv 2304.04934.

Must see: the retain set with labels; never the forget set.

Differences from the published code: the default alpha of its argument parser, 0.2, ruins the model; later studies of
the method used 1e-6 to 5e-4, and the default here lies in that range. As published, the norm is taken over all
weights, biases and normalization layers included. Batch normalization runs in train mode: running statistics move to
the retain set. Random crops and flips only if `augment` asks for them.

Weaknesses: those of FineTune, plus two to four points of accuracy on the retain set. The penalty sees the size of a
weight, not what the weight is for.
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
class L1Sparse(Method):
    """FineTune with an L1 penalty that decays linearly; `alpha=0` is FineTune."""

    needs: ClassVar[Need] = Need.RETAIN

    epochs: Count = 10  # passes over the retain set
    lr: Positive = 0.01
    alpha: NotNegative = 5e-5  # weight of the penalty in the first epoch; search 1e-6 to 5e-4
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
        gamma = self.alpha

        def loss(rows: Tensor) -> Tensor:
            penalty = torch.stack([p.abs().sum() for p in model.parameters()]).sum()
            return cross_entropy(model, retain, rows, self.augment, rng).mean() + gamma * penalty

        train_mode(model, len(retain), self.batch_size)
        for epoch in range(self.epochs):
            gamma = self.alpha * (1 - epoch / self.epochs)
            batches = shuffled(len(retain), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
        return model
