"""PruneFirst: make the model sparse, then let any other method forget in it.

Idea: the fewer weights a model has, the less an approximate method leaves behind. Most weights are set to zero, and
whatever `inner` does afterwards, they stay zero.

- magnitude (OMP): the smallest of all weights together go, once. Nothing is retrained, `inner` repairs what it can.
- iterative (IMP): rounds of pruning a share of what is left, each followed by training afresh from one initialization,
  by the recipe, on all data. It makes the sparse original that would have been deployed, and `inner` then forgets.
  With `per_round=1` there is one round.
- synflow: 100 rounds without data. A weight's score is |θ · ∂R/∂θ|, where R is the sum of the outputs of the network
  with the absolute value of every weight, for an input of ones: how much of all paths runs through it.

Reference: "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv 2304.04934; the rounds are those of
"The Lottery Ticket Hypothesis", ICLR 2019, arXiv 1803.03635; SynFlow is "Pruning neural networks without any data by
iteratively conserving synaptic flow", NeurIPS 2020, arXiv 2006.05467.

Must see: what `inner` must see, and with iterative pruning the forget set and the retain set with labels and the
recipe; with SynFlow the recipe, which says the shape of an input. Magnitudes need nothing.

Differences from the paper: there pruning comes before training, and each variant retrains the pruned model on all data;
here only the iterative variant does, since the request meets a trained model. Differences from the published code: it
rewinds to the weights of epoch 8, here to the initialization; its first magnitudes are those of a model of its own,
here those of the given model. It prunes convolutions only; here every weight of more than one dimension, the last
layer included, and never biases or normalization. SynFlow was made for initial weights and scores the given ones here.
Its sum over paths leaves out normalization, whose statistics would turn it negative, and biases, whose paths begin
behind a layer and would let it be cut off. Batch normalization runs as `inner` runs it.

Weaknesses: at high sparsity a model that nobody retrains has lost its accuracy before `inner` begins. Which weights
were kept was decided with the forget set in view.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.hyperparameters import Inner, PositiveShare, Sparsity, check
from unlearnkit.methods.steps import by_name, device_of_model, flat, gradient, largest, part_of
from unlearnkit.models import Normalize, load_state
from unlearnkit.train import fit
from unlearnkit.types import Access, Method, Need, join

Kept = list[Tensor]  # one mask per parameter, in the order of the model; False = pruned
_ROUNDS = 100  # of SynFlow
_FINE_TUNE = FineTune()


@dataclass(frozen=True)
class PruneFirst(Method):
    """Pruning, then `inner` on the weights that are left; `sparsity=0` with magnitudes is `inner` alone."""

    inner: Inner = _FINE_TUNE
    pruning: Literal["magnitude", "iterative", "synflow"] = "magnitude"
    sparsity: Sparsity = 0.95  # share of the weights that are pruned
    per_round: PositiveShare = 0.2  # share of the weights left that a round prunes; iterative pruning only

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Need:
        own = {
            "magnitude": Need(0),
            "iterative": Need.FORGET | Need.RETAIN | Need.RECIPE,
            "synflow": Need.RECIPE,
        }
        return self.inner.needs | own[self.pruning]

    @property
    def adds_steering(self) -> bool:
        """Whether `inner` may return a steering, as unlearn() asks."""
        return bool(getattr(self.inner, "adds_steering", False))

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        if self.pruning == "iterative":
            kept = self._iterate(model, access, rng)
        elif self.pruning == "synflow":
            kept = synflow_mask(model, access.recipe.architecture.shape, self.sparsity)
        else:
            kept = magnitude_mask(model, self.sparsity)
        mine = replace(access, granted=access.granted & self.inner.needs, method=self.inner.name)
        with staying_pruned(model, kept):
            result = self.inner.run(model, mine, rng)
        _prune(list(result.parameters()), kept)
        return result

    def _iterate(self, model: nn.Module, access: Access, rng: torch.Generator) -> Kept:
        """Prune, rewind, retrain, until `sparsity` is reached; `model` ends as the sparse original."""
        parts = (access.forget, access.retain)
        for part in parts:
            part.labels()  # refuses data without labels in words that fit
        everything = join(*parts)
        recipe, device = access.recipe, str(device_of_model(model))
        seed = int(torch.randint(2**31, (), generator=rng))  # one initialization: to train anew is to rewind
        rounds = 1
        while 1 - (1 - self.per_round) ** rounds < self.sparsity:
            rounds += 1
        kept = magnitude_mask(model, 0.0)
        for done in range(1, rounds + 1):
            kept = magnitude_mask(model, self.sparsity if done == rounds else 1 - (1 - self.per_round) ** done)
            with staying_pruned(model, kept):
                trained = fit(recipe, everything, seed=seed, device=device)
            load_state(model, trained.state_dict(), what=self.name, architecture=recipe.architecture)
            _prune(list(model.parameters()), kept)
        return kept


def magnitude_mask(model: nn.Module, sparsity: float) -> Kept:
    """True at the weights that are kept: all but the floor(sparsity · N) smallest of the N that may be pruned."""
    return _best(model, flat(model).abs(), sparsity)


def synflow_mask(model: nn.Module, shape: tuple[int, ...], sparsity: float) -> Kept:
    """True at the weights that SynFlow keeps; `shape` is that of one input. The share kept falls exponentially."""
    flow = _paths(model)
    ones = torch.ones(1, *shape, dtype=torch.float64, device=device_of_model(model))
    kept = magnitude_mask(flow, 0.0)
    for done in range(1, _ROUNDS + 1):
        scores = synaptic_flow(flow, ones)
        kept = _best(flow, scores, sparsity if done == _ROUNDS else 1 - (1 - sparsity) ** (done / _ROUNDS))
        _prune(list(flow.parameters()), kept)
    return kept


def synaptic_flow(flow: nn.Module, ones: Float[Tensor, "1 ..."]) -> Float[Tensor, " p"]:
    """θ · ∂R/∂θ of each weight, R being the sum of the outputs."""
    return flat(flow) * gradient(flow, flow(ones).sum())


def _best(model: nn.Module, scores: Float[Tensor, " p"], sparsity: float) -> Kept:
    """Of the weights that may be pruned, those of more than one dimension, the best; and all of the others."""
    prunable = torch.cat([torch.full((p.numel(),), p.ndim > 1, device=scores.device) for p in model.parameters()])
    kept = torch.ones_like(prunable)
    count = int(prunable.sum())
    kept[prunable] = largest(scores[prunable], count - part_of(count, sparsity))
    return list(by_name(model, kept).values())


def _paths(model: nn.Module) -> nn.Module:
    """A copy whose output sums over the paths from its inputs: absolute weights, no biases, no normalization.

    In float64, since the products are long.
    """
    flow = copy.deepcopy(model).double().eval()
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, Normalize)
    for module in list(flow.modules()):
        for name, child in module.named_children():
            if isinstance(child, norms):
                setattr(module, name, _Bypass(child))
    with torch.no_grad():
        for name, p in flow.named_parameters():
            p.abs_()
            if name.endswith("bias"):
                p.zero_()
    return flow


class _Bypass(nn.Module):
    """Passes its input on. It holds the layer, so that weights keep their place in the order of the model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x


@torch.no_grad()
def _prune(weights: Sequence[Tensor], kept: Kept) -> None:
    """Set what is not kept to zero, in the model's weights or in those of another model of the same shapes."""
    if [p.shape for p in weights] == [mask.shape for mask in kept]:
        for p, mask in zip(weights, kept, strict=True):
            p.masked_fill_(~mask.to(p.device), 0)


@contextmanager
def staying_pruned(model: nn.Module, kept: Kept) -> Iterator[None]:
    """Inside the block pruned weights are zero after every step of any optimizer, and their gradient is zero.

    Without a gradient they neither count when its norm is clipped nor compete for a mask. A fresh model that has the
    same shapes and is trained inside, as Retrain does, is pruned too, from its first step on.
    """
    own = list(model.parameters())

    def after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        _prune(own, kept)
        _prune([p for group in optimizer.param_groups for p in group["params"]], kept)

    _prune(own, kept)
    with ExitStack() as stack:
        stack.callback(register_optimizer_step_post_hook(after_step).remove)
        for p, mask in zip(own, kept, strict=True):
            if not mask.all():
                hook = p.register_hook(lambda gradient, mask=mask: gradient.masked_fill(~mask, 0))
                stack.callback(hook.remove)
        yield
