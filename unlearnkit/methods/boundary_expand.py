"""BoundaryExpand: move the forget set into an extra class of its own, then remove that class.

Idea: the head gets one more row, the forget set is trained on this new class, and the row is deleted at the end. What
the forget images then have left among the old classes is what they share with all of them.

Reference: "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary", CVPR 2023,
arXiv 2303.11570.

Must see: the inputs of the forget set; no labels, and never the retain set.

Differences from the paper: made for whole classes, and allowed for any forget set. Differences from the published code:
one much used port never deletes the extra row, so that a forgotten image may be given a class that does not exist: its
accuracy on the forget set is 0 for free, and attacks read a softmax over one class too many. Here the model comes back
with the head it had. Batch normalization runs in eval mode, since batches of forget examples alone would replace the
running statistics. The new row is drawn as a linear layer draws its rows. The batch size and a weight decay of 0 are
ours. Random crops and flips only if `augment` asks for them.

Weaknesses: without a retain set next to nothing is forgotten at the default learning rate. Once the row is deleted, the
class that was second best answers, which for a trained class is often the true one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import split_model
from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import inputs
from unlearnkit.result import UsageError
from unlearnkit.train import Augmentation, augment, make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class BoundaryExpand(Method):
    """Cross-entropy against an extra class on the forget set; the extra class is deleted at the end."""

    needs: ClassVar[Need] = Need.FORGET_INPUTS

    epochs: Count = 10  # passes over the forget set
    lr: Positive = 1e-5  # search 1e-6 to 1e-4
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 0.0
    batch_size: Count = 64  # examples
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget = access.forget
        split = split_model(model, self.name)
        head = split.head
        if not isinstance(head, nn.Linear):
            raise UsageError(
                f"{self.name}: the model's head must be a linear layer, got {type(head).__name__}; "
                "a class can be added to no other"
            )
        split.head = expanded(head, rng)
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def loss(rows: Tensor) -> Tensor:
            x = augment(inputs(model, forget, rows), self.augment, rng)
            y = torch.full((len(rows),), head.out_features, device=x.device)
            return functional.cross_entropy(model(x), y)

        model.eval()
        for epoch in range(self.epochs):
            batches = shuffled(len(forget), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
        with torch.no_grad():
            for old, wide in zip(head.parameters(), split.head.parameters(), strict=True):
                old.copy_(wide[: head.out_features])
        split.head = head
        return model


def expanded(head: nn.Linear, rng: torch.Generator) -> nn.Linear:
    """The same layer with one more output, whose row is uniform within ±1/√inputs, as on construction."""
    wide: nn.Linear = nn.utils.skip_init(
        nn.Linear,
        head.in_features,
        head.out_features + 1,
        bias=head.bias is not None,
        device=head.weight.device,
        dtype=head.weight.dtype,
    )
    with torch.no_grad():
        for new, old in zip(wide.parameters(), head.parameters(), strict=True):
            row = (2 * torch.rand(old.shape[1:], generator=rng) - 1) / head.in_features**0.5
            new.copy_(torch.cat([old, row.to(old)[None]]))
    return wide
