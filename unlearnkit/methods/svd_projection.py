"""SVDProjection: project out of every layer the directions that the forget class uses and the retain set does not.

Idea: of every linear and every 2-d convolutional layer the inputs are collected (patches, for a convolution) for a
sample of the retain set and of the forget set. With the Gram matrix G of the inputs and A = G/tr(G), the importance of
the directions is M = κA((κ − 1)A + I)⁻¹, near 1 where much of the energy lies and near 0 elsewhere; κ is
`alpha_retain` for M_r and `alpha_forget` for M_f. All weights are replaced at once, without a step of training:

    W ← W Pᵀ,  P = I − (M_f − M_f M_r)

Reference: "Deep Unlearning: Fast and Efficient Training-free Class Forgetting", TMLR 2024, arXiv 2312.00761.

Must see: the inputs of the forget set and of the retain set; no labels. A whole class must be asked for.

Differences from the paper: M is computed from the Gram matrix; in the singular vectors U of the inputs, with
a_i = s_i²/Σs², it is the paper's U diag(κa_i/((κ − 1)a_i + 1)) Uᵀ. The paper chooses both κ per data set by a grid
search (100 and 3 on CIFAR-10, 1000 and 30 on CIFAR-100, 100 and 10 on ImageNet); here they are given.
Differences from the published code: samples are drawn at random, not in equal parts per class, which would need labels.
A convolution in groups is projected group by group. Layers that are neither linear nor 2-d convolutions, and an
attention's own matrices, stay as they are, and so do biases. Batch normalization runs in eval mode, and its weights are
not touched.

Weaknesses: for a random subset of the data the two spaces are one and nothing happens, so only whole classes are
accepted. What κ is right depends on the model, and too large an `alpha_forget` takes the other classes along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.hyperparameters import Count, NotNegative, check
from unlearnkit.methods.steps import inputs
from unlearnkit.types import Access, Examples, Method, Need

_BATCH = 64  # examples that are looked at at once

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class SVDProjection(Method):
    """Weights without the directions of the forget class; training-free. `alpha_forget=0` is the original."""

    needs: ClassVar[Need] = Need.FORGET_INPUTS | Need.RETAIN_INPUTS | Need.CLASS_WISE

    alpha_retain: NotNegative = 100.0  # how little energy makes a direction of the retain set worth keeping
    alpha_forget: NotNegative = 3.0  # how little energy makes a direction of the forget set worth removing
    samples: Count = 900  # examples of each set
    patches: Count = 10_000  # inputs of each layer and set

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        model.eval()
        keep = gram_matrices(model, access.retain, self.samples, self.patches, rng)
        drop = gram_matrices(model, access.forget, self.samples, self.patches, rng)
        with torch.no_grad():
            for layer, gram in drop.items():
                m_f, m_r = importance(gram, self.alpha_forget), importance(keep[layer], self.alpha_retain)
                project = torch.eye(gram.shape[-1]).to(gram) - (m_f - m_f @ m_r)
                weight = layer.weight.double().reshape(len(gram), -1, gram.shape[-1])
                layer.weight.copy_((weight @ project.mT).view_as(layer.weight))
        return model


def importance(gram: Float[Tensor, "g d d"], alpha: float) -> Float[Tensor, "g d d"]:
    """κA((κ − 1)A + I)⁻¹ with A = G/tr(G) and κ = `alpha`; 0 where the inputs are all 0, and for κ = 0."""
    total = gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    if not alpha:
        return torch.zeros_like(gram)
    share = gram / torch.where(total > 0, total, 1.0)
    m: Tensor = torch.linalg.solve((alpha - 1) * share + torch.eye(gram.shape[-1]).to(gram), alpha * share)
    return m


def gram_matrices(
    model: nn.Module, examples: Examples, samples: int, patches: int, rng: torch.Generator
) -> dict[Layer, Float[Tensor, "g d d"]]:
    """Σ vvᵀ over the inputs v of every layer, in float64, one matrix per group of a convolution.

    Looks at `samples` examples drawn without repetition and at about `patches` places of each layer.
    """
    drawn = torch.randperm(len(examples), generator=rng)[:samples]
    grams: dict[Layer, Tensor] = {}

    def look(layer: Layer, x: Tensor) -> None:
        columns = layer_inputs(layer, x)  # [group, place, input]
        places = columns.shape[1]
        share = -(-patches * len(x) // len(drawn))  # rounded up
        if share < places:
            columns = columns[:, torch.randperm(places, generator=rng)[:share].to(x.device)]
        columns = columns.double()
        grams[layer] = grams.get(layer, 0) + columns.mT @ columns

    with torch.no_grad(), watched(model, look):
        for rows in torch.split(drawn, _BATCH):
            model(inputs(model, examples, rows))
    return grams


def layer_inputs(layer: Layer, x: Float[Tensor, "n ..."]) -> Float[Tensor, "g places d"]:
    """What every output of the layer is a weighted sum of, in the order of the weights, per group of channels."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    columns = functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return columns.view(len(x), layer.groups, -1, columns.shape[-1]).permute(1, 0, 3, 2).flatten(1, 2)


@contextmanager
def watched(model: nn.Module, look: Callable[[Layer, Tensor], None]) -> Iterator[None]:
    """Inside the block `look` is told every linear and 2-d convolutional layer that is called, with its input."""

    def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Layer)
        look(layer, given[0])

    handles = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, Layer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
