"""SVDProjection: what is projected out, in closed form and against the singular vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, blobs, differing, run
from torch import Tensor, nn

from unlearnkit.methods.svd_projection import SVDProjection, gram_matrices, importance, layer_inputs
from unlearnkit.result import UsageError
from unlearnkit.types import Access, Examples, Splits

task = test_methods.task


def without_class_0(task: Task) -> Splits:
    train = blobs(200, 0, "train")
    mask = train.labels().numpy() == 0
    return replace(task.splits, forget=train.take(mask), retain=train.take(~mask), forget_class=0)


def columns(d: int, n: int) -> Tensor:
    return torch.randn(d, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("alpha", [0.25, 1.0, 3.0, 1000.0])
def test_importance_is_that_of_the_singular_vectors(alpha: float) -> None:
    """The paper's form: M = U diag(κa / ((κ − 1)a + 1)) Uᵀ with a = s²/Σs²."""
    X = columns(6, 9) * torch.arange(1.0, 7.0, dtype=torch.float64)[:, None] ** 2
    U, s, _ = torch.linalg.svd(X, full_matrices=False)
    a = s**2 / (s**2).sum()
    expected = U @ torch.diag(alpha * a / ((alpha - 1) * a + 1)) @ U.T
    M = importance((X @ X.T)[None], alpha)[0]
    torch.testing.assert_close(M, expected)
    values = torch.linalg.eigvalsh(M)
    assert values.min() > 0
    assert values.max() < 1


def test_importance_at_its_ends() -> None:
    few = columns(6, 2)
    gram = (few @ few.T)[None]
    assert not importance(gram, 0.0).any()
    assert not importance(torch.zeros_like(gram), 3.0).any()
    basis, _ = torch.linalg.qr(few)
    torch.testing.assert_close(importance(gram, 1e9)[0], basis @ basis.T, rtol=0, atol=1e-6)  # onto the span
    full = columns(6, 9)
    torch.testing.assert_close(importance((full @ full.T)[None], 1e9)[0], torch.eye(6).double(), rtol=0, atol=1e-5)
    one = torch.zeros(1, 3, 3, dtype=torch.float64)
    one[0, 0, 0] = 5
    torch.testing.assert_close(importance(one, 0.5), one / 5)  # all energy in one direction: all of it


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": (2, 0)},
        {"groups": 2, "padding": 1},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular"},
        {"padding": "same"},
    ],
)
def test_inputs_times_weights_are_the_output(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(4, 6, (3, 5), bias=False, **options).double()
    x = torch.randn(5, 4, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = options.get("groups", 1)
    found = layer_inputs(layer, x)
    out = found @ layer.weight.view(groups, 6 // groups, -1).mT  # [group, place, output]
    expected = layer(x)
    out = out.permute(1, 0, 2).reshape(5, -1, 6).mT.reshape(expected.shape)
    torch.testing.assert_close(out, expected)


def test_a_linear_layer_is_seen_at_every_place() -> None:
    x = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(layer_inputs(nn.Linear(4, 2), x), x.view(1, 6, 4))


class _Planes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


def test_directions_of_the_forget_class_go_unless_the_others_use_them() -> None:
    """Forget examples use axes 0 and 1, retain examples 1 and 2: only axis 0 goes, and axis 3, unused, stays."""
    rng = torch.Generator().manual_seed(0)
    forget, retain = torch.randn(20, 4, generator=rng), torch.randn(20, 4, generator=rng)
    forget[:, 2:] = 0
    retain[:, [0, 3]] = 0
    model = _Planes()
    before = model.out.weight.detach().clone()
    method = SVDProjection(alpha_retain=1e9, alpha_forget=1e9)
    ids = np.arange(20).astype(str)
    access = Access(method.needs, method.name, Examples(forget, None, ids), Examples(retain, None, ids), 0)
    after = method.run(model, access, torch.Generator().manual_seed(0)).out.weight
    torch.testing.assert_close(after[:, 0], torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(after[:, 1:], before[:, 1:], rtol=1e-5, atol=1e-6)


def test_without_importance_of_the_forget_set_it_is_the_original(task: Task) -> None:
    result = run(task, SVDProjection(alpha_forget=0.0), splits=without_class_0(task))
    assert not differing(result, task.model)


def test_it_forgets_the_class_and_keeps_the_others(task: Task) -> None:
    splits = without_class_0(task)

    def accuracy(model: nn.Module, examples: Examples) -> float:
        return float((model(examples.x).argmax(1) == examples.labels()).float().mean())

    assert accuracy(task.model, splits.forget) > 0.9
    result = run(task, SVDProjection(alpha_retain=30.0, alpha_forget=300.0), splits=splits)
    assert accuracy(result, splits.forget) < 0.5
    assert accuracy(result, splits.retain) > 0.85
    moved = {name.rpartition(".")[0] for name in differing(result, task.model)}
    layers = {name for name, m in task.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert moved == layers
    assert not [name for name in differing(result, task.model) if name.endswith("bias")]


def test_no_label_is_read_and_only_classes_are_forgotten(task: Task) -> None:
    splits = without_class_0(task)
    wrong = replace(splits, forget=replace(splits.forget, y=splits.forget.labels() + 1))
    assert not differing(run(task, SVDProjection(), splits=splits), run(task, SVDProjection(), splits=wrong))
    with pytest.raises(UsageError, match=r"^SVDProjection forgets whole classes only; ask for a class"):
        run(task, SVDProjection(), splits=task.splits)


@pytest.mark.parametrize(("samples", "patches"), [(16, 10_000), (900, 50)])
def test_samples_and_patches_bound_what_is_looked_at(task: Task, samples: int, patches: int) -> None:
    """Counted by a constant input, whose Gram matrix is the number of places."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(98, CLASSES))
    examples = Examples(torch.ones(100, 1, 8, 8), None, np.arange(100).astype(str))
    grams = gram_matrices(model, examples, samples, patches, torch.Generator().manual_seed(0))
    n = min(samples, 100)
    assert float(grams[model[0]][0, 0, 0]) == pytest.approx(min(n * 49, patches), abs=2)
    assert not model[0]._forward_pre_hooks
    random = run(task, SVDProjection(samples=samples, patches=patches), splits=without_class_0(task))
    other = run(task, SVDProjection(samples=samples, patches=patches), 1, splits=without_class_0(task))
    assert differing(random, other)


def test_hyperparameters_are_checked() -> None:
    with pytest.raises(
        UsageError, match=r"^SVDProjection\.alpha_forget: must be greater than or equal to 0, got -1\.0"
    ):
        SVDProjection(alpha_forget=-1.0)
