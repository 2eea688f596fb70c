"""SalUnSoft: the threshold itself, and its two ends, RandomLabel and the original."""

from __future__ import annotations

import math

import pytest
import test_methods as shared
import torch
from test_methods import Task, differing, run

from unlearnkit.methods.random_label import RandomLabel
from unlearnkit.methods.salun_soft import SalUnSoft, pulled_back
from unlearnkit.methods.steps import flat
from unlearnkit.result import UsageError

task = shared.task


def test_the_threshold_is_the_proximal_step() -> None:
    """θ_o + sign(δ) · max(|δ| − t, 0), t being the third largest |δ| of five."""
    anchor = torch.tensor([1.0, -1.0, 0.0, 2.0, 0.5])
    moved = torch.tensor([0.1, -0.4, 0.3, 0.0, -0.2])
    expected = anchor + torch.tensor([0.0, -0.2, 0.1, 0.0, 0.0])
    torch.testing.assert_close(pulled_back(anchor + moved, anchor, 0.4), expected)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.9, 1.0])
def test_no_more_weights_move_than_asked_for(fraction: float) -> None:
    rng = torch.Generator().manual_seed(0)
    anchor, moved = torch.randn(100, generator=rng), torch.randn(100, generator=rng)
    pulled = pulled_back(anchor + moved, anchor, fraction)
    assert int((pulled != anchor).sum()) == math.floor(round(fraction * 100))
    assert torch.equal(pulled_back(anchor, anchor, fraction), anchor)  # all tied at zero


def test_the_model_keeps_to_the_fraction(task: Task) -> None:
    result = run(task, SalUnSoft(fraction=0.3, epochs=3, lr=0.1, batch_size=32))
    before, after = flat(task.model), flat(result)
    assert 0 < int((after != before).sum()) <= math.floor(0.3 * len(before))


@pytest.mark.parametrize("legacy", [False, True])
def test_on_all_weights_it_is_random_label(task: Task, legacy: bool) -> None:
    common = {"epochs": 2, "lr": 0.02, "batch_size": 32, "alpha": 0.5, "augment": "flip", "legacy": legacy}
    assert not differing(run(task, SalUnSoft(fraction=1.0, **common)), run(task, RandomLabel(**common)))


def test_a_fraction_that_lets_no_weight_move_is_refused(task: Task) -> None:
    with pytest.raises(UsageError, match=r"^SalUnSoft\.fraction: 1e-07 of [\d,]+ weights selects none of them; choose"):
        run(task, SalUnSoft(fraction=1e-7))


def test_a_fraction_above_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^SalUnSoft.fraction: must be less than or equal to 1, got 1.5$"):
        SalUnSoft(fraction=1.5)
