"""SSD: importance in closed form, what dampening may and may not do, and the ends where nothing changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import test_methods as shared
import torch
from test_methods import Task, differing, run
from torch import nn

from unlearnkit.methods.ssd import SSD, dampened
from unlearnkit.methods.steps import flat
from unlearnkit.result import UsageError
from unlearnkit.types import Examples, Need

task = shared.task


def linear_problem() -> tuple[nn.Linear, Examples, Examples]:
    rng = torch.Generator().manual_seed(0)
    model = nn.utils.skip_init(nn.Linear, 4, 3, dtype=torch.float64)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=rng, dtype=torch.float64)
    x = torch.randn(10, 4, generator=rng, dtype=torch.float64)
    examples = Examples(x, torch.arange(10) % 3, np.arange(10).astype(str))
    return model, examples.take(np.arange(4)), examples.take(np.arange(4, 10))


def test_importance_of_single_examples_in_closed_form() -> None:
    """With batches of one, the mean of (p_c − 1[y = c])² x_d²."""
    model, *parts = linear_problem()
    x, y = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y"))
    pull = (model(x).softmax(1) - nn.functional.one_hot(y, 3)).square().detach()
    expected = torch.cat([(pull.T @ x.square() / 10).flatten(), pull.mean(0)])
    rng = torch.Generator().manual_seed(0)
    torch.testing.assert_close(SSD(batch_size=1).importance(model, tuple(parts), 10, rng), expected)


def test_importance_averages_a_batch_before_it_squares() -> None:
    model, *parts = linear_problem()
    x, y = parts[0].x, parts[0].labels()
    pull = (model(x).softmax(1) - nn.functional.one_hot(y, 3)).detach()
    expected = torch.cat([(pull.T @ x / 4).flatten(), pull.mean(0)]).square()
    rng = torch.Generator().manual_seed(0)
    torch.testing.assert_close(SSD(batch_size=4).importance(model, tuple(parts), 4, rng), expected)


def test_label_free_importance_in_closed_form() -> None:
    """|2 · mean of z_c x_d|, labels not looked at."""
    model, *parts = linear_problem()
    z, x = model(parts[0].x).detach(), parts[0].x
    expected = torch.cat([(2 * z.T @ x / 4).flatten(), 2 * z.mean(0)]).abs()
    blind = tuple(part.without_labels() for part in parts)
    method = SSD(batch_size=4, label_free=True)
    assert method.needs == Need.FORGET_INPUTS | Need.RETAIN_INPUTS
    torch.testing.assert_close(method.importance(model, blind, 4, torch.Generator().manual_seed(0)), expected)


def test_dampening_by_hand() -> None:
    weights = torch.tensor([1.0, -2.0, 3.0, 4.0, 5.0])
    forgotten = torch.tensor([8.0, 4.0, 1.0, 0.0, 3.0])
    everything = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(
        dampened(weights, forgotten, everything, alpha=2.0, dampening=2.0), torch.tensor([0.25, -1.0, 3.0, 4.0, 0.0])
    )


def test_weights_only_shrink(task: Task) -> None:
    before, after = flat(task.model), flat(run(task, SSD(alpha=0.5, dampening=0.3, batch_size=8)))
    assert (after != before).any()
    assert (after.abs() <= before.abs()).all()
    assert (after * before >= 0).all()


@pytest.mark.parametrize("method", [SSD(alpha=1e30), SSD(alpha=0.5, dampening=1e30)], ids=["alpha", "dampening"])
def test_its_ends_are_the_original(task: Task, method: SSD) -> None:
    assert not differing(run(task, method), task.model)


def test_to_forget_everything_selects_nothing(task: Task) -> None:
    parts = (task.splits.forget, task.splits.retain)
    model = copy.deepcopy(task.model)
    one, other = (SSD().importance(model, parts, 200, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(dampened(flat(model), one, other, alpha=1.0, dampening=1.0), flat(model))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^SSD.alpha: must be greater than 0, got 0.0$"):
        SSD(alpha=0.0)
