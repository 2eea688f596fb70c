"""FisherForgetting: the information of a linear model in closed form, the bounds, and the noise itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import test_methods as shared
import torch
from test_methods import CLASSES, Task, differing, run
from torch import Tensor, nn

from unlearnkit.methods.fisher_forgetting import FisherForgetting, diagonal_fisher, variance
from unlearnkit.result import UsageError
from unlearnkit.types import Examples, Need, Splits
from unlearnkit.unlearning import unlearn

task = shared.task


def linear_problem(n: int = 12, inputs: int = 5) -> tuple[nn.Linear, Examples]:
    rng = torch.Generator().manual_seed(0)
    model = nn.utils.skip_init(nn.Linear, inputs, 3, dtype=torch.float64)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=rng, dtype=torch.float64)
    x = torch.randn(n, inputs, generator=rng, dtype=torch.float64)
    return model, Examples(x, torch.arange(n) % 3, np.arange(n).astype(str))


def test_the_information_of_a_linear_model_in_closed_form() -> None:
    """F of the weight from input d to class c is the mean of p_c (1 − p_c) x_d², of the bias that of p_c (1 − p_c)."""
    model, examples = linear_problem()
    rows = torch.tensor([0, 3, 4, 9])
    p = model(examples.x[rows]).softmax(1)
    spread = p * (1 - p)
    expected = torch.cat([(spread.T @ examples.x[rows].square() / 4).flatten(), spread.mean(0)])
    torch.testing.assert_close(diagonal_fisher(model, examples.without_labels(), rows), expected.detach())


def test_the_bounds_and_the_average_over_inputs() -> None:
    fisher = torch.tensor([[1.0, 0.0], [0.5, 0.25]])
    torch.testing.assert_close(variance(fisher, last=False), torch.tensor([[500.5, 500.5], [3.0, 3.0]]))
    torch.testing.assert_close(variance(fisher, last=True), torch.tensor([[50.5, 50.5], [3.0, 3.0]]))
    torch.testing.assert_close(variance(fisher[0], last=False), torch.tensor([1.0, 1000.0]))


class _Wide(nn.Module):
    """Blind to its hidden layer, whose information is zero and whose noise is therefore that of the bound."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 5000)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


def test_noise_has_the_variance_it_says() -> None:
    model = _Wide()
    _, examples = linear_problem(inputs=4)
    examples = replace(examples, x=examples.x.float())
    splits = Splits(examples.take(np.arange(4)), examples.take(np.arange(4, 8)), examples.take(np.arange(8, 12)))
    noisy = unlearn(model, splits, FisherForgetting(alpha=1e-6), seed=0).model
    for part, expected in (("weight", 1e-6 * 1e3), ("bias", 1e-6 * 1e3 * 10)):
        noise = (getattr(noisy.hidden, part) - getattr(model.hidden, part)).detach()
        assert float(noise.square().mean()) == pytest.approx(expected, rel=0.1)
        assert abs(float(noise.mean())) < 5 * expected**0.5 / noise.numel() ** 0.5


def test_without_noise_nothing_changes(task: Task) -> None:
    assert not differing(run(task, FisherForgetting(alpha=0.0, examples=4)), task.model)


def test_a_class_is_erased_whatever_the_number_of_its_examples(task: Task) -> None:
    """The output of class 2 is noise of variance 1e-3 around zero; the published code asked for 4500 examples."""
    method = FisherForgetting(alpha=0.0, examples=4, class_wise=True)
    assert method.needs == Need.RETAIN_INPUTS | Need.CLASS_WISE
    splits = replace(task.splits, forget_class=2)
    result = run(task, method, splits=splits)
    others = [c for c in range(CLASSES) if c != 2]
    assert torch.equal(result.head.weight[others], task.model.head.weight[others])
    erased = torch.cat([result.head.weight[2], result.head.bias[2:3]]).detach()
    assert 0.02 < float(erased.square().mean().sqrt()) < 0.045
    with pytest.raises(UsageError, match=r"^FisherForgetting forgets whole classes only"):
        run(task, method, splits=task.splits)


def test_a_model_without_a_last_linear_layer_has_no_row_to_erase() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    images = shared.blobs(6, 0, "a")
    examples = replace(images, x=images.x.float())
    splits = Splits(*(examples.take(np.array(rows)) for rows in ([0, 1], [2, 3], [4, 5])), forget_class=0)
    with pytest.raises(UsageError, match=r"^FisherForgetting.class_wise: the model has no linear layer with 3 outputs"):
        unlearn(model, splits, FisherForgetting(class_wise=True), seed=0)
