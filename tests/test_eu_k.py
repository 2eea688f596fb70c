"""EUk: fresh weights in the last blocks, the first untouched, and the budget of the recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import test_methods as shared
import torch
from test_methods import CLASSES, SHAPE, Task, access, differing, loss_on, run

from unlearnkit.methods.cf_k import CFk
from unlearnkit.methods.eu_k import EUk
from unlearnkit.models import Architecture, build
from unlearnkit.result import UsageError

task = shared.task


def test_the_last_block_begins_afresh_and_the_first_stay(task: Task) -> None:
    """At a learning rate of next to nothing the head is that of a fresh model, once drawn from the generator."""
    result = run(task, EUk(k=1, epochs=2, lr=1e-30), seed=7)
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(7)))
    fresh = build(task.recipe.architecture, seed=seed)
    assert differing(result, task.model) == ["head.weight", "head.bias"]
    assert torch.equal(result.head.weight, fresh.head.weight)


def test_it_is_cf_k_from_fresh_weights(task: Task) -> None:
    settings = {"k": 1, "epochs": 2, "lr": 0.05, "batch_size": 32}
    rng = torch.Generator().manual_seed(0)
    model = build(task.recipe.architecture, seed=int(torch.randint(2**31, (), generator=rng)))
    model.load_state_dict({**task.model.state_dict(), **model.head.state_dict(prefix="head.")})
    method = CFk(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = method.run(model, access(task, method), rng)
    assert not differing(run(task, EUk(**settings)), expected)


def test_it_trains_as_long_as_the_recipe_says(task: Task) -> None:
    settings = {"k": 1, "batch_size": 32}
    as_long = EUk(epochs=task.recipe.epochs, **settings)
    assert not differing(run(task, EUk(epochs=None, **settings)), run(task, as_long))
    assert differing(run(task, EUk(**settings)), run(task, as_long))  # the default is shorter than the paper's budget


def test_the_fresh_blocks_learn(task: Task) -> None:
    result = run(task, EUk(k=1, epochs=20, lr=0.05, batch_size=32))
    assert loss_on(result, task.splits.retain) < 0.5 * loss_on(run(task, EUk(k=1, lr=1e-30)), task.splits.retain)


def test_a_recipe_of_another_architecture_is_refused(task: Task) -> None:
    other = replace(task, recipe=replace(task.recipe, architecture=Architecture("small-cnn", CLASSES, SHAPE)))
    with pytest.raises(UsageError, match=r"^EUk: the recipe's architecture 'small-cnn' has no '.*' like the model's"):
        run(other, EUk(k=1))
