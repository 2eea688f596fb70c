"""BoundaryShrink: teach the forget set the class behind its nearest decision boundary.

Idea: a step of size `epsilon` against the original model carries a forget image over a boundary; the class found there
is the wrong answer that the model itself holds to be nearest. Training the image, unmoved, on that class shrinks the
region of its own.

Reference: "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary", CVPR 2023,
arXiv 2303.11570.

Must see: the forget set with labels; never the retain set.

Differences from the paper: made for whole classes, and allowed for any forget set. Where the step does not leave the
class, the label is the runner-up at the place it reached. The sign of the gradient is taken of the margin instead of
the cross-entropy: the two have one sign, but the second vanishes where the model is sure. Images stay within [0, 1];
float inputs are not bounded, and `epsilon` is in their unit.
Differences from the published code: the labels are found once, before the first step, since the original stays as it
is. Batch normalization runs in eval mode, since batches of forget examples alone would replace the running statistics.
The batch size and a weight decay of 0 are ours. Random crops and flips only if `augment` asks for them.

Weaknesses: without a retain set next to nothing is forgotten at the default learning rate, and accuracy goes first at
a large one. A retrained model spreads a forgotten class otherwise than over its nearest neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import away_from, check_pixels, frozen, pixels, within_box
from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import count_classes, inputs
from unlearnkit.train import Augmentation, augment, make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Examples, Method, Need


@dataclass(frozen=True)
class BoundaryShrink(Method):
    """Cross-entropy against the nearest wrong class on the forget set."""

    needs: ClassVar[Need] = Need.FORGET

    epochs: Count = 10  # passes over the forget set
    lr: Positive = 1e-5  # search 1e-6 to 1e-4
    epsilon: NotNegative = 0.1  # length of the step in every pixel, of a range of 1
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 0.0
    batch_size: Count = 64  # examples
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget = access.forget
        near_y = nearest_wrong(model, forget, self.epsilon, self.batch_size)
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def loss(rows: Tensor) -> Tensor:
            x = augment(inputs(model, forget, rows), self.augment, rng)
            return functional.cross_entropy(model(x), near_y[rows].to(x.device))

        model.eval()
        for epoch in range(self.epochs):
            batches = shuffled(len(forget), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
        return model


def nearest_wrong(model: nn.Module, forget: Examples, epsilon: float, batch_size: int) -> Int[Tensor, " n"]:
    """The model's answer after one step of `epsilon` in the sign of the gradient, never the true class (FGSM)."""
    y = forget.labels()
    count_classes(model, forget)
    check_pixels(model, forget, "BoundaryShrink")
    original = frozen(model)
    found = []
    for rows in torch.split(torch.arange(len(forget)), batch_size):
        stored = inputs(model, forget, rows)
        x, own = pixels(stored), y[rows].to(stored.device)
        moved = within_box(x + epsilon * away_from(original, x, own).sign(), stored)
        with torch.no_grad():
            logits = original(moved)
        true = functional.one_hot(own, logits.shape[1]).bool()
        found.append(logits.masked_fill(true, -torch.inf).argmax(dim=1).cpu())
    return torch.cat(found)
