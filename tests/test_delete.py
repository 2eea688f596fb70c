"""DELETE: its target in closed form, the way there, and what it does not touch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, differing, loss_on, run
from torch import nn
from torch.nn import functional

from unlearnkit.methods.delete import DELETE, without_class
from unlearnkit.result import UsageError
from unlearnkit.types import Access, Examples, Need

task = test_methods.task


def table(n: int) -> tuple[nn.Module, Examples]:
    """A model that is a table of logits, one row for each of n examples."""
    model = nn.Linear(n, CLASSES, bias=False)
    model.weight.data = 2 * torch.randn(CLASSES, n, generator=torch.Generator().manual_seed(0))
    return model, Examples(torch.eye(n), torch.arange(n) % CLASSES, np.arange(n).astype(str))


def target(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The other classes share what the true one had, in the proportions they had."""
    p = logits.softmax(1).masked_fill(functional.one_hot(y, CLASSES).bool(), 0)
    return p / p.sum(1, keepdim=True)


def forgotten(method: DELETE, model: nn.Module, examples: Examples) -> nn.Module:
    access = Access(method.needs, method.name, examples, examples)
    return method.run(model, access, torch.Generator().manual_seed(0))


def test_the_true_class_is_taken_out_of_the_answer() -> None:
    model, examples = table(8)
    masked = without_class(model(examples.x), examples.labels()).softmax(1)
    torch.testing.assert_close(masked, target(model(examples.x), examples.labels()))
    assert not masked[torch.arange(8), examples.labels()].any()


def test_the_first_step_is_the_difference_of_the_answers() -> None:
    """∂KL/∂z = softmax(z) − target."""
    model, examples = table(8)
    z = model(examples.x).detach()
    method = DELETE(epochs=1, lr=0.8, batch_size=8)
    result = forgotten(method, model, examples)
    expected = z - 0.8 * (z.softmax(1) - target(z, examples.labels())) / 8
    torch.testing.assert_close(result(examples.x), expected, rtol=1e-5, atol=1e-5)


def test_in_the_end_it_answers_as_the_original_without_the_class() -> None:
    model, examples = table(8)
    expected = target(model(examples.x).detach(), examples.labels())
    result = forgotten(DELETE(epochs=800, lr=1.0), model, examples)
    torch.testing.assert_close(result(examples.x).softmax(1), expected, rtol=0, atol=0.02)


def test_it_forgets_and_keeps_the_statistics(task: Task) -> None:
    result = run(task, DELETE(epochs=10, lr=1e-2, batch_size=8))
    forget = task.splits.forget
    assert loss_on(result, forget) > 2 * loss_on(task.model, forget)
    assert not [name for name in differing(result, task.model) if "running" in name or "num_batches" in name]
    others = without_class(task.model(forget.x).detach(), forget.labels()).argmax(1)
    answers = result(forget.x).argmax(1)
    wrong = answers != forget.labels()
    assert (answers == others)[wrong].float().mean() > 0.5  # where it is wrong, it gives the second best answer


def test_the_retain_set_is_never_read(task: Task) -> None:
    assert DELETE.needs == Need.FORGET
    few = replace(task.splits, retain=task.splits.retain.take(np.arange(30)))
    assert not differing(run(task, DELETE(), splits=few), run(task, DELETE()))


def test_wrong_use_is_said() -> None:
    with pytest.raises(UsageError, match=r"^DELETE\.epochs: must be greater than or equal to 1, got 0$"):
        DELETE(epochs=0)
    one = Examples(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), np.array(["a", "b"]))
    with pytest.raises(UsageError, match=r"^the model must tell at least 2 classes apart, got 1$"):
        forgotten(DELETE(), nn.Linear(3, 1), one)
