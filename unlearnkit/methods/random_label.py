"""RandomLabel: teach the model wrong answers for the forget set while it rehearses the retain set.

Idea: each epoch every forget example gets a new random label other than its own; forget and retain set are put
together, shuffled, and trained on with cross-entropy:

    Σ over forget of CE(x, random label) + alpha · Σ over retain of CE(x, y)

Reference: the baseline RL of "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR 2024,
arXiv 2310.12508, which is SalUn without its mask.

Must see: the forget set and the retain set, both with labels (the true label is read in order to avoid it).

Differences from the paper: it adds the two means, so that alpha there is alpha · n_retain / n_forget here; the sum
over one shuffled set is what its release runs on CIFAR-100, and what its learning rates are tuned for. On CIFAR-10 the
release runs through all forget batches first and all retain batches after; that order is not offered. The release
draws labels from all classes, the true one included: `legacy` does the same. Batch normalization runs in train mode, as
published. Random crops and flips only if `augment` asks for them.

Weaknesses: without a retain set it does next to nothing or ruins the model. Forget examples end with answers unlike
those for unseen data, which an attack for abnormally low confidence recognizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import Hold, count_classes, inputs, two_parts
from unlearnkit.train import Augmentation, augment, make_optimizer, shuffled, take_steps, train_mode
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class RandomLabel(Method):
    """Cross-entropy against random labels on the forget set and against the true ones on the retain set."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN

    epochs: Count = 10  # passes over both sets together
    lr: Positive = 0.01  # search 1e-3 to 5e-2
    alpha: NotNegative = 1.0  # weight of a retain example; a forget example weighs 1
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 256  # examples
    augment: Augmentation = "none"
    legacy: bool = False  # labels from all classes, the true one included, as the published tables were made

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return self.relabel(model, access, rng, what=self.name)

    def relabel(
        self,
        model: nn.Module,
        access: Access,
        rng: torch.Generator,
        *,
        what: str,
        free: dict[str, Tensor] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> nn.Module:
        """The whole method, for `what` in error messages; weights that are False in `free` are held.

        With `legacy` the mask is laid on the gradient only, as in SalUn's release before February 2026. `after_step`
        is called after every step of a method that keeps its weights in another way.
        """
        forget, retain = access.forget, access.retain
        forget_y, retain_y = forget.labels(), retain.labels()
        n = len(forget) + len(retain)
        classes = count_classes(model, forget)
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )
        hold = None if free is None else Hold.outside(model, optimizer, free)
        before_step = None if hold is None else hold.mask_gradients
        if hold is not None and not self.legacy:
            after_step = hold.write_back
        wrong_y = forget_y

        def loss(rows: Tensor) -> Tensor:
            old, kept = two_parts(rows, len(forget))
            x = augment(torch.cat([inputs(model, forget, old), inputs(model, retain, kept)]), self.augment, rng)
            y = torch.cat([wrong_y[old], retain_y[kept]]).to(x.device)
            weight = torch.cat([torch.ones(len(old)), torch.full((len(kept),), self.alpha)]).to(x.device)
            return (weight * functional.cross_entropy(model(x), y, reduction="none")).mean()

        train_mode(model, n, self.batch_size)
        for epoch in range(self.epochs):
            wrong_y = random_labels(forget_y, classes, rng, avoid_true=not self.legacy)
            take_steps(
                optimizer,
                shuffled(n, self.batch_size, rng),
                loss,
                what=f"{what}, epoch {epoch + 1}",
                before_step=before_step,
                after_step=after_step,
            )
        return model


def random_labels(y: Int[Tensor, " n"], classes: int, rng: torch.Generator, *, avoid_true: bool) -> Int[Tensor, " n"]:
    """A label per example, uniform over the other classes, or over all of them."""
    if avoid_true:
        return (y + torch.randint(1, classes, y.shape, generator=rng)) % classes
    return torch.randint(classes, y.shape, generator=rng)
