"""Residual knowledge: neighbors stay in ball and box, and a model that only misses the very images is caught."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from probe_samples import head, oracles, original, splits
from torch import Tensor, nn

from unlearnkit.attacks.residual_knowledge import RandomNeighbors, SearchedNeighbors, approach
from unlearnkit.methods.distill import frozen, margins
from unlearnkit.models import Architecture, build
from unlearnkit.result import UsageError
from unlearnkit.types import Examples, Splits

PROBES = [RandomNeighbors(), SearchedNeighbors()]


class Watched(nn.Module):
    """Answers class 0 always, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []
        self.weight = nn.Parameter(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))

    def __deepcopy__(self, memo: object) -> Watched:
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        self.asked.append(x.detach().clone())
        return x.flatten(1) @ self.weight.T + torch.tensor([1e3, 0.0, 0.0])


def three(scale: float | None = None) -> Splits:
    """Images of all brightnesses; floats in 0..scale where one is given."""
    x = torch.linspace(0, 255, 3 * 64).view(3, 1, 8, 8).to(torch.uint8)
    part = [
        Examples(
            x if scale is None else x.float() / 255 * scale,
            torch.ones(3).long(),
            np.array([f"{p}{i}" for i in range(3)]),
        )
        for p in "abc"
    ]
    return Splits(*part)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("scale", [None, 40.0])
def test_every_neighbor_stays_in_ball_and_box(probe: RandomNeighbors | SearchedNeighbors, scale: float | None):
    parts, model = three(scale), Watched()
    span = 1.0 if scale is None else scale
    probe = dataclasses.replace(probe, radii=(0.03,))
    assert probe.read(model, parts).value == 0
    own = parts.forget.x.float() / (255 if scale is None else 1)
    moved = torch.stack([x for x in model.asked if len(x) == 3])
    far = (moved - own).abs()
    assert far.max() <= 0.03 * span * 1.0001
    assert far.max() > 0.029 * span
    if scale is None:
        assert moved.min() >= 0
        assert moved.max() <= 1


def test_the_search_walks_into_the_class():
    parts, net = splits(class_wise=True), frozen(original(class_wise=True))
    x, y = parts.forget.x.float() / 255, parts.forget.labels()
    walk = [x, *approach(net, x, y, parts.forget.x, radius=0.05, steps=5)]
    heights = [float(margins(net(at), y).mean()) for at in walk]
    assert heights == sorted(heights)
    assert heights[-1] > heights[0] + 0.5


def test_a_model_that_misses_the_very_images_only_is_caught():
    parts = splits(class_wise=True)
    known = {row.numpy().tobytes() for row in parts.forget.x}
    good = original(class_wise=True)

    class Amnesic(nn.Module):
        """Right but for the forget images themselves."""

        def __init__(self) -> None:
            super().__init__()
            self.net = good

        def forward(self, x: Tensor) -> Tensor:
            stored = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
            exact = x.dtype == torch.uint8 or torch.allclose(stored.float() / 255, x, atol=1e-6)
            logits: Tensor = self.net(x).clone()
            if exact:
                hit = torch.tensor([row.numpy().tobytes() in known for row in stored])
                logits[:, 3] = torch.where(hit, -9.0, logits[:, 3])
            return logits

    for probe in PROBES:
        caught = probe.read(Amnesic(), parts)
        assert caught.value > 0.9
        assert all(caught.value > probe.read(oracle, parts).value for oracle in oracles(class_wise=True))


def test_more_room_finds_no_less_and_random_finds_no_more():
    parts = splits(class_wise=False)
    model = original(class_wise=False)
    searched = SearchedNeighbors(radii=(0.01, 0.05, 0.1, 0.3)).read(model, parts)
    assert (np.diff(searched.curve) >= 0).all()
    assert (RandomNeighbors(radii=(0.01, 0.05, 0.1, 0.3)).read(model, parts).curve <= searched.curve).all()
    assert searched.curve[-1] > searched.curve[0]


def test_models_that_scale_by_type_wrongly_are_refused():
    net = build(Architecture("mlp", 10, (1, 8, 8)), seed=0)
    net.normalize = nn.Module()
    net.normalize.forward = lambda x: x.float()  # type: ignore[method-assign]
    head(net)
    with pytest.raises(UsageError, match=r"RandomNeighbors: the model must answer alike to an image as uint8"):
        RandomNeighbors().read(net, splits(class_wise=True))
