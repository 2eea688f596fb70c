"""Stacked training: each model is what fit() makes of it alone, whatever is stacked with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from numpy.typing import NDArray
from torch import nn

from unlearnkit import stacked
from unlearnkit.models import Architecture
from unlearnkit.result import UsageError
from unlearnkit.stacked import fit_stack, stack_size
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Examples

RECIPE = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=3, batch_size=16)
SEEDS = [7, 3, 8, 1, 20, 4, 9, 2]


def rows_of(seeds: Sequence[int], length: int = 50) -> list[NDArray[np.int64]]:
    """Rows in an order of each model's own."""
    return [np.random.default_rng(seed).permutation(60)[:length] for seed in seeds]


def models(made: Sequence[nn.Module | UsageError]) -> list[nn.Module]:
    good = [model for model in made if isinstance(model, nn.Module)]
    assert len(good) == len(made)
    return good


def weights(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": "flip", "schedule": "cosine"},
        {"augment": "crop-flip", "label_smoothing": 0.2},
        {"optimizer": "adamw", "lr": 0.003, "schedule": "constant"},
        {"momentum": 0.0, "weight_decay": 0.0, "batch_size": 7},  # the last batch of one joins its neighbor
        {"batch_size": 64, "epochs": 1},
        {"architecture": Architecture("small-cnn", 3, (1, 8, 8)), "augment": "crop-flip", "epochs": 2},
    ],
    ids=str,
)
def test_each_model_of_a_stack_is_what_it_is_alone(blobs: MakeBlobs, changes: dict[str, Any]):
    recipe, data, seeds = replace(RECIPE, **changes), blobs(60), SEEDS[:3]
    made = models(fit_stack(recipe, data, rows_of(seeds), seeds))
    for model, rows, seed in zip(made, rows_of(seeds), seeds, strict=True):
        alone = fit(recipe, data.take(rows), seed=seed)
        assert not model.training
        for (name, value), other in zip(alone.state_dict().items(), model.state_dict().values(), strict=True):
            torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-5, msg=name)
    assert len({weights(model) for model in made}) == 3


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 5, 7)])
@pytest.mark.parametrize("name", ["mlp", "small-cnn"])
def test_size_of_the_stack_and_place_in_it_change_no_bit(blobs: MakeBlobs, name: str, shape: tuple[int, int, int]):
    recipe = replace(RECIPE, architecture=Architecture(name, 3, shape), epochs=1, batch_size=13, augment="flip")
    whole = blobs(60)
    data = Examples(whole.x[:, :, : shape[1], : shape[2]].contiguous(), whole.y, whole.ids)
    together = models(fit_stack(recipe, data, rows_of(SEEDS), SEEDS))
    expected = {seed: weights(model) for seed, model in zip(SEEDS, together, strict=True)}
    assert len(set(expected.values())) == len(SEEDS)
    for seeds in ([1], [20, 7], [4, 1, 3], [9, 8, 7, 1, 2], SEEDS[::-1]):
        made = models(fit_stack(recipe, data, rows_of(seeds), seeds))
        assert [weights(model) for model in made] == [expected[seed] for seed in seeds]


def test_a_model_that_diverges_leaves_the_others_as_they_are(blobs: MakeBlobs):
    """An image that is not finite lies in the rows of one model only."""
    whole = blobs(61)
    x = whole.x.float() / 255
    x[60] = torch.inf
    data = Examples(x, whole.y, whole.ids)
    rows, seeds = rows_of(SEEDS[:3]), SEEDS[:3]
    sound = [weights(model) for model in models(fit_stack(RECIPE, data, rows, seeds))]
    rows[1][5] = 60
    made = fit_stack(RECIPE, data, rows, seeds)
    with pytest.raises(UsageError) as alone:
        fit(RECIPE, data.take(rows[1]), seed=seeds[1])
    assert isinstance(made[1], UsageError)
    assert place(made[1]) == place(alone.value)
    assert [weights(made[i]) for i in (0, 2) if isinstance(made[i], nn.Module)] == [sound[0], sound[2]]


def place(error: UsageError) -> tuple[str, ...]:
    """Epoch, step and learning rate that the sentence names."""
    found = re.search(r"epoch (\d+): the loss became .* at step (\d+) with learning rate (\S+); choose a", str(error))
    assert found is not None, str(error)
    return found.groups()


def test_divergence_is_told_as_it_is_alone(blobs: MakeBlobs):
    data = blobs(60)
    late = replace(RECIPE, lr=1e30)
    for rows, seed, error in zip(rows_of([3, 8]), [3, 8], fit_stack(late, data, rows_of([3, 8]), [3, 8]), strict=True):
        with pytest.raises(UsageError) as alone:
            fit(late, data.take(rows), seed=seed)
        assert isinstance(error, UsageError)
        assert place(error) == place(alone.value)
        assert place(error)[:2] != ("1", "1")
    at_the_end = replace(RECIPE, lr=1e38, epochs=1, batch_size=64, schedule="constant", weight_decay=1e3)
    with pytest.raises(UsageError, match="holds NaN or infinite values at the end") as alone:
        fit(at_the_end, data.take(rows_of([3])[0]), seed=3)
    assert [str(error) for error in fit_stack(at_the_end, data, rows_of([3]), [3])] == [str(alone.value)]


def test_the_data_of_a_stack_stay_as_they_are(blobs: MakeBlobs):
    data = blobs(60)
    before = data.x.clone(), torch.get_rng_state()
    fit_stack(replace(RECIPE, augment="crop-flip"), data, rows_of([1, 2]), [1, 2])
    assert torch.equal(data.x, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("name", "shape", "device", "size"),
    [
        ("mlp", (1, 8, 8), "cpu", 32),
        ("mlp", (1, 10, 10), "cpu", 32),
        ("mlp", (1, 11, 11), "cpu", 8),
        ("mlp", (3, 32, 32), "cpu", 1),
        ("small-cnn", (1, 8, 8), "cpu", 1),
        ("mlp", (1, 8, 8), "cuda", 4),
        ("mlp", (1, 8, 8), "cuda:1", 4),
        ("resnet18-cifar", (3, 32, 32), "cpu", 1),
    ],
)
def test_the_size_of_a_stack_follows_from_recipe_and_device(
    name: str, shape: tuple[int, ...], device: str, size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stacked, "_STACKS", {("cpu", "mlp"): ((100, 32), (300, 8)), ("cuda", "mlp"): ((100, 4),)})
    recipe = replace(RECIPE, architecture=Architecture(name, 3, shape))
    assert stack_size(recipe, device) == size
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert stack_size(replace(recipe, epochs=1, batch_size=99), device) == size
    assert stack_size(replace(recipe, trainer="somebody:fit"), device) == 1
    assert stack_size(replace(recipe, compiled=True), device) == 1


def test_what_was_measured_is_listed_smallest_inputs_first():
    for sizes in stacked._STACKS.values():
        assert sorted(sizes) == list(sizes)
        assert all(models > 1 for _, models in sizes)
    assert stack_size(RECIPE, "cpu") > 1


def test_what_cannot_be_stacked_is_refused(blobs: MakeBlobs):
    data = blobs(60)
    with pytest.raises(UsageError, match=r"all models need equally many rows and a seed each, got lengths \[4, 5\]"):
        fit_stack(RECIPE, data, [np.arange(4), np.arange(5)], [0, 1])
    with pytest.raises(UsageError, match=r"a seed each, got lengths \[4\]"):
        fit_stack(RECIPE, data, [np.arange(4), np.arange(4)], [0])
    with pytest.raises(UsageError, match="there are no examples to train on"):
        fit_stack(RECIPE, data, [np.arange(0)], [0])
    with pytest.raises(UsageError, match=r"labels must lie in 0..2, the architecture's classes, got 3"):
        fit_stack(RECIPE, blobs(60, classes=4), rows_of([1, 2]), [1, 2])
