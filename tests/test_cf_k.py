"""CFk: which blocks a model has, that the first of them stay bit for bit, and that all of them are FineTune."""

from __future__ import annotations

import pytest
import test_methods as shared
import torch
from test_methods import CLASSES, Task, differing, run
from torch import Tensor, nn

from unlearnkit.methods.cf_k import CFk, last_blocks
from unlearnkit.methods.finetune import FineTune
from unlearnkit.models import Architecture, build, seeded
from unlearnkit.result import UsageError
from unlearnkit.unlearning import unlearn

task = shared.task


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [
        ("mlp", 1, ["head"]),
        ("mlp", 2, ["body.1", "head"]),
        ("small-cnn", 2, ["body.7", "body.8", "head"]),  # the linear layer with its LayerNorm
        ("small-cnn", 4, ["body.0", "body.3", "body.7", "body.8", "head"]),
        ("resnet18-cifar", 2, ["body.layer4", "head"]),
        ("resnet18-cifar", 6, ["body.conv1", "body.bn1", *(f"body.layer{i}" for i in (1, 2, 3, 4)), "head"]),
    ],
)
def test_the_blocks_of_our_architectures(name: str, k: int, expected: list[str]) -> None:
    model = build(Architecture(name, CLASSES, (1, 8, 8)), seed=0)
    assert list(last_blocks(model, k, what="CFk")) == expected


def test_the_blocks_of_any_network() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert list(last_blocks(inner, 2, what="CFk")) == ["0", "2", "3"]
    assert list(last_blocks(nn.Sequential(nn.Flatten(), inner), 1, what="CFk")) == ["1.3"]  # a wrapper is opened
    assert list(last_blocks(nn.Linear(4, 2), 1, what="CFk")) == [""]


def test_more_blocks_than_there_are(task: Task) -> None:
    with pytest.raises(UsageError, match=r"^CFk.k: must be at most \d, the blocks of this model, got 9$"):
        run(task, CFk(k=9))


def test_the_first_blocks_stay_with_their_statistics(task: Task) -> None:
    result = run(task, CFk(k=1, epochs=2, lr=0.05, batch_size=32))
    moved = differing(result, task.model)
    assert moved == ["head.weight", "head.bias"]


def test_the_last_blocks_move_with_their_statistics(task: Task) -> None:
    """Two blocks of the batch-norm net: the hidden layer with its normalization, and the head."""
    if not hasattr(task.model.body, "hidden_norm"):
        return
    moved = differing(run(task, CFk(k=2, epochs=2, lr=0.05, batch_size=32)), task.model)
    assert {name.rpartition(".")[0] for name in moved} == {"body.hidden", "body.hidden_norm", "head"}
    assert "body.hidden_norm.running_mean" in moved


def test_on_all_blocks_it_is_finetune(task: Task) -> None:
    common = {"epochs": 2, "lr": 0.05, "batch_size": 32, "augment": "flip"}
    k = 3 if hasattr(task.model.body, "hidden_norm") else 2
    assert not differing(run(task, CFk(k=k, **common)), run(task, FineTune(**common)))


class _Shifted(nn.Module):
    """A parameter of its own, as a position embedding, beside two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(64))
        self.first = nn.Linear(64, 6)
        self.last = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1) / 255 + self.shift))


def test_a_parameter_of_the_network_itself_stays_and_its_last_block_trains(task: Task) -> None:
    with seeded(0):
        model = _Shifted().eval()
    result = unlearn(model, task.splits, CFk(k=1, epochs=1), seed=0).model
    assert {name.partition(".")[0] for name in differing(result, model)} == {"last"}
    assert not torch.equal(result.last[0].running_mean, model.last[0].running_mean)
