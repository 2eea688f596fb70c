"""Small models of digits for the tests of probes: trained once for the whole test run."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
from torch import nn

from unlearnkit.compress import quantized
from unlearnkit.data import load, split
from unlearnkit.methods.distill import margins
from unlearnkit.models import Architecture, Classifier
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Splits, join

CLASS = 3
RECIPE = Recipe(Architecture("mlp", 10, (1, 8, 8)), epochs=5)


@cache
def splits(*, class_wise: bool) -> Splits:
    """Digit 3, or every tenth example, is to be forgotten by models of 600 digits."""
    data = load("digits")
    train, test = data.train.take(np.arange(600)), data.test.take(np.arange(200))
    y = train.labels().numpy()
    rows = np.flatnonzero(y == CLASS) if class_wise else np.arange(0, 600, 10)
    return split(train, test, rows, forget_class=CLASS if class_wise else None)


@cache
def original(*, class_wise: bool) -> nn.Module:
    parts = splits(class_wise=class_wise)
    return fit(RECIPE, join(parts.forget, parts.retain), seed=0)


@cache
def oracles(*, class_wise: bool, count: int = 6) -> tuple[nn.Module, ...]:
    return tuple(fit(RECIPE, splits(class_wise=class_wise).retain, seed=seed) for seed in range(1, count + 1))


def head(model: nn.Module) -> nn.Linear:
    assert isinstance(model, Classifier)
    assert isinstance(model.head, nn.Linear)
    return model.head


@cache
def hidden() -> nn.Module:
    """Forgets digit 3 in the head only, as retrained models do it: its row of an oracle. All features stay."""
    model = copy.deepcopy(original(class_wise=True))
    with torch.no_grad():
        head(model).weight[CLASS] = 0
        head(model).bias[CLASS] = -2
    return model


@cache
def within_half_a_step() -> tuple[nn.Module, nn.Module]:
    """A model on a 4-bit grid, and one that forgets digit 3 by moving no weight by half a step of that grid."""
    grid = quantized(original(class_wise=True), bits=4)
    model = copy.deepcopy(grid)
    parts = splits(class_wise=True)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    start = [layer.weight.detach().clone() for layer in layers]
    tops = [w.abs().amax(1, keepdim=True) for w in start]
    for _ in range(60):
        model.zero_grad()
        known = parts.retain.x, parts.retain.labels()
        keep = nn.functional.cross_entropy(model(known[0]), known[1])
        phi = margins(model(parts.forget.x), parts.forget.labels())
        (keep + phi.clamp_min(-2).mean()).backward()
        with torch.no_grad():
            for layer, w, top in zip(layers, start, tops, strict=True):
                assert layer.weight.grad is not None
                moved = layer.weight - 0.002 * layer.weight.grad.sign()
                moved = torch.where(w.abs() < top, moved.clamp(w - 0.45 * top / 7, w + 0.45 * top / 7), w)
                layer.weight.copy_(moved)
    model.zero_grad(set_to_none=True)
    return grid, model
