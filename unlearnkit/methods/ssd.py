"""SSD: shrink the weights that matter far more to the forget set than to all the data; no training.

Idea: the importance of a weight for a set S is the mean over batches of the squared gradient,

    I_S = mean over batches of (∂ mean CE / ∂θ)²

and wherever I_forget > alpha · I_all, the weight becomes θ · min(dampening · I_all / I_forget, 1). With `label_free`
the importance is the mean of |∂ mean ‖z‖² / ∂θ|, z being the logits.

Reference: "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI 2024, arXiv
2308.07707; label-free in "Loss-Free Machine Unlearning", arXiv 2402.19308.

Must see: the forget set and the retain set, both with labels; with `label_free` without.

Differences from the published code: none in the formulas. Gradients are averaged over a batch before they are
squared, so the result depends on `batch_size`; with 1 the importance is the diagonal of the Fisher matrix as the
papers write it. Published is 64 for classes, 128 for random examples. For vision transformers alpha 5 is published,
for faces alpha 50 and dampening 0.1. Batches are drawn in random order without crops and flips. Batch normalization
runs in eval mode: running statistics stay.

Weaknesses: one alpha does not fit all classes. What forgets one of them well destroys the model on another, so alpha
must be chosen with an eye on the accuracy on retain data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.hyperparameters import Count, Positive, check
from unlearnkit.methods.steps import flat, gradient, inputs, set_flat, two_parts
from unlearnkit.train import count_batches, shuffled
from unlearnkit.types import Access, Examples, Method, Need


@dataclass(frozen=True)
class SSD(Method):
    """Selective synaptic dampening; a large `alpha` or a large `dampening` changes nothing."""

    alpha: Positive = 10.0  # a weight is selected when its importance for the forget set exceeds this many times
    dampening: Positive = 1.0  # what is left of a selected weight, in units of I_all / I_forget
    batch_size: Count = 64  # examples; the importance depends on it
    label_free: bool = False  # importance from the size of the logits instead of the loss

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Need:
        return Need.FORGET_INPUTS | Need.RETAIN_INPUTS if self.label_free else Need.FORGET | Need.RETAIN

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        model.eval()
        forget, retain = access.forget, access.retain
        everything = self.importance(model, (forget, retain), len(forget) + len(retain), rng)
        forgotten = self.importance(model, (forget, retain), len(forget), rng)
        set_flat(model, dampened(flat(model), forgotten, everything, self.alpha, self.dampening))
        return model

    def importance(
        self, model: nn.Module, parts: tuple[Examples, Examples], count: int, rng: torch.Generator
    ) -> Float[Tensor, " p"]:
        """How much each weight matters to the first `count` examples of both parts, counted through."""
        total = torch.zeros_like(flat(model))
        for rows in shuffled(count, self.batch_size, rng):
            pair = list(zip(parts, two_parts(rows, len(parts[0])), strict=True))
            logits = model(torch.cat([inputs(model, part, chosen) for part, chosen in pair]))
            if self.label_free:
                total += gradient(model, logits.square().sum(1).mean()).abs()
            else:
                y = torch.cat([part.labels()[chosen] for part, chosen in pair]).to(logits.device)
                total += gradient(model, functional.cross_entropy(logits, y)).square()
        return total / count_batches(count, self.batch_size)


def dampened(
    weights: Float[Tensor, " p"],
    forgotten: Float[Tensor, " p"],
    everything: Float[Tensor, " p"],
    alpha: float,
    dampening: float,
) -> Float[Tensor, " p"]:
    """Weights that are far more important to what is forgotten than to everything shrink; none grows or flips."""
    selected = forgotten > alpha * everything
    return torch.where(selected, weights * (dampening * everything / forgotten).clamp(max=1), weights)
