"""SalUnSoft: random labels, while after every step all weights but the most moved return to where they began.

Idea: SalUn without a mask made beforehand. After each step a soft threshold pulls every weight toward the original,

    θ ← θ_o + sign(δ) · max(|δ| − t, 0),   δ = θ − θ_o

with t so large that at most `fraction` of all weights differ from the original. Which ones is found while training.

Reference: the proximal variant (SalUn-soft) of "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency
in Both Image Classification and Generation", ICLR 2024, arXiv 2310.12508.

Must see: the forget set and the retain set, both with labels.

Differences from the published code: its anchor is taken anew in each epoch, its ratio decays linearly, and the argument
that sets the ratio is missing from its parser; here the anchor is the original and the fraction stays. Those of
RandomLabel otherwise; `legacy` concerns labels only. Batch normalization: weights and biases are pulled, running
statistics are not and move in train mode.

Weaknesses: those of RandomLabel. A weight that should move loses t in every step, so that little is forgotten unless
the learning rate is larger than SalUn's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, PositiveShare, check
from unlearnkit.methods.random_label import RandomLabel
from unlearnkit.methods.steps import flat, part_of, require_some, set_flat
from unlearnkit.train import Augmentation
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class SalUnSoft(Method):
    """RandomLabel under a soft threshold; `fraction=1` is RandomLabel."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN

    fraction: PositiveShare = 0.5  # share of all weights that may differ from the original
    epochs: Count = 10  # passes over both sets together
    lr: Positive = 0.013
    alpha: NotNegative = 1.0  # weight of a retain example; a forget example weighs 1
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 256  # examples
    augment: Augmentation = "none"
    legacy: bool = False  # labels from all classes, the true one included

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        require_some(model, self.fraction, f"{self.name}.fraction")
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
        start = flat(model)

        def pull() -> None:
            set_flat(model, pulled_back(flat(model), start, self.fraction))

        return relabel.relabel(model, access, rng, what=self.name, after_step=pull)


def pulled_back(weights: Float[Tensor, " p"], anchor: Float[Tensor, " p"], fraction: float) -> Float[Tensor, " p"]:
    """The soft threshold that leaves at most floor(fraction · p) weights away from the anchor."""
    moved = weights - anchor
    count = part_of(len(moved), fraction)
    if count == len(moved):
        return weights
    threshold = moved.abs().kthvalue(len(moved) - count).values  # the largest that must not move
    return torch.where(moved.abs() > threshold, weights - moved.sign() * threshold, anchor)
