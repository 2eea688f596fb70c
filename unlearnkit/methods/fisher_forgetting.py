"""FisherForgetting: noise on every weight, the more the less the retain set cares about it.

Idea: the diagonal Fisher information of the retain set says how sharply its predictions depend on a weight. Each weight
gets Gaussian noise of variance

    alpha · min(1 / (F + 1e-8), 1e3),   F = mean over retain of Σ_y p(y) · (∂ log p(y) / ∂θ)²

with the bound at 1e2 in the last layer. In tensors of more than one dimension the variance is averaged along the second
(the inputs); in the last layer, and in biases and normalization, it is multiplied by 10.

Reference: "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks", CVPR 2020, arXiv 1911.04933.

Must see: the inputs of the retain set; the expectation over the model's own predictions stands in for labels. With
`class_wise` also which class is to be forgotten.

Differences from the published code: ports square the gradient of a whole batch, here every example is squared by
itself. They take each tensor with as many rows as there are classes for the last layer; here it is the last linear
layer with that many outputs. What they do for a whole class, weights and bias of its output set to 0 and their
variance to 1e-4 (1e-3 after the factor 10), hangs on the number 4500 of forget examples there and on `class_wise`
here. Batch normalization runs in eval mode: running statistics stay. The published code measures the information on
the whole retain set, `examples=None` here: on CIFAR-10 that alone costs a good part of a retraining.

Weaknesses: slow, a backward pass for every class and example. Noise on a diagonal costs much accuracy before it hides
much, and the useful alpha lies in a narrow range that differs between models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.hyperparameters import Count, NotNegative, check
from unlearnkit.methods.steps import by_name, count_classes, flat, gradient, inputs
from unlearnkit.result import UsageError
from unlearnkit.types import Access, Examples, Method, Need


@dataclass(frozen=True)
class FisherForgetting(Method):
    """Gaussian noise by the inverse of the diagonal Fisher information; `alpha=0` changes nothing."""

    alpha: NotNegative = 1e-8  # scale of the variance; search 1e-9 to 1e-6
    examples: Count | None = 1000  # drawn from the retain set for the Fisher information; None: all of it, as published
    class_wise: bool = False  # also erase the forgotten class from the last layer

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Need:
        return Need.RETAIN_INPUTS | (Need.CLASS_WISE if self.class_wise else Need(0))

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        retain = access.retain
        classes = count_classes(model, retain)
        last = _last_layer(model, classes)
        if self.class_wise and not last:
            raise UsageError(
                f"{self.name}.class_wise: the model has no linear layer with {classes} outputs whose row could be "
                "erased; leave class_wise out"
            )
        rows = torch.randperm(len(retain), generator=rng)[: self.examples]
        fisher = by_name(model, diagonal_fisher(model, retain, rows))
        with torch.no_grad():
            for name, p in model.named_parameters():
                spread = variance(fisher[name], last=name in last) * self.alpha
                if self.class_wise and name in last:
                    p[access.forget_class] = 0
                    spread[access.forget_class] = 1e-4
                if name in last or p.ndim == 1:
                    spread = 10 * spread
                noise = torch.randn(p.shape, generator=rng, dtype=p.dtype).to(p.device)
                p.add_(spread.sqrt() * noise)
        return model


def diagonal_fisher(model: nn.Module, examples: Examples, rows: Int[Tensor, " b"]) -> Float[Tensor, " p"]:
    """Mean over the rows of Σ_y p(y) · (∂ log p(y) / ∂θ)², example by example; labels are not looked at."""
    total = torch.zeros_like(flat(model))
    for row in rows.split(1):
        log_p = functional.log_softmax(model(inputs(model, examples, row))[0], dim=0)
        for y in range(len(log_p)):
            total += log_p[y].detach().exp() * gradient(model, log_p[y], retain_graph=y + 1 < len(log_p)).square()
    return total / len(rows)


def variance(fisher: Float[Tensor, ...], *, last: bool) -> Float[Tensor, ...]:
    """The bounded inverse of the Fisher information; one value per output where there are inputs to average over."""
    bounded = (1 / (fisher + 1e-8)).clamp(max=1e2 if last else 1e3)
    return bounded.mean(dim=1, keepdim=True).expand_as(fisher).clone() if fisher.ndim > 1 else bounded


def _last_layer(model: nn.Module, classes: int) -> set[str]:
    """Names of weight and bias of the last linear layer with one output per class; empty if there is none."""
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    own = model.get_submodule(linear[-1]).named_parameters(prefix=linear[-1]) if linear else ()
    return {name for name, _ in own}
