"""Margins against what they stand for, in closed form and against a naive loop; and the model stays as it was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.models import Architecture, Classifier, build
from unlearnkit.observing import margin, observe
from unlearnkit.result import UsageError
from unlearnkit.types import Examples

Z = np.random.default_rng(0).normal(scale=4, size=(40, 5))
Y = np.arange(40) % 5


def model(seed: int = 0) -> Classifier:
    return build(Architecture("small-cnn", 3, (1, 8, 8)), seed=seed)


def naive_margin(z: list[float], y: int) -> float:
    top = max(value for i, value in enumerate(z) if i != y)
    return z[y] - top - math.log(math.fsum(math.exp(value - top) for i, value in enumerate(z) if i != y))


def test_margin_is_the_naive_one():
    expected = [naive_margin(row.tolist(), int(label)) for row, label in zip(Z, Y, strict=True)]
    np.testing.assert_allclose(margin(Z, Y), expected, rtol=1e-12, atol=1e-12)
    views = np.stack([Z, Z[:, ::-1]], axis=1)
    both = margin(views, Y)
    assert both.shape == (40, 2)
    np.testing.assert_array_equal(both[:, 0], margin(Z, Y))
    np.testing.assert_array_equal(both[:, 1], margin(np.ascontiguousarray(Z[:, ::-1]), Y))
    assert margin(Z.astype(np.float32), Y).dtype == np.float64


def test_margin_gives_loss_and_confidence():
    phi = margin(Z, Y)
    loss = functional.cross_entropy(torch.from_numpy(Z), torch.from_numpy(Y), reduction="none").numpy()
    np.testing.assert_allclose(np.log1p(np.exp(-phi)), loss, rtol=1e-10)
    confidence = torch.softmax(torch.from_numpy(Z), 1).numpy()[np.arange(40), Y]
    np.testing.assert_allclose(1 / (1 + np.exp(-phi)), confidence, rtol=1e-12)
    assert ((phi > 0) == (confidence > 0.5)).all()
    assert (phi[confidence > 0.5] > 0).any()


@pytest.mark.parametrize("size", [80.0, 1000.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_margin_keeps_its_digits_where_a_softmax_has_none(size: float, sign: int):
    z = np.array([[sign * size, 0.0, 0.0], [sign * size, -size, size / 2]])
    phi = margin(z, np.array([0, 0]))
    assert phi[0] == pytest.approx(sign * size - math.log(2), abs=1e-12)
    assert phi[1] == pytest.approx(naive_margin(z[1].tolist(), 0), abs=1e-12)
    loss = np.logaddexp(0, -phi)
    expected = functional.cross_entropy(torch.from_numpy(z), torch.zeros(2, dtype=torch.long), reduction="none").numpy()
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    # tiny differences of a sure answer stay visible: a float32 softmax says 1.0 for both
    close = margin(np.array([[size, 0.0], [size + 1e-6, 0.0]]), np.array([0, 0]))
    assert close[1] - close[0] == pytest.approx(1e-6, rel=1e-3)


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6), st.integers(0, 5), st.floats(-1e3, 1e3))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_margin_does_not_see_a_shift_and_two_classes_oppose(row: list[float], label: int, shift: float):
    z, y = np.array([row]), np.array([label % len(row)])
    phi = float(margin(z, y)[0])
    assert phi == pytest.approx(naive_margin(row, int(y[0])), rel=1e-9, abs=1e-9)
    assert float(margin(z + shift, y)[0]) == pytest.approx(phi, abs=1e-7)
    if len(row) == 2:
        assert float(margin(z, 1 - y)[0]) == pytest.approx(-phi, abs=1e-9)


def test_observe_is_a_loop_over_single_examples(blobs: MakeBlobs):
    net, points = model(), blobs(25)
    seen = observe(net, points, flips=True, features=True)
    assert seen.features is not None
    assert seen.margins.shape == (25, 2)
    assert seen.outputs().shape == (25, 2, 3)
    assert (seen.margins.dtype, seen.outputs().dtype, seen.features.dtype) == (np.float64, np.float32, np.float32)
    assert seen.ids.tolist() == points.ids.tolist()
    assert len(seen) == 25
    with torch.no_grad():
        for i in range(25):
            x = points.x[i : i + 1]
            for view, image in enumerate((x, torch.from_numpy(x.numpy()[..., ::-1].copy()))):
                logits = net(image)[0].double().tolist()
                np.testing.assert_allclose(seen.outputs()[i, view], logits, rtol=1e-4, atol=1e-5)
                expected = naive_margin(seen.outputs()[i, view].astype(float).tolist(), int(points.labels()[i]))
                assert seen.margins[i, view] == pytest.approx(expected, abs=1e-12)
            np.testing.assert_allclose(seen.features[i], net.features(x)[0].numpy(), rtol=1e-4, atol=1e-5)
    plain = observe(net, points)
    assert plain.features is None
    assert plain.margins.shape == (25, 1)
    np.testing.assert_array_equal(plain.margins[:, 0], seen.margins[:, 0])


@pytest.mark.parametrize("size", [1, 7, 24, 25, 1000])
def test_the_size_of_a_batch_does_not_matter(blobs: MakeBlobs, size: int):
    whole = observe(model(), blobs(25), batch_size=25)
    np.testing.assert_allclose(observe(model(), blobs(25), batch_size=size).margins, whole.margins, atol=1e-5)


def test_observation_repeats_bit_for_bit_whatever_the_threads(blobs: MakeBlobs):
    before = torch.get_num_threads()
    try:
        seen = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seen.append(observe(model(), blobs(100)).margins)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*seen)


def modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_weights_stay_as_they_were(blobs: MakeBlobs, training: bool):
    net = build(Architecture("resnet18-cifar", 3, (1, 8, 8)), seed=0).train(training)
    net.body.bn1.eval()  # a frozen layer, as fine-tuning has it
    before = {name: value.clone() for name, value in net.state_dict().items()}, modes(net)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    observe(net, blobs(5), flips=True, features=True)
    assert modes(net) == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert bool((net.head.weight.grad == 1).all())


class Stub(nn.Module):
    """Answers with the first pixels as logits; fails or goes astray where a pixel says so."""

    def __init__(self, poison: float = 0.0) -> None:
        super().__init__()
        self.poison = poison
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if math.isinf(self.poison):
            raise RuntimeError("no memory")
        z = x.flatten(1)[:, :3].float()
        return torch.where(z == 7, self.poison, z) + self.weight


def stub_points(pixel: int) -> Examples:
    x = torch.arange(4 * 9).remainder(5).view(4, 1, 3, 3).byte()
    x[2, 0, 0, 1] = pixel
    return Examples(x, torch.tensor([0, 1, 2, 1]), np.array(["a", "b", "c", "d"]))


def test_logits_that_are_not_finite_name_the_example():
    with pytest.raises(UsageError, match="the model answers 'c' with logits that are NaN or infinite"):
        observe(Stub(math.nan), stub_points(7), batch_size=2)
    assert len(observe(Stub(math.nan), stub_points(6))) == 4


def test_a_model_that_fails_keeps_its_mode(blobs: MakeBlobs):
    net = Stub(math.inf).train()
    with pytest.raises(RuntimeError, match="no memory"):
        observe(net, blobs(2))
    assert net.training


@pytest.mark.parametrize("label", [3, -1])
def test_labels_without_an_output_are_refused(blobs: MakeBlobs, label: int):
    points = blobs(4)
    y = points.labels().clone()
    y[1] = label
    with pytest.raises(UsageError, match=rf"labels must lie in 0..2, the model's classes, got {label}$"):
        observe(model(), Examples(points.x, y, points.ids))


def test_what_cannot_be_observed_is_said(blobs: MakeBlobs, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="features need a model with body and head, got Stub"):
        observe(Stub(), stub_points(0), features=True)
    with pytest.raises(UsageError, match="handed over without labels"):
        observe(model(), blobs(2).without_labels())
    vectors = Examples(torch.zeros(2, 5), torch.tensor([0, 1]), np.array(["a", "b"]))
    with pytest.raises(UsageError, match=r"flips need images \[n, c, h, w\], got inputs of shape \(2, 5\)"):
        observe(Stub(), vectors, flips=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda' was asked for"):
        observe(model(), blobs(2), device="cuda")


def test_vectors_can_be_observed():
    z = torch.tensor([[2.0, 0.0, 1.0, 9.0], [0.0, 1.0, 3.0, 9.0]])
    seen = observe(Stub(), Examples(z, torch.tensor([0, 2]), np.array(["a", "b"])))
    expected = [naive_margin([2, 0, 1], 0), naive_margin([0, 1, 3], 2)]
    np.testing.assert_allclose(seen.margins[:, 0], expected, rtol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_says_the_same_and_the_model_comes_back(blobs: MakeBlobs):
    net: Any = model()
    here = observe(net, blobs(50))
    there = observe(net, blobs(50), device="cuda")
    np.testing.assert_allclose(there.margins, here.margins, atol=1e-2)
    assert next(net.parameters()).device.type == "cpu"
    assert np.unique(there.outputs()).size > 0.9 * there.outputs().size  # bf16 would leave ties
