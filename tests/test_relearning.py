"""Relearning curves: the loop by hand, the same bytes every time, and a model that is left alone."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from torch import nn
from torch.nn import functional

from unlearnkit.models import Architecture, build
from unlearnkit.relearning import Curves, accuracy, relearn
from unlearnkit.result import UsageError
from unlearnkit.train import forever
from unlearnkit.types import Examples


def fresh(name: str = "mlp") -> nn.Module:
    return build(Architecture(name, 3, (1, 8, 8)), seed=3)


def test_curves_are_those_of_the_loop_by_hand(blobs: MakeBlobs):
    examples, held = blobs(20), blobs(30, seed=1, prefix="test")
    model = fresh()
    got = relearn(model, examples, steps=7, lr=0.05, batch_size=8, seed=5, watch=[examples, held], every=3)
    assert got.steps.tolist() == [0, 3, 6, 7]

    learner = copy.deepcopy(model)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9)
    expected = [[accuracy(learner, part)] for part in (examples, held)]
    batches = forever(20, 8, torch.Generator().manual_seed(5))
    for step, rows in enumerate(itertools.islice(batches, 7), start=1):
        optimizer.zero_grad()
        functional.cross_entropy(learner(examples.x[rows]), examples.labels()[rows]).backward()
        optimizer.step()
        if step in got.steps:
            for curve, part in zip(expected, (examples, held), strict=True):
                curve.append(accuracy(learner, part))
    assert got.accuracy.tolist() == expected
    assert got.accuracy[0, -1] > got.accuracy[0, 0]


@pytest.mark.parametrize("name", ["mlp", "resnet9"])
def test_same_seed_same_curves_and_the_model_stays(name: str, blobs: MakeBlobs):
    examples = blobs(9)
    model = fresh(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    there = torch.get_rng_state()
    once, again, other = (
        relearn(model, examples, steps=3, lr=0.02, batch_size=4, seed=seed, watch=[examples], every=1)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(once.accuracy, again.accuracy)
    assert other.accuracy.shape == once.accuracy.shape == (1, 4)
    assert torch.equal(there, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training


def test_areas_by_hand():
    curves = Curves(np.array([0, 2, 3]), np.array([[0.0, 1.0, 1.0], [0.5, 0.5, 0.5]]))
    assert curves.areas().tolist() == pytest.approx([2 / 3, 0.5])


def test_accuracy_counts_the_largest_logit(blobs: MakeBlobs):
    examples = blobs(9)
    model = fresh()
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    head.weight.data.zero_()
    head.bias.data = torch.tensor([0.1, 0.0, 0.0])  # a third of the probability each: right, with a negative margin
    assert accuracy(model, examples) == pytest.approx(1 / 3)


def test_refusals(blobs: MakeBlobs):
    examples = blobs(6)
    model = fresh()

    def run(watch: list[Examples] | None = None, part: Examples = examples, **changed: float) -> Curves:
        how = {"steps": 2, "lr": 0.1, "batch_size": 4, "every": 1, "momentum": 0.9} | changed
        return relearn(model, part, seed=0, watch=[examples] if watch is None else watch, **how)  # type: ignore[arg-type]

    for name in ("steps", "batch_size", "every"):
        with pytest.raises(UsageError, match=f"relearn: {name} must be at least 1, got 0"):
            run(**{name: 0})
    with pytest.raises(UsageError, match=r"relearn: lr must be above 0 and finite, got 0"):
        run(lr=0.0)
    with pytest.raises(UsageError, match=r"relearn: momentum must be at least 0 and below 1, got 1"):
        run(momentum=1.0)
    with pytest.raises(UsageError, match=r"relearn: watch needs at least one set, and none empty, got \[\]"):
        run(watch=[])
    with pytest.raises(UsageError, match=r"none empty, got \[6, 0\]"):
        run(watch=[examples, examples.take(np.zeros(6, dtype=bool))])
    with pytest.raises(UsageError, match="relearn: there are no examples to fine-tune on"):
        run(part=examples.take(np.zeros(6, dtype=bool)))
    with pytest.raises(UsageError, match=r"the loss became .* choose a smaller learning rate"):
        run(lr=1e30, steps=6, every=6)
