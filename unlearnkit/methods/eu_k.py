"""EUk: put fresh weights into the last k blocks, and train these blocks on the retain set.

Idea: exact unlearning of the last blocks, were it not for what the blocks before them know. What a block is, CFk says.

Reference: EU-k of "Towards Adversarial Evaluations for Inexact Machine Unlearning", arXiv 2201.06640.

Must see: the retain set with labels and the recipe, which says how a fresh model begins (and with `epochs=None` how
long training takes); never the forget set.

Differences from the paper: it trains the fresh blocks for the whole budget of the original, `epochs=None` here, which
costs a good part of a retraining, since every batch passes the whole network; the default is the 10 epochs that
"Challenging Forgets", ECCV 2024, arXiv 2403.07362, gives it beside other methods.
Differences from the published code: that goes back to the stored initial weights of the original; here they are drawn
anew, once, before the first epoch, since initial weights are seldom kept. Batch normalization: running statistics of
the last blocks begin afresh and are in train mode, those of the others stay. Random crops and flips only if `augment`
asks for them.

Weaknesses: those of CFk. The features that the new blocks are trained on were learned from the forget set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unlearnkit.methods.cf_k import CFk, last_blocks
from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.models import build
from unlearnkit.result import UsageError
from unlearnkit.train import Augmentation
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class EUk(Method):
    """CFk from fresh weights; with `epochs=None` for as long as the original was trained."""

    needs: ClassVar[Need] = Need.RETAIN | Need.RECIPE

    k: Count = 2  # blocks that are begun afresh; of a ResNet the last stage and the last layer
    epochs: Count | None = 10  # passes over the retain set; None: as many as the recipe says, as published
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 64  # examples
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        last = last_blocks(model, self.k, what=self.name)
        fresh = build(access.recipe.architecture, seed=int(torch.randint(2**31, (), generator=rng)))
        for name, module in last.items():
            try:
                module.load_state_dict(fresh.get_submodule(name).state_dict())
            except (AttributeError, RuntimeError) as error:
                raise UsageError(
                    f"{self.name}: the recipe's architecture {access.recipe.architecture.name!r} has no {name!r} like "
                    "the model's; grant the recipe that the model was built by"
                ) from error
        train = CFk(
            k=self.k,
            epochs=self.epochs or access.recipe.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            augment=self.augment,
        )
        return train.train_last(model, last, access, rng, what=self.name)
