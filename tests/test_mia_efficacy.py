"""The attacks of published tables: exactly their classifiers, their numbers by hand, and why they decide nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from test_population import holding, observed, world

from unlearnkit.attacks import BasicLogistic, MiaEfficacy
from unlearnkit.attacks.mia_efficacy import basic_mia, mia_efficacy
from unlearnkit.attacks.signals import confidence, loss
from unlearnkit.result import UsageError
from unlearnkit.types import Known, Observation


def test_the_legacy_number_is_that_of_the_legacy_machine() -> None:
    rng = np.random.default_rng(0)
    retain, test, forget = rng.beta(8, 1, 300), rng.beta(3, 2, 100), rng.beta(5, 2, 60)
    machine = SVC(C=3, gamma="auto", kernel="rbf")
    machine.fit(np.concatenate([retain[:100], test])[:, None], np.concatenate([np.ones(100), np.zeros(100)]))
    assert mia_efficacy(forget, retain, test) == pytest.approx(1 - machine.predict(forget[:, None]).mean())
    # the first rows of the retained set, as many as there are test examples, and no others
    assert mia_efficacy(forget, retain, test) == mia_efficacy(forget, retain[:100], test)
    few = mia_efficacy(forget, retain[:40], test)
    machine.fit(np.concatenate([retain[:40], test])[:, None], np.concatenate([np.ones(40), np.zeros(100)]))
    assert few == pytest.approx(1 - machine.predict(forget[:, None]).mean())


def test_by_hand_on_separated_confidences() -> None:
    retain, test = np.full(20, 0.99), np.full(20, 0.2)
    assert mia_efficacy(np.array([0.98, 0.97, 0.99, 0.1]), retain, test) == 0.25
    assert mia_efficacy(np.array([0.1, 0.2]), retain, test) == 1.0


def test_lowering_confidence_on_the_forget_set_improves_it() -> None:
    """Known flaw (audits.md 2.3 i, 13.11): nothing was forgotten, the deleted are all the easier to find."""
    members, others, retained = (world(200, b, s).margins[:, 0] for b, s in ((4.0, 1), (0.0, 2), (4.0, 3)))
    share = [
        mia_efficacy(1 / (1 + np.exp(-part)), *(1 / (1 + np.exp(-p)) for p in (retained, others)))
        for part in (members, members - 6.0)
    ]
    assert share[0] < 0.4
    assert share[1] > 0.9


def test_scores_are_the_decision_function_and_its_sign_the_call() -> None:
    known, target = holding(4.0), world(80, 2.0, 9)
    assert known.members is not None
    assert known.population is not None
    scores = MiaEfficacy().score(target, known).values
    efficacy = mia_efficacy(*(confidence(part) for part in (target, known.members, known.population)))
    assert np.mean(scores <= 0) == pytest.approx(efficacy)
    assert 0 < efficacy < 1


def test_the_basic_attack_is_a_logistic_regression_on_the_clipped_loss() -> None:
    known, target = holding(4.0), world(80, 2.0, 9)
    assert known.members is not None
    assert known.population is not None
    taught = np.concatenate([-loss(known.members), -loss(known.population)])
    machine = LogisticRegression().fit(taught[:, None], np.repeat([1, 0], 120))
    np.testing.assert_allclose(
        BasicLogistic().score(target, known).values, machine.decision_function(-loss(target)[:, None]), rtol=1e-9
    )
    lost = observed(np.array([[[0.0, 500.0, 0.0]], [[0.0, 1000.0, 0.0]]]), np.array([0, 0]))
    scores = BasicLogistic().score(lost, known)
    assert scores.values[0] == scores.values[1]  # 500 and 1000 nats are both 100
    assert scores.flags[0].name == "constant scores"


def test_the_legacy_accuracy() -> None:
    assert basic_mia(world(100, 8.0, 1), world(100, 0.0, 2), seed=0) > 0.85
    found = [basic_mia(world(100, 0.0, 2 * s), world(100, 0.0, 2 * s + 1), seed=s) for s in range(12)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)
    assert basic_mia(world(60, 1.0, 1), world(100, 0.0, 2), seed=0) == basic_mia(
        world(60, 1.0, 1), world(100, 0.0, 2), seed=0
    )


def test_test_examples_of_other_classes_play_no_part() -> None:
    forget, test = world(60, 0.0, 1), world(300, 0.0, 2)
    one = forget.take(forget.y == 0)
    margins = np.where(test.y[:, None] == 0, test.margins, -50.0)  # other classes would give the game away
    other = Observation(test.ids, test.y, margins, test.logits)
    assert basic_mia(one, other, seed=0) == basic_mia(one, test, seed=0)


def test_neither_weighs_in_a_verdict_and_both_say_why() -> None:
    for attack in (MiaEfficacy, BasicLogistic):
        assert attack.weight is False
        assert attack.__doc__ is not None
        assert "omparability only" in attack.__doc__
    assert mia_efficacy.__doc__ is not None
    assert "flaws" in mia_efficacy.__doc__


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="mia_efficacy: needs confidences on the test set, got none"):
        mia_efficacy(np.ones(3), np.ones(3), np.ones(0))
    with pytest.raises(UsageError, match=r"needs 10 forget examples and 10 test examples .* got 5 and 90"):
        basic_mia(world(5, 0.0, 1), world(90, 0.0, 2), seed=0)
    with pytest.raises(UsageError, match="MiaEfficacy: needs members"):
        MiaEfficacy().score(world(5, 0.0, 0), Known(population=world(5, 0.0, 1)))
