"""The certificate by hand, no model in common with the search, and an attack search that finds a planted leak."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from arena_samples import arena_of
from torch import nn

from unlearnkit.attacks import RMIA, RMIAOffline, Threshold
from unlearnkit.audits.worst_case.apart import EvaluationSeeds, SearchSeeds
from unlearnkit.audits.worst_case.arena import Found, check_needs
from unlearnkit.audits.worst_case.attack_search import AttackSearch, attack_search
from unlearnkit.audits.worst_case.certificate import Scale, certify
from unlearnkit.audits.worst_case.gaps import Answers, Instruments, Looked, measured
from unlearnkit.audits.worst_case.pool import pool_of
from unlearnkit.jobs import GivenModel
from unlearnkit.methods import ClassVectors, FineTune, Retrain
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.train import fit
from unlearnkit.types import Access, Method, Need

SMALL = Scale(oracles=2, unlearnings=2)


@dataclass(frozen=True)
class ForgetsBright(Method):
    """Retrains without what it is to forget, but for examples marked in their corner pixel: those it keeps."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN | Need.RECIPE

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        marked = access.forget.x[:, 0, 0, 0] == 255
        if not bool(marked.any()):
            return fit(access.recipe, access.retain, seed=1)
        kept = access.forget.take(marked.numpy())
        x = torch.cat([access.retain.x, *[kept.x] * 8])
        y = torch.cat([access.retain.labels(), *[kept.labels()] * 8])
        ids = np.array([str(i) for i in range(len(x))])
        return fit(access.recipe, type(kept)(x, y, ids), seed=1)


@pytest.fixture(scope="module")
def arena(tmp_path_factory, blobs):
    return arena_of(tmp_path_factory.mktemp("certificate"), blobs(60), blobs(30, seed=1, prefix="test"))


def found(places, keys=(), forget_class=None):
    places = np.array(places)
    return Found("search", "", places, np.zeros(places.size), "", keys=tuple(keys), forget_class=forget_class)


def test_the_numbers_are_those_of_the_models(arena):
    told = certify(
        arena,
        {"hard": found(range(6))},
        [FineTune(epochs=1)],
        EvaluationSeeds(0),
        scale=SMALL,
        instruments=Instruments({"RMIA": RMIAOffline()}, lambda forget, known: float((forget.margins < 0).mean())),
    )
    assert [one.kind for one in told.sets] == ["found"] + ["random"] * 5
    assert {one.size for one in told.sets} == {6}
    assert {one.classes[:3] for one in told.sets} == {(2, 2, 2)}
    cell = next(c for c in told.cells if c.set == "hard")
    oracles = [arena.retrained(np.arange(6), seed=s) for s in EvaluationSeeds(0).draw("oracles of hard", 2)]
    audited = [
        arena.unlearned(FineTune(epochs=1), np.arange(6), seed=s)
        for s in EvaluationSeeds(0).draw("FineTune on hard", 2)
    ]
    arena.fleet.run([*audited, *oracles])
    seen = [observe(arena.fleet.read(job), arena.fleet.bench.points(arena.points)) for job in (*audited, *oracles)]
    right = np.stack([one.right() for one in seen])
    rates = 100 * np.stack([1 - right[:, :6].mean(1), right[:, 6:60].mean(1), right[:, 60:].mean(1)], axis=1)
    by_name = {m.name: m for m in cell.measures}
    for i, name in enumerate(("UA", "RA", "TA")):
        assert by_name[name].audited.value == pytest.approx(rates[:2, i].mean())
        assert by_name[name].oracles.value == pytest.approx(rates[2:, i].mean())
    assert set(by_name) == {"UA", "RA", "TA", "MIA efficacy", "margin shift", "RMIA AUC"}
    assert by_name["MIA efficacy"].audited.value == pytest.approx(rates[:2, 0].mean())
    gaps = np.abs(rates[:2] - rates[2:].mean(axis=0))[:, [0, 1, 2, 0]]
    assert cell.average_gap.value == pytest.approx(gaps.mean())
    assert by_name["margin shift"].p is None  # of two oracles
    rows = {(row.method, row.measure) for row in told.hardness}
    assert rows == {
        ("", "retrained UA"),
        ("FineTune", "average gap"),
        ("FineTune", "|margin shift|"),
        ("FineTune", "|RMIA AUC|"),
    }


def test_a_whole_class_is_held_against_other_classes(arena):
    told = certify(
        arena,
        {"class": found(np.flatnonzero(arena.labels == 1), forget_class=1)},
        [FineTune(epochs=1)],
        EvaluationSeeds(0),
        scale=SMALL,
        instruments=Instruments(),
    )
    assert told.sets[0].forget_class == 1
    assert {one.forget_class for one in told.sets[1:]} == {0, 2}
    assert "2 other classes stand for random sets" in told.flags[0].sentence


def whole_class(held_out=(0, 1, 2, 0)):
    """Class 1, two examples; two retained ones. Of four held-out ones the second is of the class, and wrong."""
    right = np.array([[False, False, True, True, True, False, True, True]] * 2)
    answers = Answers(np.where(right, 2.0, -2.0).astype(np.float32), right)
    y = np.array([1, 1, 0, 2, *held_out])
    return Looked("class", "found", "", 1, (), np.array(["a", "b"]), y, 2, answers, {"M": answers})


def test_held_out_examples_of_a_forgotten_class_are_not_counted():
    """TA, the population of the legacy efficacy and that of RMIA: all three without them, as in the literature."""
    asked = []

    def efficacy(forget, known):
        asked.append((forget.y.tolist(), known.population.y.tolist(), known.members.y.tolist()))
        return 1.0

    instruments = Instruments({"RMIA": RMIAOffline()}, efficacy)
    told = measured([whole_class()], classes=3, confidence=0.95, instruments=instruments)
    assert told.sets[0].retrained["TA"].value == 100.0
    assert {m.name: m.audited.value for m in told.cells[0].measures}["TA"] == 100.0
    assert asked[0] == ([1, 1], [0, 2, 0], [0, 2])
    some = replace(whole_class(), forget_class=None)
    told = measured([some], classes=3, confidence=0.95, instruments=instruments)
    assert told.sets[0].retrained["TA"].value == 75.0
    with pytest.raises(UsageError, match="at least two held-out points must be of other classes than 1, got 1"):
        whole_class((1, 1, 2, 1))


def test_a_model_of_the_search_is_refused_as_a_judge(arena):
    oracle = arena.retrained(np.arange(6), seed=EvaluationSeeds(0).draw("oracles of hard", 1)[0])
    with pytest.raises(UsageError, match="1 models were used in the search and cannot judge what it found"):
        certify(
            arena,
            {"hard": found(range(6), keys=[arena.fleet.key(oracle)])},
            [FineTune(epochs=1)],
            EvaluationSeeds(0),
            scale=SMALL,
            instruments=Instruments(),
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"random": 4}, "worst_case.random: must be at least 5, got 4"),
        ({"oracles": 1}, "worst_case.oracles: must be at least 2, got 1"),
        ({"unlearnings": 0}, "worst_case.unlearnings: must be at least 1, got 0"),
    ],
)
def test_a_scale_that_says_nothing_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        Scale(**change)


def test_a_method_stands_there_once(arena):
    with pytest.raises(UsageError, match="every method may stand there once, got FineTune, FineTune"):
        certify(
            arena,
            {"hard": found(range(6))},
            [FineTune(epochs=1), FineTune(epochs=2)],
            EvaluationSeeds(0),
            scale=SMALL,
            instruments=Instruments(),
        )


@pytest.mark.parametrize("attack", [None, Threshold()])
def test_the_attack_search_finds_what_a_method_does_not_forget(tmp_path, blobs, attack):
    train = blobs(60)
    rng = np.random.default_rng(0)
    train.x[:] = torch.from_numpy(rng.integers(0, 256, train.x.shape).astype(np.uint8))  # memory alone knows them
    train.x[:, 0, 0, 0] = 0
    train.x[:12, 0, 0, 0] = 255  # of these the method keeps a trace
    arena = arena_of(tmp_path, train, blobs(30, seed=1, prefix="test"), epochs=12)
    pool = pool_of(arena, 4, SearchSeeds(0))
    settings = AttackSearch(6, ForgetsBright(), attack, budget=14, repeats=1)
    result = attack_search(arena, pool, settings, SearchSeeds(0))
    assert result.details["found"] > result.details["start"]
    assert np.count_nonzero(result.places < 12) >= 3  # by chance 1.2
    assert len(result.trace) == 14
    again = attack_search(arena, pool, settings, SearchSeeds(0))
    np.testing.assert_array_equal(result.places, again.places)


def test_an_attack_that_needs_models_trained_on_held_out_points_is_refused(arena):
    with pytest.raises(UsageError, match=r"worst_case.attack: RMIA: .* take an attack that holds out-of-sample"):
        attack_search(
            arena, pool_of(arena, 4, SearchSeeds(0)), AttackSearch(6, FineTune(epochs=1), RMIA()), SearchSeeds(0)
        )


@dataclass(frozen=True)
class Needs(Method):
    """Needs what a field says."""

    what: Need

    @property
    def needs(self) -> Need:
        return self.what

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return model


def test_methods_whose_needs_cannot_be_met_are_refused(arena):
    with pytest.raises(UsageError, match="Needs needs held-out examples of its own, and none are lent here"):
        check_needs(Needs(Need.UNSEEN), arena, None)
    given = replace(arena, original=GivenModel("original", arena.recipe, "key"))
    with pytest.raises(UsageError, match=r"Needs needs the model before training, .*; leave model.weights out"):
        check_needs(Needs(Need.PRETRAINED), given, None)
    check_needs(Needs(Need.PRETRAINED | Need.CLASS_WISE), arena, 0)


def test_an_attack_search_that_cannot_be_is_refused(arena):
    settings = AttackSearch(6, Retrain())
    for change, said in (
        ({"budget": 3}, "worst_case.budget: 3 unlearnings are too few for one exchange, which takes 4"),
        ({"repeats": 0}, "worst_case.repeats: must be at least 1"),
        ({"exchange": 1.5}, "worst_case.exchange: must be above 0 and at most 1, got 1.5"),
    ):
        with pytest.raises(UsageError, match=said):
            replace(settings, **change)
    two = pool_of(arena, 2, SearchSeeds(0))
    with pytest.raises(UsageError, match=r"60 points have fewer than two models that never saw them, .* 'train/0'"):
        attack_search(arena, two, settings, SearchSeeds(0))
    with pytest.raises(UsageError, match="between 1 and 59 of the 60 training examples, got 60"):
        attack_search(arena, two, replace(settings, size=60), SearchSeeds(0))
    with pytest.raises(UsageError, match="ClassVectors forgets whole classes only"):
        attack_search(arena, two, replace(settings, method=ClassVectors()), SearchSeeds(0))
