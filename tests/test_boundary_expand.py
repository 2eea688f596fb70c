"""BoundaryExpand: an extra class that comes, takes the forget set, and goes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, differing, loss_on, run
from torch import nn
from torch.nn import functional

from unlearnkit.methods.boundary_expand import BoundaryExpand, expanded
from unlearnkit.models import Classifier
from unlearnkit.result import UsageError
from unlearnkit.types import Need

task = test_methods.task


def test_the_extra_row_is_new_and_the_others_are_not(task: Task) -> None:
    head = task.model.head
    wide, again = (expanded(head, torch.Generator().manual_seed(0)) for _ in range(2))
    assert wide.weight.shape == (CLASSES + 1, head.in_features)
    assert torch.equal(wide.weight[:-1], head.weight)
    assert torch.equal(wide.bias[:-1], head.bias)
    assert 0 < wide.weight[-1].abs().max() <= head.in_features**-0.5
    assert wide.weight[-1].unique().numel() == head.in_features
    assert torch.equal(wide.weight, again.weight)
    assert expanded(nn.Linear(3, 2, bias=False), torch.Generator().manual_seed(0)).bias is None


def test_the_model_comes_back_without_the_extra_class(task: Task) -> None:
    """The published defect: a row that stays makes every forgotten image answer a class that does not exist."""
    result = run(task, BoundaryExpand(epochs=20, lr=0.05, batch_size=8))
    assert result.head.out_features == CLASSES
    assert result.head.weight.shape == task.model.head.weight.shape
    assert list(result.state_dict()) == list(task.model.state_dict())
    assert result(task.splits.forget.x).shape == (24, CLASSES)
    assert loss_on(result, task.splits.forget) > loss_on(task.model, task.splits.forget)
    assert not [name for name in differing(result, task.model) if "running" in name or "num_batches" in name]


def test_one_step_is_written_out_by_hand(task: Task) -> None:
    """Cross-entropy against class C with the extra row in place; the extra row itself leaves no trace but this."""
    model = copy.deepcopy(task.model)
    rng = torch.Generator().manual_seed(0)
    width = model.head.in_features
    row = ((2 * torch.rand(width, generator=rng) - 1) / width**0.5).requires_grad_(True)
    bias = (2 * torch.rand((), generator=rng) - 1) / width**0.5
    features = model.features(task.splits.forget.x)
    logits = torch.cat([model.head(features), (features @ row + bias)[:, None]], dim=1)
    functional.cross_entropy(logits, torch.full((24,), CLASSES)).backward()
    result = dict(run(task, BoundaryExpand(epochs=1, lr=0.1)).named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(result[name], p - 0.1 * p.grad, rtol=1e-4, atol=1e-6)


def test_neither_labels_nor_the_retain_set_are_read(task: Task) -> None:
    assert BoundaryExpand.needs == Need.FORGET_INPUTS
    wrong = replace(task.splits.forget, y=(task.splits.forget.labels() + 1) % CLASSES)
    splits = replace(task.splits, forget=wrong, retain=task.splits.retain.take(np.arange(30)))
    method = BoundaryExpand(lr=0.01)
    assert not differing(run(task, method, splits=splits), run(task, method))


def test_a_model_whose_head_cannot_grow_is_refused(task: Task) -> None:
    headless = Classifier(task.model.normalize, nn.Sequential(task.model.body, task.model.head), nn.Identity())
    with pytest.raises(UsageError, match=r"^BoundaryExpand: the model's head must be a linear layer, got Identity; "):
        run(replace(task, model=headless), BoundaryExpand())
    with pytest.raises(UsageError, match=r"^BoundaryExpand: the model must be split into body and head, got Linear; "):
        run(replace(task, model=nn.Linear(2, 2)), BoundaryExpand())


def test_hyperparameters_are_checked() -> None:
    with pytest.raises(UsageError, match=r"^BoundaryExpand\.lr: must be greater than 0, got 0\.0$"):
        BoundaryExpand(lr=0.0)
