"""unlearn() against methods that break the contract on purpose."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from torch import nn

from unlearnkit.models import Architecture, Classifier, Steering, build
from unlearnkit.result import UsageError
from unlearnkit.train import Recipe
from unlearnkit.types import Access, Method, Need, Splits
from unlearnkit.unlearning import unlearn

ARCHITECTURE = Architecture("mlp", 3, (1, 8, 8))


def model() -> Classifier:
    return build(ARCHITECTURE, seed=0)


def splits(blobs: MakeBlobs, forget_class: int | None = None) -> Splits:
    train = blobs(12)
    return Splits(train.take(np.arange(3)), train.take(np.arange(3, 12)), blobs(6, prefix="test"), forget_class)


@dataclass(frozen=True)
class Does(Method):
    """Does whatever it is told."""

    needs: ClassVar[Need] = Need.FORGET_INPUTS
    what: Callable[[Any, Access, torch.Generator], Any] = field(default=lambda model, access, rng: model)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return self.what(model, access, rng)

    @property
    def params(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class ForgetsMost(Does):
    forgets_most: ClassVar[bool] = True


@dataclass(frozen=True)
class ClassWise(Does):
    needs: ClassVar[Need] = Need.CLASS_WISE


@dataclass(frozen=True)
class NeedsUnseen(Does):
    needs: ClassVar[Need] = Need.UNSEEN


@dataclass(frozen=True)
class NeedsPretrained(Does):
    needs: ClassVar[Need] = Need.PRETRAINED


@dataclass(frozen=True)
class NeedsRecipe(Does):
    needs: ClassVar[Need] = Need.RECIPE | Need.RETAIN


@dataclass(frozen=True)
class Steers(Does):
    adds_steering: ClassVar[bool] = True


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def noise(model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng))
            parameter.add_(torch.rand(1))  # and from the global generator
    model.train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.head.weight.requires_grad_(False)
    return model


def test_what_comes_back_is_checked_copied_and_recorded(blobs: MakeBlobs):
    original = model()
    result = unlearn(original, splits(blobs), Does(noise), seed=5)
    assert same(original, model())
    assert not same(result.model, original)
    assert (result.method, result.params, result.saw, result.seed) == ("Does", {}, ("forget_inputs",), 5)
    assert all(not module.training for module in result.model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in result.model.parameters())
    assert same(unlearn(original, splits(blobs), Does(noise), seed=5).model, result.model)
    assert not same(unlearn(original, splits(blobs), Does(noise), seed=6).model, result.model)


def test_the_method_gets_a_private_trainable_copy_in_eval_mode(blobs: MakeBlobs):
    original = model().train()
    for parameter in original.parameters():
        parameter.requires_grad_(False)

    def look(copy: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        assert copy is not original
        assert not copy.training
        assert all(parameter.requires_grad for parameter in copy.parameters())
        assert same(copy, original)
        assert torch.get_num_threads() == 1
        return copy

    unlearn(original, splits(blobs), Does(look), seed=0)
    assert original.training
    assert not any(parameter.requires_grad for parameter in original.parameters())


def test_time_is_recorded(blobs: MakeBlobs):
    def slow(model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        time.sleep(0.05)
        return model

    assert 0.05 <= unlearn(model(), splits(blobs), Does(slow), seed=0).seconds < 5


@pytest.mark.usefixtures("as_users_run")  # the type checks of the test run draw from the global state
def test_global_random_state_and_threads_are_put_back_also_after_an_error(blobs: MakeBlobs):
    def fails(model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        torch.rand(3)
        raise KeyError("inside")

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    try:
        unlearn(model(), splits(blobs), Does(noise), seed=0)
        with pytest.raises(UsageError, match=r"Does raised KeyError: 'inside' \(test_unlearn.py, line \d+\)$"):
            unlearn(model(), splits(blobs), Does(fails), seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def renamed(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    model.top = model.head
    del model.head
    return model


def reshaped(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    model.head = nn.Linear(128, 2)
    return model


def halved(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    return model.half()


def poisoned(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    nn.init.constant_(model.head.bias, float("nan"))
    return model


def exploded(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    model.normalize.std.fill_(float("inf"))
    return model


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (renamed, r"Does returned a model with other weights than it was given; the first that differs .* 'head.bias'"),
        (reshaped, r"Does returned a model with other weights .* in name, shape or type is 'head.bias'"),
        (halved, r"Does returned a model with other weights .* in name, shape or type is 'body.1.bias'"),
        (poisoned, r"Does: 'head.bias' holds NaN or infinite values; choose a smaller learning rate"),
        (exploded, r"Does: 'normalize.std' holds NaN or infinite values"),
        (lambda *_: None, r"Does: `run` must return the model it edited, got NoneType"),
        (lambda *_: "model.pt", r"Does: `run` must return the model it edited, got str"),
    ],
)
def test_methods_that_return_something_else_are_refused(blobs: MakeBlobs, what: Any, sentence: str):
    with pytest.raises(UsageError, match=sentence):
        unlearn(model(), splits(blobs), Does(what), seed=0)


def steer(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    rows = 1 if model.steering is None else 1 + len(model.steering.vectors)
    model.steering = Steering(torch.ones(rows, 128), torch.ones(rows, 128), torch.zeros(rows))
    return model


def test_steering_may_be_added_by_a_method_that_says_so(blobs: MakeBlobs):
    once = unlearn(model(), splits(blobs), Steers(steer), seed=0).model
    twice = unlearn(once, splits(blobs), Steers(steer), seed=0).model
    assert [len(m.steering.vectors) for m in (once, twice)] == [1, 2]
    assert same(unlearn(once, splits(blobs), Does(), seed=0).model, once)


def unsteer(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    model.steering = None
    return model


def test_steering_that_was_not_declared_and_everything_else_is_refused(blobs: MakeBlobs):
    once = unlearn(model(), splits(blobs), Steers(steer), seed=0).model
    for start, method, name in (
        (model(), Does(steer), "steering.anchors"),
        (once, Does(steer), "steering.anchors"),
        (once, Steers(unsteer), "steering.anchors"),
        (model(), Steers(renamed), "head.bias"),
        (model(), Steers(reshaped), "head.bias"),
        (model(), Steers(steers_and_adds), "extra"),
    ):
        with pytest.raises(UsageError, match=rf"returned a model with other weights .* is '{name}'$"):
            unlearn(start, splits(blobs), method, seed=0)


def steers_and_adds(model: Any, access: Access, rng: torch.Generator) -> nn.Module:
    model.extra = nn.Parameter(torch.zeros(2))
    return steer(model, access, rng)


def test_a_method_that_reaches_the_callers_model_is_refused(blobs: MakeBlobs):
    original: Any = model()

    def edits(copy: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        original.normalize.mean.add_(1)
        return copy

    def returns(copy: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return original

    def shares(copy: Any, access: Access, rng: torch.Generator) -> nn.Module:
        copy.head = original.head
        return copy

    def removes(copy: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        del original.head
        return copy

    with pytest.raises(UsageError, match=r"Does changed the caller's model \('normalize.mean'\); it must edit its own"):
        unlearn(original, splits(blobs), Does(edits), seed=0)
    with pytest.raises(UsageError, match=r"Does returned weights of the caller's model \('normalize.mean'\)"):
        unlearn(original, splits(blobs), Does(returns), seed=0)
    with pytest.raises(UsageError, match=r"Does returned weights of the caller's model \('head.weight'\)"):
        unlearn(original, splits(blobs), Does(shares), seed=0)
    with pytest.raises(UsageError, match=r"Does changed the caller's model \('head.weight'\)"):
        unlearn(original, splits(blobs), Does(removes), seed=0)


def test_access_that_was_not_declared_is_refused(blobs: MakeBlobs):
    def peeks(model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        assert access.forget.y is None
        assert access.retain is not None
        return model

    with pytest.raises(
        UsageError, match=r"Does asked for retain_inputs without declaring it; add Need.RETAIN_INPUTS to"
    ):
        unlearn(model(), splits(blobs), Does(peeks), seed=0)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (NeedsUnseen(), r"NeedsUnseen needs unseen; grant it with unlearn\(..., unseen=held_out_examples\)"),
        (NeedsPretrained(), r"NeedsPretrained needs pretrained; .* pretrained=model_before_training\)"),
        (NeedsRecipe(), r"NeedsRecipe needs recipe; grant it with unlearn\(..., recipe=recipe\)"),
        (ClassWise(), r"ClassWise forgets whole classes only; ask for a class \(forget_class\), not for examples"),
    ],
)
def test_needs_that_were_not_granted_say_how(blobs: MakeBlobs, method: Method, sentence: str):
    with pytest.raises(UsageError, match=sentence):
        unlearn(model(), splits(blobs), method, seed=0)


def test_more_to_forget_than_to_keep_is_refused_unless_the_method_may(blobs: MakeBlobs):
    train = blobs(12)

    def cut(n: int) -> Splits:
        return Splits(train.take(np.arange(n)), train.take(np.arange(n, 12)), blobs(6, prefix="test"))

    assert unlearn(model(), cut(6), Does(), seed=0).method == "Does"
    with pytest.raises(
        UsageError,
        match=r"^Does: the forget set must not be larger than the retain set, got 7 against 5 examples; a model that "
        r"keeps so little is to be trained afresh, by Retrain$",
    ):
        unlearn(model(), cut(7), Does(), seed=0)
    assert unlearn(model(), cut(7), ForgetsMost(), seed=0).method == "ForgetsMost"


def test_needs_that_were_granted_are_handed_over(blobs: MakeBlobs):
    recipe, unseen, pretrained = Recipe(ARCHITECTURE), blobs(2, prefix="val"), model()
    met: list[Any] = []

    def meets(model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        met.extend(getattr(access, need.name.lower()) for need in (Need.UNSEEN, Need.RECIPE) if need in access.granted)
        if Need.PRETRAINED in access.granted:
            with torch.no_grad():
                access.pretrained.head.bias.add_(1)  # its own copy to play with
        if Need.CLASS_WISE in access.granted:
            met.append(access.forget_class)
        return model

    for method in (NeedsUnseen(meets), NeedsRecipe(meets), NeedsPretrained(meets)):
        unlearn(model(), splits(blobs), method, seed=0, recipe=recipe, unseen=unseen, pretrained=pretrained)
    result = unlearn(model(), splits(blobs, forget_class=0), ClassWise(meets), seed=0)
    assert met == [unseen, recipe, 0]
    assert result.saw == ("class_wise",)
    assert same(pretrained, model())


def test_the_class_zero_is_a_class(blobs: MakeBlobs):
    assert unlearn(model(), splits(blobs, forget_class=0), ClassWise(), seed=0).method == "ClassWise"


def test_a_name_for_more_than_is_needed_is_not_handed_over(blobs: MakeBlobs):
    def peeks(model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        assert access.unseen is not None
        return model

    with pytest.raises(UsageError, match=r"add Need\.UNSEEN"):
        unlearn(model(), splits(blobs), Does(peeks), seed=0, unseen=blobs(2, prefix="val"))
