"""BadTeacher: whom the student listens to, on what, and that no label is read."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, differing, run
from torch import Tensor, nn

from unlearnkit.methods.bad_teacher import BadTeacher
from unlearnkit.methods.distill import divergence, reinitialized
from unlearnkit.result import UsageError
from unlearnkit.types import Examples, Need

task = test_methods.task


def test_one_step_is_written_out_by_hand(task: Task) -> None:
    method = BadTeacher(epochs=1, lr=0.01, retain_share=1.0, temperature=2.0)
    model = copy.deepcopy(task.model)
    rng = torch.Generator().manual_seed(0)
    fresh = reinitialized(task.model, rng)
    forget, retain = task.splits.forget.x, task.splits.retain.x
    p = torch.cat([(fresh(forget) / 2).softmax(1), (task.model(retain) / 2).softmax(1)]).detach()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    (4 * (p * (p.log() - (model(torch.cat([forget, retain])) / 2).log_softmax(1))).sum(1).mean()).backward()
    optimizer.step()
    result = run(task, method)
    close = [
        (result.state_dict()[name] - value).abs() < 1e-3 for name, value in model.named_parameters()
    ]  # Adam's first step is a sign, which rounding decides where the gradient vanishes
    assert torch.cat([part.flatten() for part in close]).float().mean() > 0.98


def test_the_student_nears_the_bad_teacher_and_stays_with_the_good_one(task: Task) -> None:
    fresh = reinitialized(task.model, torch.Generator().manual_seed(0))
    result = run(task, BadTeacher(epochs=10, lr=3e-3, batch_size=32))

    def far(teacher: nn.Module, student: nn.Module, examples: Examples) -> float:
        with torch.no_grad():
            return float(divergence(teacher(examples.x), student(examples.x), 1.0).mean())

    forget, retain = task.splits.forget, task.splits.retain
    assert far(fresh, result, forget) < 0.5 * far(fresh, task.model, forget)
    assert far(task.model, result, retain) < far(fresh, result, retain)


def test_no_label_is_read(task: Task) -> None:
    assert BadTeacher.needs == Need.FORGET_INPUTS | Need.RETAIN_INPUTS
    wrong = {
        part: replace(getattr(task.splits, part), y=(getattr(task.splits, part).labels() + 1) % CLASSES)
        for part in ("forget", "retain")
    }
    assert not differing(run(task, BadTeacher(), splits=replace(task.splits, **wrong)), run(task, BadTeacher()))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_only_the_drawn_part_of_the_retain_set_is_looked_at(task: Task, share: float) -> None:
    seen: list[set[bytes]] = []
    model = copy.deepcopy(task.model)
    model.register_forward_pre_hook(lambda _, given: seen[-1].update(bytes(x.numpy().data) for x in given[0]))
    for seed in (0, 1):
        seen.append(set())
        run(replace(task, model=model), BadTeacher(epochs=3, retain_share=share, batch_size=32), seed)
        assert len(seen[-1]) == 24 + math.ceil(share * 176)
    assert (seen[0] != seen[1]) == (0 < share < 1)


def test_running_statistics_stay(task: Task) -> None:
    moved = differing(run(task, BadTeacher()), task.model)
    assert moved
    assert not [name for name in moved if "running" in name or "num_batches" in name]


class _Picky(nn.Module):
    """A net that cannot take a batch of none, as any that flattens by `view(n, -1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.float().view(len(x), -1) / 255)


def test_a_batch_of_one_set_alone_asks_one_teacher(task: Task) -> None:
    run(replace(task, model=_Picky()), BadTeacher(batch_size=2))


def test_hyperparameters_are_checked() -> None:
    with pytest.raises(UsageError, match=r"^BadTeacher\.retain_share: must be less than or equal to 1, got 1\.5$"):
        BadTeacher(retain_share=1.5)
