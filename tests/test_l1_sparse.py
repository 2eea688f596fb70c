"""L1Sparse against FineTune, and against its update written out by hand."""

from __future__ import annotations

import copy

import pytest
import test_methods as shared
import torch
from test_methods import Task, differing, run
from torch.nn import functional

from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.l1_sparse import L1Sparse
from unlearnkit.result import UsageError

task = shared.task


def test_without_penalty_it_is_finetune(task: Task) -> None:
    common = {"epochs": 2, "lr": 0.05, "batch_size": 32, "augment": "flip"}
    assert not differing(run(task, L1Sparse(alpha=0.0, **common)), run(task, FineTune(**common)))


def test_the_penalty_falls_linearly_and_holds_for_every_weight(task: Task) -> None:
    """θ ← θ − η(∂CE + γ_t sign θ) with γ = α, then α/2; full batches without momentum and decay."""
    model = copy.deepcopy(task.model)
    retain = task.splits.retain
    model.train()
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for gamma in (0.01, 0.005):
            order = torch.randperm(len(retain), generator=rng)
            model.zero_grad()
            functional.cross_entropy(model(retain.x[order]), retain.labels()[order]).backward()
            for p in model.parameters():
                p.data -= 0.05 * (p.grad + gamma * p.data.sign())
    method = L1Sparse(epochs=2, lr=0.05, alpha=0.01, momentum=0.0, weight_decay=0.0, batch_size=256)
    result = run(task, method).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-5)


def test_the_weights_get_smaller(task: Task) -> None:
    sizes = [
        float(
            sum(p.detach().abs().sum() for p in run(task, L1Sparse(epochs=3, alpha=alpha, batch_size=32)).parameters())
        )
        for alpha in (0.0, 1e-3, 1e-2)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^L1Sparse.alpha: must be greater than or equal to 0, got -1.0$"):
        L1Sparse(alpha=-1.0)
