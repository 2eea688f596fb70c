"""Class geometry against plain formulas and clouds whose truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from probe_samples import CLASS, hidden, oracles, original, splits
from torch import nn

from unlearnkit.attacks.geometry import (
    ClassCollapse,
    ClassSeparability,
    MahalanobisNovelty,
    MaxLogitNovelty,
    NeighborClasses,
    collapse,
    mahalanobis,
)
from unlearnkit.models import Classifier
from unlearnkit.types import Examples, Splits


def cloud(n: int, classes: list[int], *, noise: float, seed: int, prefix: str) -> Examples:
    """Class c lies around 4 · e_c in eight dimensions."""
    y = torch.tensor([classes[i % len(classes)] for i in range(n)])
    x = 4 * torch.eye(8)[y] + noise * torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return Examples(x, y, np.array([f"{prefix}/{i}" for i in range(n)]))


def clouds(noise: float) -> Splits:
    """Class 0 is to be forgotten, 1 to 3 stay; inputs are features."""
    return Splits(
        cloud(40, [0], noise=noise, seed=0, prefix="f"),
        cloud(90, [1, 2, 3], noise=noise, seed=1, prefix="r"),
        cloud(60, [1, 2, 3], noise=noise, seed=2, prefix="t"),
        0,
        cloud(40, [0], noise=noise, seed=3, prefix="w"),
    )


def transparent() -> Classifier:
    """Features and logits are the input; of the logits the first four."""
    head = nn.Linear(8, 4, bias=False)
    head.weight.data = torch.eye(8)[:4]
    return Classifier(nn.Identity(), nn.Identity(), head).eval()


def test_mahalanobis_is_the_plain_formula():
    data = np.random.default_rng(0)
    y = np.array([2, 5] * 20)
    known = data.normal(size=(40, 3)) @ data.normal(size=(3, 3)) + y[:, None]
    points = data.normal(size=(6, 3)) * 4
    means = {c: known[y == c].mean(0) for c in (2, 5)}
    within = np.mean([np.outer(x - means[c], x - means[c]) for x, c in zip(known, y, strict=True)], axis=0)
    inverse = np.linalg.inv(0.7 * within + 0.3 * np.trace(within) / 3 * np.eye(3))
    expected = [min((p - m) @ inverse @ (p - m) for m in means.values()) for p in points]
    assert np.allclose(mahalanobis(known, y, points, shrinkage=0.3), expected)


def test_mahalanobis_of_dead_features_and_of_points():
    known, y = np.zeros((4, 3)), np.array([0, 0, 1, 1])
    known[:, 0] = [0.0, 0.0, 1.0, 1.0]
    assert mahalanobis(known, y, np.array([[0.0, 2.0, 0.0]]), shrinkage=0.1).tolist() == [4.0]
    known[:, 0] += [0.1, -0.1, 0.1, -0.1]
    assert np.isfinite(mahalanobis(known, y, np.eye(3), shrinkage=0.1)).all()


def test_collapse_by_hand():
    points = np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 1.0], [3.0, 1.0], [3.0, -3.0]])
    classes, shares = collapse(points, np.array([0, 0, 1, 1, 7]))
    assert classes.tolist() == [0, 1, 7]
    # class 0: mean (0, 1), the others' means average to (3, -1), so b = 13 and w = 1; the others are single points
    assert shares.tolist() == pytest.approx([13 / 14, 1.0, 1.0])
    assert collapse(np.zeros((4, 2)), np.array([0, 0, 1, 1]))[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("probe", [MahalanobisNovelty(), MaxLogitNovelty(), ClassSeparability()])
def test_a_tight_class_of_its_own_is_seen_and_one_cloud_of_all_is_not(
    probe: MahalanobisNovelty | MaxLogitNovelty | ClassSeparability,
):
    assert probe.read(transparent(), clouds(0.1)).value > 0.99
    parts = clouds(0.1)
    same = [cloud(len(p), [1, 2, 3], noise=0.1, seed=i, prefix="x").x for i, p in enumerate((parts.forget,), start=9)]
    scattered = dataclasses.replace(parts, forget=Examples(same[0], parts.forget.y, parts.forget.ids))
    assert abs(probe.read(transparent(), scattered).value - 0.5) < 0.2


def test_collapse_sees_a_tight_class_and_a_scattered_one():
    parts = clouds(0.1)
    assert abs(ClassCollapse().read(transparent(), parts).value) < 0.01
    scattered = cloud(40, [1, 2, 3], noise=0.1, seed=9, prefix="x").x
    given = dataclasses.replace(parts, forget=Examples(scattered, parts.forget.y, parts.forget.ids))
    read = ClassCollapse().read(transparent(), given)
    assert read.value < -0.8
    assert read.at.tolist() == [0, 1, 2, 3]


def test_outputs_on_the_neighbors_tell_what_was_pushed_somewhere():
    parts = clouds(0.5)
    assert abs(NeighborClasses().read(transparent(), parts).value - 0.5) < 0.25
    pushed = parts.forget.x + 3 * torch.eye(8)[2]  # the forget examples, not the class, were moved towards class 2
    moved = dataclasses.replace(parts, forget=Examples(pushed, parts.forget.y, parts.forget.ids))
    assert NeighborClasses().read(transparent(), moved).value > 0.95


def test_novelty_curves_are_shares_at_false_alarms():
    read = MahalanobisNovelty().read(original(class_wise=True), splits(class_wise=True))
    assert read.at.tolist() == [0.01, 0.05, 0.1, 0.2, 0.5]
    assert (np.diff(read.curve) >= 0).all()
    assert 0 <= read.curve[0] <= read.curve[-1] <= 1


def test_the_head_does_not_matter_to_features():
    parts = splits(class_wise=True)
    for probe in (MahalanobisNovelty(), ClassCollapse(), ClassSeparability()):
        assert probe.read(hidden(), parts).value == probe.read(original(class_wise=True), parts).value
    assert ClassCollapse().read(hidden(), parts).value > max(
        ClassCollapse().read(oracle, parts).value for oracle in oracles(class_wise=True)
    )
    assert CLASS in ClassCollapse().read(hidden(), parts).at
