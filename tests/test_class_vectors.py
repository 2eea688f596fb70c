"""ClassVectors: what it needs, what it leaves alone, and that it forgets whole classes of a real task."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unlearnkit.data import load
from unlearnkit.editing import class_accuracy, class_vector
from unlearnkit.methods.class_vectors import SCALES, ClassVectors, drawn
from unlearnkit.methods.hyperparameters import validated
from unlearnkit.models import Architecture, Classifier, build, load_model, load_state, pack, save_model
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Examples, Method, Need, Splits
from unlearnkit.unlearning import unlearn

ARCHITECTURE = Architecture("small-cnn", 10, (1, 8, 8))


@dataclass(frozen=True, eq=False)
class Digits:
    """The embedded digits, a network trained on them, and the same network before training."""

    train: Examples
    test: Examples
    model: Classifier
    before: Classifier

    def splits(self, label: int) -> Splits:
        y = self.train.labels().numpy()
        return Splits(self.train.take(y == label), self.train.take(y != label), self.test, label)

    def forget(self, label: int, method: Method, model: nn.Module | None = None, seed: int = 0) -> Any:
        start = self.model if model is None else model
        return unlearn(start, self.splits(label), method, seed=seed, pretrained=self.before).model


@cache
def trained_digits() -> Digits:
    data = load("digits")
    model, before = fit(Recipe(ARCHITECTURE, epochs=20), data.train, seed=0), build(ARCHITECTURE, seed=0)
    before.normalize.load_state_dict(model.normalize.state_dict())
    return Digits(data.train, data.test, model, before)


@pytest.fixture
def digits() -> Digits:
    return trained_digits()


def accuracy(model: nn.Module, examples: Examples, *, of: int | None = None, but: int | None = None) -> float:
    """In percent, of one class or of all but one."""
    y = examples.labels()
    chosen = (y == of) if but is None else (y != but)
    with torch.no_grad():
        return 100 * float((model(examples.x[chosen]).argmax(1) == y[chosen]).float().mean())


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("origin", ["pretrained", "initialization", "others"])
@pytest.mark.parametrize("label", [0, 4, 8])
def test_a_class_is_forgotten_and_the_rest_is_kept(digits: Digits, label: int, origin: Any):
    """methods.md 2.4: ACC_f ≤ 5 with RA ≥ 95. The features, before the gate, know the class as well as ever."""
    edited = digits.forget(label, ClassVectors(origin=origin))
    assert accuracy(digits.model, digits.test, of=label) > 85
    assert accuracy(edited, digits.test, of=label) <= 5
    assert accuracy(edited, digits.train, but=label) >= 95
    assert accuracy(edited, digits.test, but=label) >= accuracy(digits.model, digits.test, but=label) - 1
    hidden = class_accuracy(edited, digits.train, digits.test, label=label)
    assert hidden.head <= 0.05
    assert hidden.nearest_mean == class_accuracy(digits.model, digits.train, digits.test, label=label).nearest_mean


def test_only_steering_is_added(digits: Digits):
    before = copy.deepcopy(digits.model)
    edited = digits.forget(3, ClassVectors())
    added = {name: value for name, value in edited.state_dict().items() if name not in before.state_dict()}
    assert {*added} == {"steering.vectors", "steering.anchors", "steering.thresholds"}
    edited.steering = None
    assert same(edited, before)
    assert same(digits.model, before)
    forget = digits.splits(3).forget
    vector = class_vector(digits.model, digits.before, forget).direction
    assert any(torch.allclose(added["steering.vectors"][0], -scale * vector, atol=1e-5) for scale in SCALES)
    torch.testing.assert_close(added["steering.anchors"][0], digits.model.features(forget.x).mean(0).detach())


@pytest.mark.parametrize("method", [ClassVectors(scale=0.0), ClassVectors(threshold=1.01)])
def test_no_shift_and_no_gate_leave_every_logit(digits: Digits, method: ClassVectors):
    edited = digits.forget(5, method)
    with torch.no_grad():
        assert torch.equal(edited(digits.test.x), digits.model(digits.test.x))


def test_a_second_class_is_forgotten_beside_the_first(digits: Digits):
    once = digits.forget(1, ClassVectors())
    twice = digits.forget(6, ClassVectors(), once)
    assert len(twice.steering.vectors) == 2
    assert accuracy(twice, digits.test, of=1) <= 5
    assert accuracy(twice, digits.test, of=6) <= 5
    others = ~np.isin(digits.train.labels().numpy(), (1, 6))
    assert accuracy(twice, digits.train.take(others), but=1) >= 95


def test_the_smallest_scale_that_forgets_is_found(digits: Digits):
    label = 2
    found = digits.forget(label, ClassVectors(images=10_000)).steering.vectors[0]
    vector = class_vector(digits.model, digits.before, digits.splits(label).forget).direction
    scale = -float(found @ vector / (vector @ vector))
    features = digits.model.features(digits.splits(label).forget.x).detach()

    def called(factor: float) -> float:
        return float((digits.model.head(features - factor * vector).argmax(1) == label).float().mean())

    position = min(range(len(SCALES)), key=lambda i: abs(SCALES[i] - scale))
    assert scale == pytest.approx(SCALES[position], rel=1e-4)
    assert called(scale) == 0
    assert all(called(smaller) > 0 for smaller in SCALES[:position])


def test_it_sees_what_it_says(digits: Digits):
    gated = Need.CLASS_WISE | Need.FORGET_INPUTS | Need.RETAIN_INPUTS
    assert ClassVectors().needs == gated | Need.PRETRAINED
    assert ClassVectors(threshold=0.5).needs == Need.CLASS_WISE | Need.FORGET_INPUTS | Need.PRETRAINED
    assert ClassVectors(origin="initialization").needs == ClassVectors(origin="others", threshold=0.5).needs == gated
    with pytest.raises(UsageError, match=r"^ClassVectors needs pretrained; grant it with unlearn\(\.\.\., pretrained="):
        unlearn(digits.model, digits.splits(0), ClassVectors(), seed=0)
    unnamed = replace(digits.splits(0), forget_class=None)
    with pytest.raises(UsageError, match=r"^ClassVectors forgets whole classes only"):
        unlearn(digits.model, unnamed, ClassVectors(origin="others"), seed=0)
    # labels are no part of it, and with a threshold the retain set is none either
    given = ClassVectors(threshold=0.5)
    splits = digits.splits(0)
    shifted = replace(
        splits,
        forget=replace(splits.forget, y=splits.forget.labels() + 1),
        retain=splits.retain.take(np.arange(len(splits.forget))),
    )
    blind = unlearn(digits.model, shifted, given, seed=0, pretrained=digits.before).model
    assert same(blind, digits.forget(0, given))


def test_chance_is_which_images_are_looked_at(digits: Digits):
    few = ClassVectors(origin="initialization", images=20, others=50)
    first, again, other = (digits.forget(7, few, seed=seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    for method in (replace(few, images=30), replace(few, others=1000), replace(few, origin="others")):
        assert not same(digits.forget(7, method, seed=1), first)
    assert same(digits.forget(7, ClassVectors(), seed=1), digits.forget(7, ClassVectors(), seed=2))  # all of them


def test_examples_are_drawn_without_repeat_and_in_order(digits: Digits):
    rng = torch.Generator().manual_seed(0)
    some = drawn(digits.test, 20, rng)
    position = {name: i for i, name in enumerate(digits.test.ids)}
    rows = [position[name] for name in some.ids]
    assert rows == sorted({*rows})
    assert len(rows) == 20
    assert drawn(digits.test, 10_000, rng).ids.tolist() == digits.test.ids.tolist()


def test_the_edit_survives_the_file_and_the_store(digits: Digits, tmp_path: Path):
    edited, store = digits.forget(9, ClassVectors()), Store(tmp_path / "store")
    save_model(tmp_path / "model.safetensors", edited, ARCHITECTURE)
    assert same(load_model(tmp_path / "model.safetensors", ARCHITECTURE), edited)
    store.write("abcd", pack(edited.state_dict(), ARCHITECTURE), {})
    kept = build(ARCHITECTURE, seed=1)
    load_state(kept, store.read("abcd"), what="store", architecture=ARCHITECTURE)
    assert same(kept, edited)
    with torch.no_grad():
        assert torch.equal(kept(digits.test.x), edited(digits.test.x))


def test_hyperparameters_are_plain_values_and_held_to_their_range():
    method = ClassVectors(origin="others", scale=1.0, threshold=0.5)
    assert ClassVectors(**json.loads(json.dumps(method.params))) == method
    assert ClassVectors(**json.loads(json.dumps(ClassVectors().params))) == ClassVectors()
    for wrong, sentence in (
        ({"scale": -1.0}, r"ClassVectors.scale: must be greater than or equal to 0, got -1.0"),
        ({"threshold": -2.0}, r"ClassVectors.threshold: must be greater than or equal to -1, got -2.0"),
        ({"images": 0}, r"ClassVectors.images: must be greater than or equal to 1, got 0"),
        ({"others": 0}, r"ClassVectors.others: must be greater than or equal to 1, got 0"),
        (
            {"origin": "scratch"},
            r"ClassVectors.origin: must be 'pretrained', 'initialization' or 'others', got 'scratch'",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{sentence}$"):
            validated(ClassVectors, wrong)


def test_a_model_without_a_seam_is_refused(digits: Digits):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(
        UsageError, match=r"^ClassVectors: class vectors need a model split into body and head, got Seq"
    ):
        unlearn(plain, digits.splits(0), ClassVectors(origin="others"), seed=0)
