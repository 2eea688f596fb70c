"""RMIA and BASE: fast against naive, the same order, saturated confidences, and the published defect."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from attack_samples import World, world
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from unlearnkit.attacks import BASE, RMIA, BASEOffline, RMIAOffline
from unlearnkit.attacks.rmia import log_ratio
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.masks import State
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Known, Observation, References


def naive(one: World, gamma: float, a: float | None) -> NDArray[np.float64]:
    """Every point against every population point, with probabilities as they stand in the paper."""
    references, population, beside = one.known.references, one.known.population, one.known.population_references
    assert references is not None
    assert population is not None
    assert beside is not None
    scores = np.zeros((len(one.target), one.target.margins.shape[1]))
    for v in range(scores.shape[1]):

        def ratio(observation: Observation, among: References, i: int, v: int = v) -> float:
            p = expit(among.margins[:, i, v])
            p_out = p[among.state[:, i] == State.OUT].mean()
            p_in = p[among.state[:, i] == State.IN]
            if a is not None:
                mean = ((1 + a) * p_out + (1 - a)) / 2
            else:
                mean = (p_out + p_in.mean()) / 2 if p_in.size else p_out
            return float(expit(observation.margins[i, v]) / mean)

        z = np.array([ratio(population, beside, i) for i in range(len(population))])
        scores[:, v] = [np.mean(ratio(one.target, references, i) / z >= gamma) for i in range(len(one.target))]
    return scores.mean(axis=1)


@pytest.mark.parametrize("gamma", [1.0, 1.3, 2.0])
def test_fast_equals_naive(gamma: float):
    one = world(1, leak=2.0, population=57, center=0.0)
    online = RMIA(gamma=gamma).score(one.target, one.known).values
    np.testing.assert_allclose(online, naive(one, gamma, None), atol=1e-12)
    assert np.unique(online).size > 5
    for a in (0.0, 0.3, 1.0):
        offline = RMIAOffline(gamma=gamma, a=a).score(one.target, one.known).values
        np.testing.assert_allclose(offline, naive(one, gamma, a), atol=1e-12)


def test_base_is_rmia_without_ties():
    """No pair of points is ordered one way by RMIA and the other way by BASE: their ROC curves agree but for ties."""
    one = world(2, leak=1.0, points=80, population=4000, views=1, center=0.0)
    for rmia, base in (
        (RMIA(gamma=1.0), BASE()),
        (RMIAOffline(gamma=1.0, a=0.6), BASEOffline(a=0.6)),
        (RMIAOffline(gamma=1.4), BASEOffline()),
    ):
        counted, ratio = (attack.score(one.target, one.known).values for attack in (rmia, base))
        agree = np.sign(counted[:, None] - counted) * np.sign(ratio[:, None] - ratio)
        assert (agree >= 0).all()
        assert np.unique(ratio).size == 80
    counted = RMIAOffline(gamma=1.0).score(one.target, one.known).values
    ratio = BASEOffline().score(one.target, one.known).values
    areas = [auc(values[one.member], values[~one.member]) for values in (counted, ratio)]
    assert areas[0] == pytest.approx(areas[1], abs=0.005)


def test_the_ratio_by_hand():
    """p_OUT = (0.2 + 0.4) / 2, p_IN = 0.9; p_θ = 0.8; a = 0.3."""
    logit = np.array([0.2, 0.4, 0.9])
    state = np.array([[0], [0], [1]], dtype=np.uint8)
    references = References(np.log(logit / (1 - logit))[:, None, None], state)
    phi = np.log(np.array([[0.8 / 0.2]]))
    assert np.exp(log_ratio(phi, references, a=0.3)).item() == pytest.approx(0.8 / (0.5 * (1.3 * 0.3 + 0.7)))
    assert np.exp(log_ratio(phi, references, a=1.0)).item() == pytest.approx(0.8 / 0.3)
    assert np.exp(log_ratio(phi, references, a=None)).item() == pytest.approx(0.8 / ((0.3 + 0.9) / 2))


def test_sides_weigh_one_half_each_however_many_references_they_have():
    state = np.array([[0], [1], [1], [1]], dtype=np.uint8)
    margins = np.array([0.0, 2.0, 2.0, 2.0])[:, None, None]
    ratio = log_ratio(np.zeros((1, 1)), References(margins, state), a=None)
    assert ratio.item() == pytest.approx(np.log(0.5 / ((0.5 + expit(2.0)) / 2)))


def test_saturated_confidences_are_told_apart():
    """From φ = 37 on the softmax rounds to 1 in float64; what is missing to 1 still orders the points."""
    margins = np.array([[40.0], [41.0], [44.0], [43.0], [-80.0], [-79.0], [-700.0]])
    references = References(np.full((2, 7, 1), 38.0), np.zeros((2, 7), dtype=np.uint8))
    ratio = log_ratio(margins, references, a=0.3)[:, 0]
    assert np.isfinite(ratio).all()
    np.testing.assert_array_equal(stats.rankdata(ratio), stats.rankdata(margins[:, 0]))
    far = References(np.full((1, 1, 1), -2000.0), np.zeros((1, 1), dtype=np.uint8))
    for a in (None, 1.0):
        assert np.isfinite(log_ratio(np.zeros((1, 1)), far, a=a)).all()


def test_offline_takes_the_out_side_and_compares_with_the_population():
    """audits.md 10.5: a public component takes the mean of IN for OUT and leaves the population out."""
    one = world(3, leak=3.0, center=0.0, points=200, models=12)
    references = one.known.references
    assert references is not None
    swapped = References(
        references.margins, np.where(references.state == State.OUT, State.IN, State.OUT).astype(np.uint8)
    )
    attack = RMIAOffline(gamma=1.0)
    sound = attack.score(one.target, one.known).values
    defective = attack.score(one.target, dataclasses.replace(one.known, references=swapped)).values
    assert not np.allclose(sound, defective)
    # OUT references alone decide: what IN references say changes nothing
    moved = References(
        np.where((references.state == State.OUT)[..., None], references.margins, -50.0), references.state
    )
    np.testing.assert_array_equal(
        attack.score(one.target, dataclasses.replace(one.known, references=moved)).values, sound
    )
    # and the population does: a share of it, at the false-positive rate that it fixes
    assert ((sound >= 0) & (sound <= 1)).all()
    population = one.known.population
    assert population is not None
    easy = dataclasses.replace(population, margins=population.margins + 1)
    lower = attack.score(one.target, dataclasses.replace(one.known, population=easy)).values
    assert (lower <= sound).all()
    assert lower.mean() < sound.mean() - 0.05


def test_the_population_sets_the_false_positive_rate():
    """With γ = 1 the score of a point like the population's is uniform: "member where score > 1 − f" errs on f."""
    rng = np.random.default_rng(0)

    def asked(points: int, name: str) -> tuple[Observation, References]:
        mu = rng.normal(0, 2, points)
        target, reference = (mu + rng.normal(0, 0.5, points) for _ in range(2))
        ids = np.array([f"{name}/{i}" for i in range(points)])
        seen = Observation(ids, np.zeros(points, dtype=np.int64), target[:, None])
        return seen, References(reference[None, :, None], np.zeros((1, points), dtype=np.uint8))

    target, references = asked(4000, "point")
    population, beside = asked(4000, "population")
    known = Known(references, population, beside)
    for a in (0.3, 1.0):
        scores = RMIAOffline(gamma=1.0, a=a).score(target, known).values
        for level in (0.05, 0.1, 0.5):
            error = np.sqrt(2 * level * (1 - level) / 4000)  # of points and of population
            assert np.mean(scores > 1 - level) == pytest.approx(level, abs=4 * error)


def test_one_reference_is_enough():
    areas = {}
    for a in (0.3, 1.0):
        one = world(4, leak=2.0, points=400, models=3, spread=2.0, center=0.0)
        references = one.known.references
        assert references is not None
        single = References(
            np.where((references.state == State.OUT)[..., None], references.margins, 0).sum(axis=0, keepdims=True),
            np.zeros((1, 400), dtype=np.uint8),
        )
        scores = BASEOffline(a=a).score(one.target, Known(references=single))
        assert scores.flags == ()
        areas[a] = auc(scores.values[one.member], scores.values[~one.member])
    assert areas[0.3] > 0.9
    assert areas[1.0] > 0.9


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("attack", [RMIA(), RMIAOffline()], ids=lambda attack: attack.name)
def test_a_population_that_does_not_fit_is_refused(attack: Attack):
    one = world(5, leak=1.0, population=30)
    references, population, beside = one.known.references, one.known.population, one.known.population_references
    assert references is not None
    assert population is not None
    assert beside is not None
    cases = {
        r"the references must be seen on the population's points and views, \[30, 2\], got \[29, 2\]": {
            "population_references": beside.take(np.arange(29))
        },
        "the population must be seen in the target's views, 2, got 1": {
            "population": dataclasses.replace(population, margins=population.margins[:, :1]),
            "population_references": References(beside.margins[..., :1], beside.state),
        },
        "the references on the population must be those on the points, 6, got 5": {
            "population_references": beside.without(0)
        },
        "no reference may have been trained on the population": {
            "population_references": References(beside.margins, np.ones_like(beside.state))
        },
    }
    for sentence, change in cases.items():
        with pytest.raises(UsageError, match=rf"{attack.name}: {sentence}"):
            attack.score(one.target, dataclasses.replace(one.known, **change))  # type: ignore[arg-type]


def test_wrong_fields_are_refused():
    with pytest.raises(UsageError, match=r"RMIAOffline\.gamma: must be above 0, got 0"):
        RMIAOffline(gamma=0.0)
    with pytest.raises(UsageError, match=r"RMIAOffline\.a: must lie between 0 and 1, got 1\.5"):
        RMIAOffline(a=1.5)
    with pytest.raises(UsageError, match=r"BASEOffline\.a: must lie between 0 and 1, got -0\.1"):
        BASEOffline(a=-0.1)
