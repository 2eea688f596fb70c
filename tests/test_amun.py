"""AMUN: adversarial examples inside their ball and wrongly answered, and what is trained on."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, differing, loss_on, run
from torch import nn
from torch.nn import functional

from unlearnkit.methods.amun import AMUN, adversaries, ascend
from unlearnkit.methods.distill import frozen, pixels
from unlearnkit.methods.steps import count_classes
from unlearnkit.result import UsageError
from unlearnkit.train import train_mode
from unlearnkit.types import Examples, Need

task = test_methods.task

SMALL = AMUN(epochs=2, attack_steps=10, batch_size=32)


@pytest.mark.parametrize("epsilon", [0.04, 0.5])
def test_adversarial_examples_lie_in_ball_and_box_and_are_wrong(task: Task, epsilon: float) -> None:
    forget = task.splits.forget
    found = adversaries(task.model, forget, epsilon=epsilon, attack_steps=20, batch_size=7)
    distance = (found.x - pixels(forget.x)).flatten(1).norm(dim=1)
    assert (distance <= found.radius * (1 + 1e-5)).all()
    assert found.x.min() >= 0
    assert found.x.max() <= 1
    assert (found.y != forget.labels()).all()
    assert torch.equal(task.model(found.x).argmax(1), found.y)
    doublings = torch.log2(found.radius / epsilon)
    torch.testing.assert_close(doublings, doublings.round(), rtol=0, atol=1e-5)
    late = torch.nonzero(doublings.round() > 0).flatten()
    y = forget.labels()[late]  # in the ball before, the same search found nothing
    before = ascend(frozen(task.model), pixels(forget.x)[late], y, found.radius[late] / 2, 20, forget.x)
    assert torch.equal(task.model(before).argmax(1), y)


def test_the_radius_of_a_linear_model_is_within_a_factor_of_two() -> None:
    """The boundary lies at |margin| / ‖w_0 − w_1‖, and the way there is straight."""
    model = nn.Linear(5, 2)
    rng = torch.Generator().manual_seed(0)
    model.weight.data, model.bias.data = torch.randn(2, 5, generator=rng), torch.zeros(2)
    x = 3 * torch.randn(30, 5, generator=rng)
    y = model(x).argmax(1)
    found = adversaries(model, Examples(x, y, np.arange(30).astype(str)), epsilon=1e-3, attack_steps=12, batch_size=8)
    margin = (model(x)[:, 0] - model(x)[:, 1]).abs()
    exact = (margin / (model.weight[0] - model.weight[1]).norm()).detach()
    assert (found.radius >= exact * (1 - 1e-4)).all()
    assert (found.radius <= 2 * exact * (1 + 1e-4)).all()
    assert torch.equal(found.y, 1 - y)


@pytest.mark.parametrize(("steps", "share"), [(1, 0.1), (3, 0.3), (10, 1.0), (25, 1.0)])
def test_a_step_is_a_tenth_of_the_radius_and_the_ball_ends_the_way(steps: int, share: float) -> None:
    model = nn.Linear(5, 2)
    x = torch.zeros(2, 5)
    found = ascend(model, x, torch.tensor([0, 1]), torch.tensor([2.0, 0.5]), steps, x)
    torch.testing.assert_close(found.norm(dim=1), share * torch.tensor([2.0, 0.5]))


def test_what_is_wrong_already_stays_in_the_first_ball(task: Task) -> None:
    x = task.splits.test.x
    wrong = (task.model(x).argmax(1) + 1) % CLASSES
    found = adversaries(task.model, replace(task.splits.test, y=wrong), epsilon=0.04, attack_steps=5, batch_size=32)
    assert torch.equal(found.radius, torch.full((80,), 0.04))


def test_some_are_searched_first_and_tell_the_others_where_to_begin() -> None:
    """Of a linear model, whose boundary is at a known distance: no ball is smaller than the others' first one."""
    model = nn.Linear(5, 2)
    rng = torch.Generator().manual_seed(0)
    model.weight.data, model.bias.data = torch.randn(2, 5, generator=rng), torch.zeros(2)
    x = 3 * torch.randn(40, 5, generator=rng)
    examples = Examples(x, model(x).argmax(1), np.arange(40).astype(str))
    method = AMUN(epsilon=0.02, attack_steps=12, probes=20, batch_size=64)
    found = method._search(model, examples, torch.Generator().manual_seed(1))
    alone = adversaries(model, examples, epsilon=0.02, attack_steps=12, batch_size=64)
    drawn = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    probe, rest = drawn[:20], drawn[20:]
    for name in ("x", "y", "radius"):
        assert torch.equal(getattr(found, name)[probe], getattr(alone, name)[probe])
    start = alone.radius[probe].sort().values[2]
    assert start > 0.02
    assert torch.equal(found.radius[rest], alone.radius[rest].clamp(min=start))
    far = alone.radius > start  # found on the same way as by the search from the beginning
    torch.testing.assert_close(found.x[far], alone.x[far])
    assert torch.equal(found.y, 1 - examples.labels())
    everything = replace(method, probes=40)._search(model, examples, torch.Generator())
    assert torch.equal(everything.x, alone.x)


def test_a_model_that_always_answers_alike_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.weight.data.zero_()
    model.bias.data = torch.tensor([1.0, 0.0])
    points = Examples(torch.ones(3, 2), torch.tensor([1, 0, 0]), np.array(["a", "b", "c"]))
    with pytest.raises(
        UsageError,
        match=r"^AMUN\.epsilon: the model answers 'b' alike at every distance up to 1\.05e\+06; there is no ",
    ):
        adversaries(model, points, epsilon=1.0, attack_steps=2, batch_size=8)


@pytest.mark.parametrize("use_retain", [True, False])
def test_one_epoch_is_written_out_by_hand(task: Task, use_retain: bool) -> None:
    """All three sets in one batch: adversarial examples with wrong labels, the others with their true ones."""
    method = replace(SMALL, epochs=1, batch_size=512, use_retain=use_retain)
    splits, model = task.splits, copy.deepcopy(task.model)
    found = adversaries(task.model, splits.forget, epsilon=0.04, attack_steps=10, batch_size=512)
    parts = [splits.forget, *([splits.retain] if use_retain else [])]
    x = torch.cat([found.x, *(pixels(part.x) for part in parts)])
    y = torch.cat([found.y, *(part.labels() for part in parts)])
    train_mode(model, len(x), 512)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        count_classes(copy.deepcopy(model).eval(), splits.forget)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        # the batch is put together part by part, which dropout sees
        order = torch.cat([order[order < 24], order[(order >= 24) & (order < 48)], order[order >= 48]])
        functional.cross_entropy(model(x[order]), y[order]).backward()
    result = dict(run(task, method).named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(result[name], p - 0.01 * (p.grad + 5e-4 * p), rtol=1e-4, atol=1e-6)


def test_without_the_retain_set_it_is_never_read(task: Task) -> None:
    assert AMUN().needs == Need.FORGET | Need.RETAIN
    method = replace(SMALL, use_retain=False)
    assert method.needs == Need.FORGET
    few = replace(task.splits, retain=task.splits.retain.take(np.arange(30)))
    assert not differing(run(task, method, splits=few), run(task, method))


def test_it_learns_its_wrong_answers_beside_the_right_ones(task: Task) -> None:
    forget = task.splits.forget
    found = adversaries(task.model, forget, epsilon=0.04, attack_steps=10, batch_size=32)
    result = run(task, replace(SMALL, epochs=5, decay_every=5, lr=0.02))
    answered = Examples(found.x, found.y, forget.ids)
    assert loss_on(result, answered) < 0.9 * loss_on(task.model, answered)
    right = result(task.splits.retain.x).argmax(1) == task.splits.retain.labels()
    assert right.float().mean() > 0.9


def test_the_learning_rate_falls_to_a_tenth(task: Task) -> None:
    """With a rate that decays at once, the second epoch moves a tenth as far: about nothing beside the first."""

    def path(method: AMUN) -> float:
        result = dict(run(task, method).named_parameters())
        return math.sqrt(
            sum(float((result[name] - p).detach().square().sum()) for name, p in task.model.named_parameters())
        )

    plain = replace(SMALL, momentum=0.0, lr=1e-3)
    one, falling, steady = (
        path(replace(plain, epochs=1)),
        path(replace(plain, epochs=2, decay_every=1)),
        path(replace(plain, epochs=2, decay_every=2)),
    )
    assert one < falling < 1.2 * one < steady


def test_hyperparameters_are_checked() -> None:
    with pytest.raises(UsageError, match=r"^AMUN\.epsilon: must be greater than 0, got 0\.0$"):
        AMUN(epsilon=0.0)
