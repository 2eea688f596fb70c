"""Population attacks: values by hand, naive twins, calibration, direction, and defects of public evaluators."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from unlearnkit.attacks import ATTACKS, SIGNALS, AttackP, ClassThreshold, Gap, Quantile
from unlearnkit.attacks.class_threshold import best_threshold
from unlearnkit.attacks.quantile import fit_quantile
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.observing import margin
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Holds, Known, Observation

POPULATION = ("Threshold", "Gap", "ClassThreshold", "AttackP", "Quantile", "MiaEfficacy", "BasicLogistic")


def observed(logits: NDArray[np.float64], y: NDArray[np.int64], features: bool = True) -> Observation:
    """logits [point, view, class]; features are the logits of the first view without the label's."""
    z = logits.astype(np.float32)
    body = np.sort(z[:, 0], axis=1)[:, :2] if features else None
    return Observation(np.array([f"p/{i}" for i in range(len(y))]), y, margin(z, y), z, body)


def world(points: int, boost: float, seed: int, classes: int = 3, views: int = 1, features: bool = True) -> Observation:
    """A model that knows every point a little, and its members by `boost` nats better."""
    rng = np.random.default_rng(seed)
    y = np.arange(points) % classes
    logits = rng.normal(0, 1, (points, views, classes))
    logits[np.arange(points), :, y] += 1.0 + boost
    return observed(logits, y, features)


def holding(boost: float, seed: int = 100) -> Known:
    """Members of a memorizer and a population, 120 each."""
    return Known(members=world(120, boost, seed), population=world(120, 0.0, seed + 1))


def test_gap_is_being_right_not_having_half_of_the_probability() -> None:
    logits = np.log(np.array([[[0.4, 0.35, 0.25]], [[0.4, 0.35, 0.25]], [[0.1, 0.1, 0.8]]]))
    seen = observed(logits, np.array([0, 1, 2]), features=False)
    assert seen.margins[0, 0] < 0  # right all the same
    assert Gap().score(seen).values.tolist() == [1.0, 0.0, 1.0]
    two = observed(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([0]), features=False)
    assert Gap().score(two).values.tolist() == [0.5]
    # its advantage is the gap in accuracy: AUC = 1/2 + (0.8 - 0.5) / 2
    y = np.zeros(20, dtype=np.int64)
    right = np.repeat([True, False, True, False], [8, 2, 5, 5])
    scores = Gap().score(observed(np.where(right, 1.0, -1.0)[:, None, None] * np.array([1.0, -1.0]), y, False)).values
    assert auc(scores[:10], scores[10:]) == pytest.approx(0.65)


def test_attack_p_by_hand_and_against_its_naive_twin() -> None:
    population = observed(np.array([[[0.0, 0.0]], [[1.0, 0.0]], [[2.0, 0.0]], [[1.0, 0.0]]]), np.zeros(4, int), False)
    target = observed(np.array([[[1.0, 0.0]], [[3.0, 0.0]], [[-1.0, 0.0]]]), np.zeros(3, int), False)
    # larger losses: one of four, and two ties at a half each
    assert AttackP().score(target, Known(population=population)).values.tolist() == [0.5, 1.0, 0.0]
    target, known = world(80, 1.0, 5, views=3), Known(population=world(50, 0.0, 6, views=3))
    assert known.population is not None
    own, others = SIGNALS["loss"](target), SIGNALS["loss"](known.population)
    naive = [np.mean([(s < t) + 0.5 * (s == t) for s in others]) for t in own]
    np.testing.assert_allclose(AttackP().score(target, known).values, naive, atol=1e-12)


def test_attack_p_has_the_false_positive_rate_it_says() -> None:
    population, target = world(4000, 0.0, 1), world(4000, 0.0, 2)
    scores = AttackP().score(target, Known(population=population)).values
    for alpha in (0.01, 0.1, 0.5):
        assert np.mean(scores > 1 - alpha) == pytest.approx(alpha, abs=4 * np.sqrt(2 * alpha / 4000))


def test_best_threshold_by_hand_and_against_its_naive_twin() -> None:
    assert best_threshold(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 2.5
    assert best_threshold(np.array([1.0, 4.0]), np.array([1.0, 2.0])) == 3.0
    assert best_threshold(np.array([1.0]), np.array([1.0])) == 1.0
    rng = np.random.default_rng(0)
    for _ in range(50):
        members, others = rng.integers(0, 6, 7).astype(float), rng.integers(0, 6, 9).astype(float)
        grid = np.arange(-0.5, 6)
        naive = max((members >= t).mean() - (others >= t).mean() for t in grid)
        found = best_threshold(members, others)
        assert (members >= found).mean() - (others >= found).mean() == pytest.approx(naive)


def test_class_thresholds_make_classes_comparable() -> None:
    """A class that is easier for everyone hides members of the others from one common threshold."""
    rng = np.random.default_rng(0)

    def seen(points: int, boost: float) -> Observation:
        y = np.arange(points) % 2
        z = np.zeros((points, 1, 2))
        z[np.arange(points), 0, y] = np.where(y == 0, 6.0, 0.0) + boost + rng.normal(0, 0.7, points)
        return observed(z, y, False)

    known = Known(members=seen(400, 1.5), population=seen(400, 0.0))
    members, others = seen(400, 1.5), seen(400, 0.0)
    areas = {}
    for attack in (ClassThreshold("margin"), ATTACKS["Threshold"]("margin")):
        inside, outside = (attack.score(part, known).values for part in (members, others))
        areas[type(attack).__name__] = auc(inside, outside)
        if isinstance(attack, ClassThreshold):
            assert ((inside > 0).mean() + (outside <= 0).mean()) / 2 > 0.8
    assert areas["ClassThreshold"] > 0.9 > areas["Threshold"] + 0.1
    strange = observed(np.array([[[0.0, 0.0, 9.0]]]), np.array([2]), False)  # nobody knows a point of this class
    assert known.members is not None
    assert known.population is not None
    common = best_threshold(SIGNALS["margin"](known.members), SIGNALS["margin"](known.population))
    assert ClassThreshold("margin").score(strange, known).values[0] == pytest.approx(strange.margins[0, 0] - common)


def test_the_quantile_head_finds_the_minimum_of_the_pinball_loss() -> None:
    """Against the exact linear program, without ridge to speak of."""
    rng = np.random.default_rng(0)
    x, level = rng.normal(size=(150, 2)), 0.8
    y = x @ np.array([2.0, -1.0]) + rng.normal(size=150) * (1 + 0.5 * np.abs(x[:, 0]))
    head = fit_quantile(x, y, level=level, ridge=1e-9)
    n, design = len(y), np.column_stack([x, np.ones(len(y))])
    cost = np.concatenate([np.zeros(6), np.full(n, level), np.full(n, 1 - level)])
    solved = linprog(cost, A_eq=np.hstack([design, -design, np.eye(n), -np.eye(n)]), b_eq=y)

    def pinball(prediction: NDArray[np.float64]) -> float:
        r = y - prediction
        return float(np.maximum(level * r, (level - 1) * r).mean())

    assert pinball(head.predict(x)) <= solved.fun / n * 1.01
    assert np.mean(y <= head.predict(x)) == pytest.approx(level, abs=0.03)


def test_quantile_regression_has_at_most_the_false_positive_rate_it_says() -> None:
    """Split conformal: exact whatever the regression, over the draw of population and point."""
    called = []
    for seed in range(100):
        known = Known(population=world(60, 0.0, 1000 + seed))
        called.append(np.mean(Quantile(fpr=0.1, seed=seed).score(world(40, 0.0, 5000 + seed), known).values > 0))
    mean, error = np.mean(called), np.std(called) / np.sqrt(len(called))
    assert 0.1 - 1 / 31 - 4 * error <= mean <= 0.1 + 4 * error


def test_quantile_regression_judges_each_point_among_its_like() -> None:
    """Half of the points are easy, as their features tell: one threshold for all sees the hard members only late."""
    rng = np.random.default_rng(1)

    def seen(points: int, boost: float) -> Observation:
        easy = np.arange(points) % 2 * 1.0
        z = np.zeros((points, 1, 2))
        z[:, 0, 0] = 5 * easy + boost + rng.normal(0, 0.7, points)
        y = np.zeros(points, dtype=np.int64)
        plain = observed(z, y, False)
        return Observation(plain.ids, y, plain.margins, plain.logits, easy[:, None].astype(np.float32))

    known, members, others = Known(population=seen(600, 0.0)), seen(300, 1.5), seen(300, 0.0)
    inside, outside = (Quantile().score(part, known).values for part in (members, others))
    plain = auc(members.margins[:, 0], others.margins[:, 0])
    assert auc(inside, outside) > 0.9 > plain + 0.1


def test_what_quantile_regression_needs() -> None:
    target, known = world(20, 0.0, 0), holding(0.0)
    with pytest.raises(UsageError, match=r"Quantile: needs the target's features; observe with features=True"):
        Quantile().score(world(20, 0.0, 0, features=False), known)
    with pytest.raises(UsageError, match="needs the target's features on the population too"):
        Quantile().score(target, Known(population=world(60, 0.0, 1, features=False)))
    with pytest.raises(UsageError, match=r"rate of 0\.05 needs a population of at least 37 points, got 36"):
        Quantile().score(target, Known(population=world(36, 0.0, 1)))
    Quantile().score(target, Known(population=world(37, 0.0, 1)))
    with pytest.raises(UsageError, match=r"Quantile\.fpr: must lie between 0 and 1"):
        Quantile(fpr=5.0)
    with pytest.raises(UsageError, match=r"Quantile\.ridge: must be above 0, got -1"):
        Quantile(ridge=-1.0)
    with pytest.raises(UsageError, match=r"ClassThreshold\.signal: must be one of margin, .*did you mean 'entropy'\?"):
        ClassThreshold("entropie")


@pytest.mark.parametrize("name", POPULATION)
def test_a_memorizer_scores_its_members_higher(name: str) -> None:
    """Among others audits.md 10.2: a public attack scores minus the probability, which turns it over."""
    attack: Attack = ATTACKS[name]()
    members, others, known = world(150, 5.0, 1), world(150, 0.0, 2), holding(5.0)
    inside, outside = (attack.score(part, known).values for part in (members, others))
    # Gap knows right from wrong only; an RBF machine forgets far from what it was taught
    assert auc(inside, outside) > (0.6 if name == "Gap" else 0.9)
    defective = -SIGNALS["confidence"](members), -SIGNALS["confidence"](others)
    assert auc(*defective) < 0.1


@pytest.mark.parametrize("name", POPULATION)
def test_exchangeable_members_cannot_be_told(name: str) -> None:
    attack: Attack = ATTACKS[name]()
    areas = []
    for seed in range(40):
        seen = attack.score(world(60, 0.0, 10 * seed), holding(5.0, 10 * seed + 5)).values
        coins = np.random.default_rng(seed).permutation(60) < 30
        areas.append(auc(seen[coins], seen[~coins]))
    assert abs(np.mean(areas) - 0.5) < 4 * np.sqrt(61 / (12 * 30 * 30) / 40)


@pytest.mark.parametrize("name", POPULATION)
def test_no_attack_reads_the_truth_off_names_or_order(name: str) -> None:
    """audits.md 10.9: a public scorer fills in the answer from the name of the set."""
    attack: Attack = ATTACKS[name]()
    target, known = world(60, 2.0, 3), holding(3.0)
    scores = attack.score(target, known).values
    order = np.random.default_rng(0).permutation(60)
    moved = target.take(order)
    renamed = Observation(
        np.array([f"test/{i}" for i in range(60)]), moved.y, moved.margins, moved.logits, moved.features
    )
    np.testing.assert_allclose(attack.score(renamed, known).values, scores[order], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(attack.score(target, known).values, scores)


def test_who_needs_what() -> None:
    assert AttackP.holds == Holds.POPULATION
    with pytest.raises(UsageError, match="AttackP: needs a population"):
        AttackP().score(world(5, 0.0, 0))
    with pytest.raises(UsageError, match="ClassThreshold: needs members"):
        ClassThreshold().score(world(5, 0.0, 0), Known(population=world(5, 0.0, 1)))
