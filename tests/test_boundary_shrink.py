"""BoundaryShrink: the class behind the nearest boundary, and what learning it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, differing, loss_on, run
from torch import nn
from torch.nn import functional

from unlearnkit.methods.boundary_shrink import BoundaryShrink, nearest_wrong
from unlearnkit.result import UsageError
from unlearnkit.types import Examples, Need

task = test_methods.task


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.1, 3.0])
def test_labels_are_those_of_the_textbook_attack(task: Task, epsilon: float) -> None:
    """Against one step in the sign of the cross-entropy's gradient, example by example."""
    forget = task.splits.forget
    found = nearest_wrong(task.model, forget, epsilon, 7)
    for image, label, near in zip(forget.x, forget.labels(), found, strict=True):
        x = (image[None].double() / 255).float().requires_grad_(True)
        functional.cross_entropy(task.model(x), label[None]).backward()
        answers = task.model((x + epsilon * x.grad.sign()).clamp(0, 1)).detach()[0].argsort(descending=True)
        assert int(near) == int(answers[0] if answers[0] != label else answers[1])
    assert (found != forget.labels()).all()
    task.model.zero_grad(set_to_none=True)


def test_the_step_crosses_the_nearer_boundary() -> None:
    """In the plane class 0 lies left of x = 1 and below y = 3; at the origin the way leads to the right, to class 1."""
    model = nn.Linear(2, 3)
    model.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    model.bias.data = torch.tensor([0.0, -1.0, -3.0])
    origin = Examples(torch.zeros(1, 2), torch.tensor([0]), np.array(["origin"]))
    assert nearest_wrong(model, origin, 1.5, 1).tolist() == [1]
    model.bias.data = torch.tensor([0.0, -3.0, -1.0])
    assert nearest_wrong(model, origin, 1.5, 1).tolist() == [2]


def test_float_inputs_are_not_bounded() -> None:
    model = nn.Linear(1, 3)
    model.weight.data = torch.tensor([[0.0], [1.0], [2.0]])
    model.bias.data = torch.tensor([0.0, -2.0, -5.0])  # class 1 from 2 on, class 2 from 3 on
    point = Examples(torch.zeros(1, 1), torch.tensor([0]), np.array(["zero"]))
    assert [nearest_wrong(model, point, step, 1).item() for step in (1.5, 2.5, 4.0)] == [1, 1, 2]


def test_it_teaches_the_wrong_class_and_keeps_the_statistics(task: Task) -> None:
    method = BoundaryShrink(lr=1e-2, batch_size=8)
    wrong = nearest_wrong(task.model, task.splits.forget, method.epsilon, 8)
    result = run(task, method)
    taught = replace(task.splits.forget, y=wrong)
    assert loss_on(result, taught) < 0.5 * loss_on(task.model, taught)
    assert loss_on(result, task.splits.forget) > loss_on(task.model, task.splits.forget)
    assert not [name for name in differing(result, task.model) if "running" in name or "num_batches" in name]


def test_the_retain_set_is_never_read(task: Task) -> None:
    assert BoundaryShrink.needs == Need.FORGET
    few = replace(task.splits, retain=task.splits.retain.take(np.arange(30)))
    assert not differing(run(task, BoundaryShrink(), splits=few), run(task, BoundaryShrink()))


def test_hyperparameters_and_models_are_checked(task: Task) -> None:
    with pytest.raises(UsageError, match=r"^BoundaryShrink\.epsilon: must be greater than or equal to 0, got -0\.1$"):
        BoundaryShrink(epsilon=-0.1)
    scaled = nn.Sequential(nn.Flatten(), _Halve(), nn.Linear(64, CLASSES))
    with pytest.raises(UsageError, match=r"^BoundaryShrink: the model must answer alike to an image as uint8 and as "):
        run(replace(task, model=scaled), BoundaryShrink())


class _Halve(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() / 255
