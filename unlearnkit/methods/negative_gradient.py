"""NegativeGradient: climb the loss on the forget set, and touch nothing else.

Idea: training went down on these examples, so go a few small steps up.

Reference: the baseline GA (gradient ascent) of "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
arXiv 2304.04934.

Must see: the forget set with labels; never the retain set.

Differences from the published code: the gradient's norm is clipped to `clip`, because the loss has no upper end and
the ascent feeds itself. Batch normalization runs in eval mode: batches of forget examples alone, of one class in the
worst case, would replace the running statistics and ruin every prediction before a weight has moved. No dropout, and
no random crops and flips unless `augment` asks for them.

Weaknesses: nothing defends the other predictions. Between too small a learning rate, which changes nothing, and one
that destroys the model, the useful range is narrow. Forget examples end with a confidence lower than that of unseen
data, which an attack recognizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import cross_entropy
from unlearnkit.train import Augmentation, make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class NegativeGradient(Method):
    """Gradient ascent on the cross-entropy of the forget set."""

    needs: ClassVar[Need] = Need.FORGET

    epochs: Count = 5  # passes over the forget set
    lr: Positive = 1e-4  # search 1e-5 to 1e-3
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 256  # examples
    clip: Positive = 1.0  # largest norm of the gradient over all weights
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget = access.forget
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def loss(rows: Tensor) -> Tensor:
            return -cross_entropy(model, forget, rows, self.augment, rng).mean()

        model.eval()
        for epoch in range(self.epochs):
            batches = shuffled(len(forget), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}", clip=self.clip)
        return model
