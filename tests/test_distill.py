"""What the original is asked: frozen and fresh copies, divergence, margins, pixels."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, differing
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import (
    away_from,
    check_pixels,
    collect,
    divergence,
    frozen,
    margins,
    pixels,
    reinitialized,
    split_model,
    within_box,
)
from unlearnkit.observing import margin
from unlearnkit.result import UsageError
from unlearnkit.types import Examples

task = test_methods.task


def logits(seed: int, n: int = 6) -> Tensor:
    return 3 * torch.randn(n, CLASSES, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_divergence_is_written_out_by_hand(temperature: float) -> None:
    p, q = ((z.double() / temperature).softmax(1) for z in (logits(0), logits(1)))
    expected = temperature**2 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(divergence(logits(0), logits(1), temperature).double(), expected, rtol=1e-4, atol=1e-6)
    assert float(divergence(logits(0), logits(0), temperature).abs().max()) < 1e-6


def test_a_class_without_probability_adds_nothing() -> None:
    teacher = logits(0).masked_fill(torch.arange(CLASSES) == 1, -1e10)
    p = teacher.softmax(1)[:, [0, 2, 3]]
    expected = (p * (p.log() - logits(1).log_softmax(1)[:, [0, 2, 3]])).sum(1)
    torch.testing.assert_close(divergence(teacher, logits(1), 1.0), expected)


def test_a_frozen_copy_is_its_own(task: Task) -> None:
    copied = frozen(copy.deepcopy(task.model).train())
    assert not differing(copied, task.model)
    assert not any(module.training for module in copied.modules())
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in task.model.parameters())
    next(copied.parameters()).data.zero_()
    assert differing(copied, task.model)


def test_a_fresh_copy_has_forgotten_everything(task: Task) -> None:
    before, state = copy.deepcopy(task.model), torch.get_rng_state()
    fresh, again, other = (reinitialized(task.model, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert not differing(task.model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not differing(fresh, again)
    drawn = [name for name, p in task.model.named_parameters() if "norm" not in name]
    assert set(drawn) <= set(differing(fresh, task.model)) & set(differing(fresh, other))
    for name, module in fresh.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.abs().max() <= module.in_features**-0.5, name
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert not module.running_mean.any()
    correct = fresh(task.splits.retain.x).argmax(1) == task.splits.retain.labels()
    assert correct.float().mean() < 0.6


class _Token(nn.Module):
    """A weight outside every layer that could draw it anew."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.arange(40.0))


def test_a_weight_that_no_layer_draws_is_shuffled() -> None:
    fresh = reinitialized(_Token(), torch.Generator().manual_seed(0)).token
    assert not torch.equal(fresh, torch.arange(40.0))
    assert torch.equal(fresh.sort().values, torch.arange(40.0))


def test_a_model_without_a_seam_is_refused(task: Task) -> None:
    assert split_model(task.model, "LAF") is task.model
    sentence = "LAF: the model must be split into body and head, got Linear; wrap it in unlearnkit.models.Classifier"
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        split_model(nn.Linear(2, 2), "LAF")


def test_answers_are_collected_in_batches(task: Task) -> None:
    model = copy.deepcopy(task.model).train()
    answers = collect(model, model, task.splits.forget, 7)
    assert model.training
    assert not answers.requires_grad
    torch.testing.assert_close(answers, task.model(task.splits.forget.x).detach(), rtol=1e-5, atol=1e-5)
    features = collect(task.model.features, task.model, task.splits.forget, 7)
    torch.testing.assert_close(task.model.head(features), answers, rtol=1e-5, atol=1e-5)


def test_margins_are_those_that_are_observed() -> None:
    y = torch.arange(6) % CLASSES
    np.testing.assert_allclose(margins(logits(0), y).numpy(), margin(logits(0).numpy(), y.numpy()), rtol=1e-5)


def test_the_way_out_of_a_class_is_that_of_the_cross_entropy(task: Task) -> None:
    """One direction; but the cross-entropy's is lost where the model is sure."""
    x, y = pixels(task.splits.forget.x), task.splits.forget.labels()
    way = away_from(frozen(task.model), x, y).flatten(1)
    x.requires_grad_(True)
    functional.cross_entropy(task.model(x), y, reduction="sum").backward()
    cosines = functional.cosine_similarity(way, x.grad.flatten(1))
    assert cosines.min() > 0.999
    assert all(p.grad is None for p in frozen(task.model).parameters())

    sure = nn.Linear(2, 2, bias=False)
    sure.weight.data = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    point = torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(away_from(sure, point, torch.tensor([0])), torch.tensor([[-200.0, 200.0]]))
    point.requires_grad_(True)
    functional.cross_entropy(sure(point), torch.tensor([0])).backward()
    assert not point.grad.any()


def test_pixels_and_their_bounds() -> None:
    image = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    torch.testing.assert_close(pixels(image), torch.tensor([[0.0, 0.2, 1.0]]))
    moved = torch.tensor([[-0.5, 0.5, 1.5]])
    assert pixels(moved) is moved
    torch.testing.assert_close(within_box(moved, image), torch.tensor([[0.0, 0.5, 1.0]]))
    assert within_box(moved, moved) is moved


class _AlwaysBy255(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()[:, :2] / 255


def test_a_model_that_scales_whatever_it_is_given_is_refused(task: Task) -> None:
    check_pixels(task.model, task.splits.forget, "AMUN")
    model = nn.Sequential(_AlwaysBy255(), nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"^AMUN: the model must answer alike to an image as uint8 and as numbers in "):
        check_pixels(model, task.splits.forget, "AMUN")
    numbers = Examples(torch.rand(3, 4), None, np.arange(3).astype(str))
    check_pixels(model, numbers, "AMUN")
