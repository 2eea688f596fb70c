"""Inversion: a linear model gives the deleted image away; larger models and strange ones are refused."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from probe_samples import original, splits
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.attacks.inversion import Inversion, resemblance, total_variation
from unlearnkit.methods.steps import flat, gradient, set_flat
from unlearnkit.models import Architecture, Classifier, Normalize, build
from unlearnkit.result import UsageError
from unlearnkit.types import Splits


def linear() -> Classifier:
    """Logits are linear in the pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(Normalize(1, 3), nn.Flatten(), nn.Linear(64, 10)).eval()


def one_deleted() -> Splits:
    parts = splits(class_wise=False)
    return dataclasses.replace(parts, forget=parts.forget.take(np.array([7])))


def step_back(model: nn.Module, parts: Splits) -> nn.Module:
    """One step of gradient ascent on the forget set: what deletion is to first order."""
    result = copy.deepcopy(model)
    loss = functional.cross_entropy(result(parts.forget.x), parts.forget.labels())
    set_flat(result, flat(result) + 0.01 * gradient(result, loss))
    return result


def test_the_deleted_image_of_a_linear_model_is_recovered():
    parts, before = one_deleted(), linear()
    read = Inversion(before, restarts=1).read(step_back(before, parts), parts)
    assert read.value > 0.95
    assert read.curve[0] < 0.5
    assert read.value == read.curve[-1]
    assert read.at.tolist() == [0, 60, 120, 180, 240, 300]


def test_an_update_in_another_direction_shows_another_image():
    parts, before = one_deleted(), linear()
    others = dataclasses.replace(parts, forget=splits(class_wise=False).forget.take(np.array([11])))
    read = Inversion(before, restarts=1).read(step_back(before, others), parts)
    assert read.value < 0.9


def test_no_update_tells_nothing():
    parts, model = splits(class_wise=False), original(class_wise=False)
    read = Inversion(model).read(model, parts)
    assert read.value == 0
    assert not read.curve.any()


def test_the_original_stays_as_it_was():
    parts, before = one_deleted(), linear()
    state = copy.deepcopy(before.state_dict())
    Inversion(before, steps=4, restarts=1).read(step_back(before, parts), parts)
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items())
    assert all(p.grad is None for p in before.parameters())


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])
    assert float(total_variation(image)) == pytest.approx((0 + 2) / 2 + (1 + 3) / 2)
    assert float(total_variation(torch.ones(2, 5))) == 0
    assert float(total_variation(torch.ones(2, 1, 1, 3))) == 0


def test_resemblance_is_the_best_correlation():
    data = np.random.default_rng(0)
    dummies, x = data.normal(size=(3, 6)), data.normal(size=(2, 6))
    expected = np.mean([max(np.corrcoef(d, one)[0, 1] for d in dummies) for one in x])
    assert resemblance(torch.tensor(dummies), torch.tensor(x)) == pytest.approx(expected)
    assert resemblance(torch.ones(1, 4), torch.rand(1, 4)) == 0  # a blank dummy resembles nothing


def test_refusals():
    parts, model = splits(class_wise=False), original(class_wise=False)
    with pytest.raises(UsageError, match=r"asks models of up to 100 weights, got 9,610; failing to invert a larger"):
        Inversion(model, limit=100).read(model, parts)
    with pytest.raises(UsageError, match=r"must have the audited model's weights by name and shape; the first that"):
        Inversion(linear()).read(model, parts)
    small = build(Architecture("mlp", 9, (1, 8, 8)), seed=0)
    with pytest.raises(UsageError, match=r"the first that differs is 'head\.bias'"):
        Inversion(small).read(model, parts)

    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float()

    deaf = Classifier(Deaf(), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UsageError, match="Inversion: the model must answer alike to an image as uint8"):
        Inversion(deaf).read(copy.deepcopy(deaf), parts)
