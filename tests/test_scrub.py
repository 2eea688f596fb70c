"""SCRUB: its passes, its start, its degenerate settings, and the way back."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, blobs, differing, loss_on, run
from torch import nn
from torch.nn import functional

from unlearnkit.methods.distill import divergence
from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.scrub import SCRUB, error, like
from unlearnkit.result import UsageError
from unlearnkit.train import train_mode
from unlearnkit.types import Examples, Need, Splits
from unlearnkit.unlearning import unlearn

task = test_methods.task


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def far(task: Task, result: nn.Module, examples: Examples) -> float:
    with torch.no_grad():
        return float(divergence(task.model(examples.x), result(examples.x), 4.0).mean())


def forgetting(task: Task, others: int) -> Splits:
    """The request to forget all of class 0 and some of class 1."""
    train = blobs(200, 0, "train")
    y = train.labels().numpy()
    mask = (y == 0) | (np.arange(200) < CLASSES * others) & (y == 1)
    return replace(task.splits, forget=train.take(mask), retain=train.take(~mask))


def test_without_teacher_and_forget_passes_it_is_fine_tuning(task: Task) -> None:
    shared = {"epochs": 2, "lr": 0.05, "batch_size": 32, "augment": "flip"}
    method = SCRUB(max_epochs=0, alpha=0.0, gamma=1.0, decay_epoch=9, **shared)
    assert not differing(run(task, method), run(task, FineTune(**shared)))


def test_distillation_alone_stays_at_the_teacher(task: Task) -> None:
    """A student that is told to answer as it does already has nothing to learn."""
    if has_batch_norm(task.model):
        return  # in train mode it does not answer as it does in eval mode
    distill = SCRUB(max_epochs=0, alpha=1.0, gamma=0.0, weight_decay=0.0, lr=0.1)
    result = run(task, distill)
    for name, value in task.model.state_dict().items():
        torch.testing.assert_close(result.state_dict()[name], value, rtol=0, atol=1e-5)
    spoiled = copy.deepcopy(task.model)
    spoiled.head.weight.data.zero_()
    other = replace(task, model=spoiled)
    assert far(other, run(other, distill), task.splits.forget) < 1e-6  # to its own teacher, whatever that is


def test_the_start_is_stationary_without_a_nudge(task: Task) -> None:
    if has_batch_norm(task.model):
        return
    method = SCRUB(epochs=1, max_epochs=1, gamma=0.0, alpha=0.0, weight_decay=0.0, lr=0.1, nudge=0.0)
    assert far(task, run(task, method), task.splits.forget) < 1e-6
    assert far(task, run(task, replace(method, nudge=1e-4)), task.splits.forget) > 1e-6


def test_the_nudge_has_the_size_it_was_given(task: Task) -> None:
    still = SCRUB(epochs=1, max_epochs=1, lr=1e-12, nudge=0.01)
    result = dict(run(task, still).named_parameters())
    moved = torch.cat([(result[name] - p).detach().flatten() for name, p in task.model.named_parameters()])
    assert moved.std() == pytest.approx(0.01, rel=0.05)
    assert abs(moved.mean()) < 5e-4
    result = dict(run(task, replace(still, max_epochs=0)).named_parameters())
    moved = torch.cat([(result[name] - p).detach().flatten() for name, p in task.model.named_parameters()])
    assert moved.abs().max() < 1e-6


def test_one_epoch_is_written_out_by_hand(task: Task) -> None:
    method = SCRUB(epochs=1, max_epochs=1, lr=0.01, gamma=0.9, alpha=0.3, batch_size=256, forget_batch_size=256)
    splits, model = task.splits, copy.deepcopy(task.model)
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in model.parameters():
            p.data += 1e-4 * torch.randn(p.shape, generator=rng)
        speed = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for part in (splits.forget, splits.retain):
            train_mode(model, len(part), 256)
            order = torch.randperm(len(part), generator=rng)
            x, y = part.x[order], part.labels()[order]
            z = model(x)
            p, q = (task.model(x).detach() / 4).softmax(1), (z / 4).log_softmax(1)
            distance = 16 * (p * (p.log() - q)).sum(1).mean()
            loss = -distance if part is splits.forget else 0.9 * functional.cross_entropy(z, y) + 0.3 * distance
            model.zero_grad()
            loss.backward()
            for name, weight in model.named_parameters():
                speed[name] = 0.9 * speed[name] + weight.grad + 5e-4 * weight.detach()
                weight.data -= 0.01 * speed[name]
    result = run(task, method).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-5)


def test_it_leaves_the_teacher_on_the_forget_set_and_keeps_the_retain_set(task: Task) -> None:
    splits = forgetting(task, 0)
    result = run(task, SCRUB(epochs=6, max_epochs=4, lr=0.01, batch_size=32, decay_epoch=9), splits=splits)
    assert far(task, result, splits.forget) > 2 * far(task, result, splits.retain)
    assert loss_on(result, splits.forget) > loss_on(task.model, splits.forget)
    assert error(result, splits.retain, 64) < 0.1


def test_the_forget_labels_are_not_seen(task: Task) -> None:
    assert Need.FORGET_LABELS not in SCRUB().needs
    wrong = replace(task.splits.forget, y=(task.splits.forget.labels() + 1) % CLASSES)
    method = SCRUB(lr=0.01)
    assert not differing(run(task, method, splits=replace(task.splits, forget=wrong)), run(task, method))


def test_the_learning_rate_falls_to_a_tenth(task: Task) -> None:
    method = SCRUB(epochs=2, lr=0.1)
    assert not differing(run(task, replace(method, decay_epoch=1)), run(task, replace(method, lr=0.01, decay_epoch=3)))
    late, never = run(task, replace(method, decay_epoch=2)), run(task, replace(method, decay_epoch=3))
    assert differing(late, never)


@pytest.mark.parametrize("others", [0, 10])
def test_rewinding_takes_the_epoch_whose_forget_error_is_nearest(task: Task, others: int) -> None:
    """Against the students of shorter runs. Of class 0 nothing is left in the end; of class 1 half is unseen."""
    splits, unseen = forgetting(task, others), blobs(40, 5, "unseen")
    method = SCRUB(epochs=6, max_epochs=3, lr=0.02, decay_epoch=9, nudge=1e-3)
    students = [run(task, replace(method, epochs=epochs), splits=splits) for epochs in range(1, 7)]
    target = error(students[-1], like(unseen, splits.forget), 64)
    gaps = [abs(error(student, splits.forget, 64) - target) for student in students]
    chosen = max(epoch for epoch, gap in enumerate(gaps) if gap == min(gaps))
    assert (chosen == 5) == (not others)
    result = unlearn(task.model, splits, replace(method, rewind=True), seed=0, unseen=unseen)
    assert not differing(result.model, students[chosen])
    assert "unseen" in result.saw


def test_rewinding_compares_with_unseen_examples_of_the_same_classes(task: Task) -> None:
    with pytest.raises(UsageError, match=r"^SCRUB needs unseen; grant it with unlearn\(\.\.\., unseen="):
        unlearn(task.model, task.splits, SCRUB(rewind=True), seed=0)
    forget = task.splits.forget.take(np.array([0, 1, 4, 5]))  # of classes 0 and 1
    assert set(like(task.splits.test, forget).labels().tolist()) == {0, 1}
    other = task.splits.test.take(task.splits.test.labels().numpy() > 1)
    with pytest.raises(UsageError, match=r"^SCRUB\.rewind: the unseen examples must hold some of the classes to forg"):
        like(other, forget)


def test_hyperparameters_are_checked() -> None:
    with pytest.raises(UsageError, match=r"^SCRUB\.max_epochs: must be greater than or equal to 0, got -1$"):
        SCRUB(max_epochs=-1)
    with pytest.raises(UsageError, match=r"^SCRUB\.temperature: must be greater than 0, got 0\.0$"):
        SCRUB(temperature=0.0)


def test_by_default_the_learning_rate_never_falls(task: Task) -> None:
    """The published schedule lowers it after epoch 3, and the published settings end there."""
    method = SCRUB(lr=0.1)
    assert not differing(run(task, method), run(task, replace(method, decay_epoch=9)))
    assert differing(run(task, replace(method, epochs=4)), run(task, replace(method, epochs=4, decay_epoch=9)))
