"""Retrain: train afresh on the retain set by the original's recipe; the reference every other method is held against.

Idea: a model that never saw the forget set has nothing to forget. Exact by construction, and as costly as training.

Reference: the gold standard of the field; in this form in "Model Sparsity Can Simplify Machine Unlearning", NeurIPS
2023, arXiv 2304.04934.

Must see: the retain set with labels and the recipe. The given model is not read, except for the device it is on.

Differences from the published code: that retrains for 160 epochs where the original took 182; here the recipe of the
original is used unchanged. The seed is drawn from the method's generator, so the result is a fresh draw of the
training's randomness. Batch normalization runs in train mode, and the normalization of the inputs is measured anew
without the forget set.

Weaknesses: exact only for the training itself. Hyperparameters that were once tuned with the forget set in view, a
pretrained start or a label map made from all the data still carry it. Two retrained models differ as much as two
seeds do, so one of them is a sample, not the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unlearnkit.methods.steps import device_of_model
from unlearnkit.train import fit
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class Retrain(Method):
    """Training from scratch on the retain set. It has no hyperparameters of its own: the recipe has them."""

    needs: ClassVar[Need] = Need.RECIPE | Need.RETAIN
    forgets_most: ClassVar[bool] = True

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        device = device_of_model(model)
        seed = int(torch.randint(2**31, (), generator=rng))
        return fit(access.recipe, access.retain, seed=seed, device=str(device)).to(device)
