"""Bilevel search: it moves, finds what is redundant, repeats itself bit for bit, goes on, and says its price."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from arena_samples import arena_of, noise
from torch.nn import functional

from unlearnkit.audits.worst_case import bilevel as module
from unlearnkit.audits.worst_case.apart import SearchSeeds
from unlearnkit.audits.worst_case.bilevel import Bilevel, bilevel, weighted_finetune
from unlearnkit.methods import BoundaryExpand, ClassVectors, FineTune, RandomLabel
from unlearnkit.result import UsageError

QUICK = Bilevel(6, upper=3, lower=2, lr=1e-3, batch_size=32)


@pytest.fixture
def arena(tmp_path, blobs):
    return arena_of(tmp_path, blobs(60), blobs(30, seed=1, prefix="test"))


def test_the_search_moves_and_shows_it(arena):
    found = bilevel(arena, replace(QUICK, upper=6), SearchSeeds(0))
    assert found.places.size == np.unique(found.places).size == 6
    assert found.trace[0].replaced > 0
    assert found.trace[-1].overlap < 0.5
    assert found.trace[-1].objective < found.trace[0].objective
    assert found.forget_class is None
    stuck = bilevel(arena, replace(QUICK, step="constant", rate=1e-6), SearchSeeds(0))
    assert stuck.trace[-1].overlap == 1.0  # the published defect, kept behind a field
    assert all(step.replaced == 0 for step in stuck.trace)


def test_twins_of_retained_examples_are_selected_first(tmp_path):
    arena = arena_of(tmp_path, noise(80, 0, kinds=4, copies=4), noise(20, 1, prefix="test"), epochs=30)
    found = bilevel(arena, Bilevel(4, lr=1e-3, batch_size=32), SearchSeeds(0))
    assert set(found.places) <= set(range(16))  # by chance 0.8 of 4


@pytest.mark.parametrize("step", ["scale-free", "average"])
def test_the_same_seed_gives_the_same_set_and_what_is_finished_is_not_made_again(arena, monkeypatch, step):
    settings = replace(QUICK, step=step)
    calls = []
    real = weighted_finetune

    def counted(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(module, "weighted_finetune", counted)
    monkeypatch.setattr(module, "code_of", lambda thing: "code")
    with pytest.raises(KeyboardInterrupt):
        bilevel(arena, settings, SearchSeeds(0))
    found = bilevel(arena, settings, SearchSeeds(0))
    assert len(calls) == 4  # two finished, one interrupted, one left
    again = bilevel(arena, settings, SearchSeeds(0))
    assert len(calls) == 4
    np.testing.assert_array_equal(found.places, again.places)
    np.testing.assert_array_equal(found.scores, again.scores)
    assert not np.array_equal(bilevel(arena, settings, SearchSeeds(1)).scores, found.scores)


def test_fresh_makes_every_step_anew(tmp_path, blobs, monkeypatch):
    sets = blobs(60), blobs(30, seed=1, prefix="test")
    first = bilevel(arena_of(tmp_path, *sets), QUICK, SearchSeeds(0))
    calls = []
    real = weighted_finetune
    monkeypatch.setattr(module, "weighted_finetune", lambda *a, **k: calls.append(1) or real(*a, **k))
    monkeypatch.setattr(module, "code_of", lambda thing: __import__("unlearnkit.provenance").provenance.code_of(real))
    again = bilevel(arena_of(tmp_path, *sets, fresh=True), QUICK, SearchSeeds(0))
    assert len(calls) == QUICK.upper
    np.testing.assert_array_equal(first.places, again.places)


def test_a_sign_step_is_that_of_a_plain_loop(arena):
    arena.fleet.run([arena.original])
    original = arena.fleet.read(arena.original)
    examples = arena.fleet.bench.sets.train
    w = np.where(examples.labels().numpy() == 0, 0.98, np.linspace(0, 0.9, 60))  # one class has hardly a say
    losses = weighted_finetune(original, examples, w, epochs=1, lr=0.01, batch_size=60, seed=0)
    model = arena.fleet.read(arena.original)
    loss = functional.cross_entropy(model(examples.x), examples.labels(), reduction="none")
    ((1 - torch.from_numpy(w)).float() * loss).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad.sign()
        expected = functional.cross_entropy(model(examples.x), examples.labels(), reduction="none")
    np.testing.assert_allclose(losses, expected.numpy(), rtol=1e-3, atol=1e-5)
    alike = weighted_finetune(original, examples, np.zeros(60), epochs=1, lr=0.01, batch_size=60, seed=0)
    assert not np.allclose(losses, alike, rtol=0.01)
    before, after = original.state_dict(), arena.fleet.read(arena.original).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_examples_of_full_weight_are_not_trained_on(arena):
    arena.fleet.run([arena.original])
    original, examples = arena.fleet.read(arena.original), arena.fleet.bench.sets.train
    w = np.zeros(60)
    w[:30] = 1.0
    half = weighted_finetune(original, examples, w, epochs=2, lr=1e-3, batch_size=16, seed=0)
    x = examples.x.clone()
    x[:30] = 255 - x[:30]
    changed = replace_x(examples, x)
    other = weighted_finetune(original, changed, w, epochs=2, lr=1e-3, batch_size=16, seed=0)
    np.testing.assert_array_equal(half[30:], other[30:])


def replace_x(examples, x):
    return type(examples)(x, examples.y, examples.ids)


def test_the_average_is_that_of_the_last_half(arena, monkeypatch):
    losses = np.random.default_rng(0).random((4, 60))
    monkeypatch.setattr(module._Lower, "losses", lambda self, step, *rest: losses[step])
    found = bilevel(arena, replace(QUICK, upper=4, step="average"), SearchSeeds(0))
    assert set(found.places) == set(np.argsort(losses[2:].mean(axis=0))[:6])


def test_any_method_may_stand_in_the_lower_level(arena):
    found = bilevel(arena, replace(QUICK, method=RandomLabel(epochs=1)), SearchSeeds(0))
    assert found.against == "RandomLabel"
    assert len(found.keys) == 3
    assert found.trace[-1].overlap < 1


def test_which_classes_are_hardest(arena):
    found = bilevel(arena, replace(QUICK, size=1, over="classes"), SearchSeeds(0))
    assert found.forget_class is not None
    assert set(arena.labels[found.places]) == {found.forget_class}
    assert found.places.size == 20
    two = bilevel(arena, replace(QUICK, size=2, over="classes"), SearchSeeds(0))
    assert two.forget_class is None
    assert two.places.size == 40
    whole = bilevel(
        arena, replace(QUICK, upper=1, size=1, over="classes", method=BoundaryExpand(epochs=1)), SearchSeeds(0)
    )
    assert whole.against == "BoundaryExpand"


@pytest.mark.parametrize("step", ["scale-free", "average"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_class_that_stays_known_is_found(tmp_path, blobs, step, seed):
    """Classes 1 and 2 look alike: whichever is not trained on is taken for the other; class 0 stays what it is."""
    train = blobs(60)
    one, two = (torch.from_numpy(np.flatnonzero(train.labels().numpy() == c)) for c in (1, 2))
    x = train.x.clone()
    x[two] = x[one]
    arena = arena_of(tmp_path, replace(train, x=x), blobs(30, seed=1, prefix="test"))
    found = bilevel(arena, replace(QUICK, size=1, over="classes", upper=6, step=step), SearchSeeds(seed))
    assert found.forget_class == 0


def test_the_price_is_known_beforehand():
    cost = Bilevel(10).cost(20)
    assert (cost.trained, cost.looks) == (200, 20)
    assert cost.sentence == (
        "200 passes over the training data forward and backward and 20 forward only, about 10.3 trainings of the "
        "original"
    )
    assert Bilevel(10, method=FineTune()).cost(20).sentence.startswith("20 unlearnings with FineTune and 20 passes")
    assert Bilevel(10, budget=35).steps == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": 10}, "worst_case.budget: 10 passes are too few for one upper step, which takes 11"),
        ({"budget": 5, "method": FineTune(epochs=7)}, "too few for one upper step, which takes 8"),
        ({"upper": 0}, "worst_case.upper: must be at least 1, got 0"),
        ({"lr": 0.0}, "worst_case.lr: must be above 0 and finite, got 0.0"),
        ({"gamma": -1.0}, "worst_case.gamma: must be at least 0 and finite, got -1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, said):
    with pytest.raises(UsageError, match=said):
        Bilevel(6, **change)


@pytest.mark.parametrize("size", [0, 60, 61])
def test_none_and_all_are_refused(arena, size):
    with pytest.raises(UsageError, match=f"between 1 and 59 of the 60 training examples, got {size}"):
        bilevel(arena, replace(QUICK, size=size), SearchSeeds(0))


def test_one_class_a_class_wise_method_and_one_that_needs_the_start_are_refused(tmp_path, blobs, arena):
    alone = arena_of(tmp_path / "one", blobs(20, classes=1), blobs(9, seed=1, classes=1, prefix="test"))
    with pytest.raises(UsageError, match=r"worst_case.over: the training data hold one class only \(0\)"):
        bilevel(alone, replace(QUICK, size=1, over="classes"), SearchSeeds(0))
    with pytest.raises(UsageError, match="ClassVectors forgets whole classes only"):
        bilevel(arena, replace(QUICK, method=ClassVectors()), SearchSeeds(0))
    with pytest.raises(UsageError, match="ClassVectors forgets whole classes only"):
        bilevel(arena, replace(QUICK, size=2, over="classes", method=ClassVectors()), SearchSeeds(0))


def test_a_model_that_runs_away_is_told_so(arena):
    with pytest.raises(UsageError, match=r"worst_case.lr: the model became infinite in the lower level; choose below"):
        bilevel(arena, replace(QUICK, lr=1e38), SearchSeeds(0))
