"""ClassVectorsMapping: the edit lies in the last normalization layers, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from test_class_vectors import Digits, accuracy, trained_digits
from torch import nn

from unlearnkit.editing import ClassVector, class_vector, features, write
from unlearnkit.methods import class_vectors_mapping
from unlearnkit.methods.class_vectors import SCALES
from unlearnkit.methods.class_vectors_mapping import ClassVectorsMapping
from unlearnkit.models import Architecture, Classifier, build
from unlearnkit.result import UsageError
from unlearnkit.types import Need, Splits
from unlearnkit.unlearning import unlearn

LABEL = 2


@pytest.fixture
def digits() -> Digits:
    return trained_digits()


def run(digits: Digits, method: ClassVectorsMapping, seed: int = 0) -> Any:
    return digits.forget(LABEL, method, seed=seed)


def differing(one: nn.Module, other: nn.Module) -> set[str]:
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    return {name for name, value in one.state_dict().items() if not torch.equal(value, state[name])}


@pytest.mark.parametrize(
    ("label", "method"),
    [
        (2, ClassVectorsMapping()),
        (8, ClassVectorsMapping(origin="initialization", scale=3.0)),
        (5, ClassVectorsMapping(origin="others", scale=3.0)),
    ],
    ids=lambda value: value.origin if isinstance(value, ClassVectorsMapping) else None,
)
def test_the_class_is_forgotten_in_one_layer(digits: Digits, label: int, method: ClassVectorsMapping):
    edited = digits.forget(label, method)
    assert accuracy(digits.model, digits.test, of=label) > 85
    assert accuracy(edited, digits.test, of=label) <= 5
    assert accuracy(edited, digits.train, but=label) >= 95
    assert accuracy(edited, digits.test, but=label) >= 93
    assert differing(edited, digits.model) == {"body.8.weight", "body.8.bias"}
    assert edited.steering is None


def test_it_is_the_written_class_vector(digits: Digits):
    """With all images as references, by hand."""
    model, splits = digits.model, digits.splits(LABEL)
    vector = class_vector(model, digits.before, splits.forget)
    expected = write(model, -1.5 * vector, splits.forget, splits.retain, epochs=5, locality=0.5)
    method = ClassVectorsMapping(scale=1.5, references=9999, kept=9999, epochs=5, locality=0.5)
    assert not differing(run(digits, method), expected)
    moved = features(expected, splits.forget).mean(0) - features(model, splits.forget).mean(0)
    assert torch.cosine_similarity(moved, -vector.direction, dim=0) > 0.5


def test_scales_are_tried_until_one_forgets(digits: Digits, monkeypatch: pytest.MonkeyPatch):
    tried: list[float] = []
    vector = class_vector(digits.model, digits.before, digits.splits(LABEL).forget)

    def spy(model: Classifier, edit: ClassVector, *given: Any, **named: Any) -> Classifier:
        tried.append(round(-edit.norm / vector.norm * float(torch.sign(edit.direction @ vector.direction)), 3))
        return write(model, edit, *given, **named)

    monkeypatch.setattr(class_vectors_mapping, "write", spy)
    method = ClassVectorsMapping(epochs=60, lr=0.03)
    found = run(digits, method)
    monkeypatch.undo()
    assert 1 < len(tried) <= len(SCALES)
    assert tried == list(SCALES[: len(tried)])
    assert not differing(found, run(digits, replace(method, scale=tried[-1])))
    weaker = run(digits, replace(method, scale=tried[-2]))
    assert accuracy(weaker, digits.train, of=LABEL) > 5 >= accuracy(found, digits.train, of=LABEL)


def test_no_shift_changes_nothing(digits: Digits):
    assert not differing(run(digits, ClassVectorsMapping(scale=0.0, epochs=10)), digits.model)


def test_its_hyperparameters_matter(digits: Digits):
    start = ClassVectorsMapping(scale=1.0, epochs=10, images=20, others=60)
    result = run(digits, start)
    assert not differing(run(digits, start), result)
    assert differing(run(digits, start, seed=1), result)
    for name, value in {
        "origin": "others",
        "scale": 2.0,
        "references": 8,
        "kept": 32,
        "locality": 0.1,
        "epochs": 11,
        "lr": 0.02,
        "images": 30,
        "others": 80,
    }.items():
        assert differing(run(digits, replace(start, **{name: value})), result), name


def test_what_it_needs_and_refuses(digits: Digits):
    model, splits = digits.model, digits.splits(LABEL)
    seen = Need.CLASS_WISE | Need.FORGET_INPUTS | Need.RETAIN_INPUTS
    assert ClassVectorsMapping().needs == seen | Need.PRETRAINED
    assert ClassVectorsMapping(origin="others").needs == ClassVectorsMapping(origin="initialization").needs == seen
    with pytest.raises(UsageError, match=r"^ClassVectorsMapping needs pretrained; grant it with"):
        unlearn(model, splits, ClassVectorsMapping(), seed=0)
    with pytest.raises(UsageError, match=r"^ClassVectorsMapping.layers: must be greater than or equal to 1, got 0$"):
        ClassVectorsMapping(layers=0)
    others = ClassVectorsMapping(origin="others")
    for architecture, layers, count in (("mlp", 1, 0), ("small-cnn", 2, 1)):
        net = build(Architecture(architecture, 10, (1, 8, 8)), seed=0)
        with pytest.raises(
            UsageError,
            match=f"^ClassVectorsMapping: the model has {count} normalization layers with weights to write into, got "
            f"layers={layers}; use a model with more of them, or steer its features instead$",
        ):
            unlearn(net, splits, replace(others, layers=layers), seed=0)
    with pytest.raises(
        UsageError,
        match=r"^ClassVectorsMapping, epoch \d: the loss became (nan|inf) at step 1 with learning rate 1e\+30; choose",
    ):
        unlearn(model, splits, replace(others, lr=1e30), seed=0)


def test_batch_normalization_keeps_its_statistics(blobs: MakeBlobs):
    """The pair of the last residual block: layers = 2."""
    train = blobs(40, classes=4)
    model = build(Architecture("resnet18-cifar", 4, (1, 8, 8)), seed=0)
    y = train.labels().numpy()
    splits = Splits(train.take(y == 0), train.take(y != 0), blobs(8, prefix="test"), 0)
    method = ClassVectorsMapping(origin="others", scale=1.0, layers=2, epochs=1, references=4, kept=4)
    edited = unlearn(model, splits, method, seed=0).model
    assert differing(edited, model) == {
        f"body.layer4.1.{name}" for name in ("bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias")
    }
    assert np.isfinite(features(edited, train).numpy()).all()
