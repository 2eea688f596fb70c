"""SalUn: random labels, but only the weights that the forget set pulls on hardest may move.

Idea: the weights with the largest gradient on the forget set carry it. `saliency_mask` marks the top `fraction` of all
weights together by |Σ over forget of ∂CE(x, y)/∂θ|, and RandomLabel trains the marked ones while the rest stays as it
was, bit for bit.

Reference: "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and
Generation", ICLR 2024, arXiv 2310.12508.

Must see: the forget set and the retain set, both with labels.

Differences from the paper: those of RandomLabel, in how the two losses are mixed; the mask is the exact count
floor(fraction · N) where the paper sets a threshold, ties going to the parameter that comes first in the model.
Differences from the published code: the mask's gradient is taken without random crops and flips, and sums examples
instead of batch means, so it does not depend on the batch size. Until February 2026 that code laid the mask on the
gradient only, so weight decay, carried on by momentum, moved the masked weights too (issue 32 of the repository); here
they are written back after every step and their momentum is zeroed. `legacy` brings that drift back, and labels that
may be the true one: the published tables rest on both. Batch normalization: weights and biases are in the mask, running
statistics are not and move in train mode, as published.

Weaknesses: those of RandomLabel, above all the abnormally low confidence on the forget set. Too small a learning rate
forgets nothing, and the selected settings were never published. What a held weight knows of the forget set stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, PositiveShare, check
from unlearnkit.methods.random_label import RandomLabel
from unlearnkit.methods.steps import by_name, largest, part_of, require_some, summed_gradient
from unlearnkit.train import Augmentation
from unlearnkit.types import Access, Examples, Method, Need


@dataclass(frozen=True)
class SalUn(Method):
    """RandomLabel on the most salient weights; `fraction=1` is RandomLabel."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN

    fraction: PositiveShare = 0.5  # share of all weights that may move; at least one must
    epochs: Count = 10  # passes over both sets together
    lr: Positive = 0.013  # search 5e-3 to 2e-2
    alpha: NotNegative = 1.0  # weight of a retain example; a forget example weighs 1
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 256  # examples
    augment: Augmentation = "none"
    legacy: bool = False  # masked weights drift and labels may be true, as in the release before February 2026

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        require_some(model, self.fraction, f"{self.name}.fraction")
        mask = saliency_mask(model, access.forget, self.fraction, batch_size=self.batch_size)
        relabel = RandomLabel(
            epochs=self.epochs,
            lr=self.lr,
            alpha=self.alpha,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            augment=self.augment,
            legacy=self.legacy,
        )
        return relabel.relabel(model, access, rng, what=self.name, free=mask)


def saliency_mask(model: nn.Module, forget: Examples, fraction: float, *, batch_size: int) -> dict[str, Tensor]:
    """True at the floor(fraction · N) of all N weights with the largest gradient on `forget`; one mask per parameter.

    Looks in eval mode and leaves the model as it was, without gradients.
    """
    was_training = model.training
    model.eval().zero_grad(set_to_none=True)
    pull = summed_gradient(model, forget, batch_size=batch_size).abs()
    model.train(was_training)
    return by_name(model, largest(pull, part_of(len(pull), fraction)))
