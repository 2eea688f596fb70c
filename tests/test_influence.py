"""InfluenceUnlearning: solvers against dense algebra, Newton's step against retraining, the published defect."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import test_methods as shared
import torch
from test_methods import Task, access, differing
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.influence import (
    InfluenceUnlearning,
    conjugate_gradient,
    gauss_newton_product,
    one_direction,
    woodfisher,
)
from unlearnkit.methods.steps import flat, set_flat
from unlearnkit.result import UsageError
from unlearnkit.types import Access, Examples, Splits
from unlearnkit.unlearning import unlearn

task = shared.task
DECAY = 0.05


def logistic_problem(n: int = 200) -> Examples:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.randn(n, 4, generator=rng, dtype=torch.float64) + 0.7 * functional.one_hot(y, 4)
    return Examples(x, y, np.arange(n).astype(str))


def optimum(examples: Examples) -> nn.Linear:
    """The minimum of mean CE + DECAY/2 ‖θ‖², to machine precision: dense Newton steps."""
    model = nn.utils.skip_init(nn.Linear, 4, 3, dtype=torch.float64)
    theta = torch.zeros(15, dtype=torch.float64)

    def loss(theta: Tensor) -> Tensor:
        logits = examples.x @ theta[:12].view(3, 4).T + theta[12:]
        return functional.cross_entropy(logits, examples.labels()) + DECAY / 2 * theta.square().sum()

    for _ in range(12):
        slope = torch.autograd.functional.jacobian(loss, theta)
        theta = theta - torch.linalg.solve(torch.autograd.functional.hessian(loss, theta), slope)
    assert float(torch.autograd.functional.jacobian(loss, theta).norm()) < 1e-12
    set_flat(model, theta)
    return model


def test_the_newton_step_is_retraining_to_second_order() -> None:
    """Of a strongly convex problem, whose forget set is copies of one example: twice as many, four times the error."""
    examples = logistic_problem(1000)
    examples.x[:8], examples.labels()[:8] = examples.x[0].clone(), examples.labels()[0].clone()
    model = optimum(examples)
    missed = {}
    for n_f in (1, 2, 4, 8):
        retain = examples.take(np.arange(n_f, 1000))
        splits = Splits(
            examples.take(np.arange(n_f)), retain, replace(examples, ids=np.char.add(examples.ids, " test"))
        )
        result = unlearn(model, splits, InfluenceUnlearning(damping=DECAY), seed=0).model
        retrained = flat(optimum(retain))
        missed[n_f] = float((flat(result) - retrained).norm())
        assert missed[n_f] < 0.1 * float((retrained - flat(model)).norm())
    assert all(1.8 < np.log2(missed[2 * n_f] / missed[n_f]) < 2.2 for n_f in (1, 2, 4)), missed


def test_the_gauss_newton_product_is_the_hessian_of_a_linear_model() -> None:
    examples = logistic_problem(30)
    model = optimum(examples)
    rows, vector = torch.arange(3, 20), torch.randn(15, generator=torch.Generator().manual_seed(1)).double()
    theta = flat(model)

    def loss(theta: Tensor) -> Tensor:
        logits = examples.x[rows] @ theta[:12].view(3, 4).T + theta[12:]
        return functional.cross_entropy(logits, examples.labels()[rows])

    expected = torch.autograd.functional.hessian(loss, theta) @ vector
    torch.testing.assert_close(gauss_newton_product(model, examples, rows, vector, batch_size=7), expected)


def test_the_gauss_newton_product_of_a_network_is_that_of_its_jacobian(task: Task) -> None:
    """Against ∂z/∂θ row by row: mean of Jᵀ(diag(p) − p pᵀ)J v."""
    model, x = copy.deepcopy(task.model).double(), task.splits.retain.x[:5]
    vector = torch.randn(len(flat(model)), generator=torch.Generator().manual_seed(0)).double()
    expected = torch.zeros_like(vector)
    for image in x.split(1):
        z = model(image)[0]
        J = torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(part, model.parameters(), retain_graph=True)])
                for part in z
            ]
        )
        p = z.detach().softmax(0)
        expected += J.T @ ((torch.diag(p) - p[:, None] * p) @ (J @ vector)) / 5
    product = gauss_newton_product(model, task.splits.retain, torch.arange(5), vector, batch_size=2)
    torch.testing.assert_close(product, expected)


def samples(n: int = 20, dimensions: int = 6) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, dimensions, generator=rng).double(), torch.randn(dimensions, generator=rng).double()


def test_conjugate_gradient_solves() -> None:
    s, v = samples()
    matrix = s.T @ s / len(s) + 0.1 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradient(lambda u: matrix @ u, v, 20), torch.linalg.solve(matrix, v))
    assert not conjugate_gradient(lambda u: matrix @ u, torch.zeros_like(v), 20).any()


def test_woodfisher_is_the_inverse_it_says() -> None:
    s, v = samples()
    matrix = s.T @ s / len(s) + torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(woodfisher(s.__getitem__, len(s), v), torch.linalg.solve(matrix, v))


def test_the_published_recursion_never_leaves_one_direction() -> None:
    s, v = samples()
    change = one_direction(lambda i: s[i].clone(), len(s), v) - v
    cosine = float(functional.cosine_similarity(change, s[0], dim=0).abs())
    assert cosine == pytest.approx(1.0, abs=1e-12)
    true = woodfisher(s.__getitem__, len(s), v) - v
    assert float(functional.cosine_similarity(true, s[0], dim=0).abs()) < 0.9
    assert torch.equal(one_direction(lambda i: s[i].clone(), 1, v), v)


@pytest.mark.parametrize("mode", ["conjugate-gradient", "woodfisher", "reference"])
def test_nothing_to_forget_changes_nothing(task: Task, mode: str) -> None:
    method = InfluenceUnlearning(mode=mode, alpha=10.0, samples=8, iterations=3)
    full = access(task, method)
    nothing = Access(full.granted, full.method, full.forget.take(np.arange(0)), full.retain)
    assert not differing(method.run(copy.deepcopy(task.model), nothing, torch.Generator().manual_seed(0)), task.model)


@pytest.mark.parametrize("mode", ["woodfisher", "reference"])
def test_the_step_is_the_solution_times_alpha(task: Task, mode: str) -> None:
    """v = g_f/n − g_r n_f/(n n_r), written out, and the solver on gradients of single retain examples."""
    model = copy.deepcopy(task.model)
    forget, retain = task.splits.forget, task.splits.retain

    def pull(x: Tensor, y: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(x), y, reduction="sum")
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])

    v = pull(forget.x, forget.labels()) / 200 - pull(retain.x, retain.labels()) * 24 / (200 * 176)
    rows = torch.randperm(176, generator=torch.Generator().manual_seed(0))[:12]
    solve = {"woodfisher": woodfisher, "reference": one_direction}[mode]
    step = solve(lambda i: pull(retain.x[rows[i : i + 1]], retain.labels()[rows[i : i + 1]]), 12, v)
    result = unlearn(task.model, task.splits, InfluenceUnlearning(mode=mode, alpha=3.0, samples=12), seed=0).model
    torch.testing.assert_close(flat(result), flat(task.model) + 3.0 * step, rtol=1e-4, atol=1e-6)


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^InfluenceUnlearning.alpha: must be greater than 0, got -1.0$"):
        InfluenceUnlearning(alpha=-1.0)
