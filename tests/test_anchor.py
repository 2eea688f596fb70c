"""Known truth: no lower limit may exceed it more often than chance allows, and none may be blind where much leaks."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from unlearnkit.audits.statistics.anchor import (
    GaussianMechanism,
    Mechanism,
    PrivateRegression,
    RandomizedResponse,
    alive,
    one_run_bounds,
    sampled_gaussian_epsilon,
    two_world_bounds,
    violations,
)
from unlearnkit.audits.statistics.epsilon import Split, gaussian_epsilon, one_run_epsilon, one_run_guesses, one_run_p
from unlearnkit.private import spent
from unlearnkit.result import UsageError
from unlearnkit.train import Architecture, Privacy, Recipe

DELTA = 1e-5
RUNS = 100


def one_run(mechanism: Mechanism, seed: int = 0) -> NDArray[np.float64]:
    return one_run_bounds(mechanism, repetitions=RUNS, positive=50, negative=50, delta=DELTA, seed=seed)


def two_worlds(mechanism: Mechanism, runs: int = 400) -> NDArray[np.float64]:
    return two_world_bounds(mechanism, repetitions=RUNS, runs=runs, delta=DELTA, seed=0)


# -- the level -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nats", [0.0, 1.0, 2.0, 4.0])
def test_randomized_response(nats: float) -> None:
    mechanism = RandomizedResponse(nats)
    for bounds in (one_run(mechanism), two_worlds(mechanism)):
        assert violations(bounds, mechanism.epsilon(delta=DELTA)).sound
        if nats >= 2:
            assert alive(bounds) == 1.0
            assert np.median(bounds) > nats / 2


@pytest.mark.parametrize("canaries", [40, 80, 200, 800])
def test_a_split_of_fixed_size_raises_no_false_alarm(canaries: int) -> None:
    """Exact: a score that knows nothing guesses hypergeometrically many right. The law of fair coins allows 5.85 %."""
    half = canaries // 2
    hits = range(half + 1)
    chances = stats.hypergeom(canaries, half, half).pmf(hits)
    for delta in (0.0, DELTA):
        split = Split(half, half)
        shown = [
            one_run_p(2 * k, canaries, canaries=canaries, epsilon=0.0, delta=delta, split=split) < 0.05 for k in hits
        ]
        assert 0.01 < chances[shown].sum() <= 0.05
    if canaries == 80:
        coins = [one_run_p(2 * k, 80, canaries=80, epsilon=0.0) < 0.05 for k in hits]
        assert chances[coins].sum() == pytest.approx(0.0585, abs=5e-5)


@pytest.mark.parametrize("nats", [0.0, 1.0, 2.0])
def test_randomized_response_under_a_split_of_fixed_size(nats: float) -> None:
    mechanism = RandomizedResponse(nats, canaries=80, heads=40)
    games = mechanism.play(RUNS, np.random.default_rng(0))
    assert (games.heads.sum(axis=1) == 40).all()
    assert np.unique(games.heads, axis=0).shape == (RUNS, 80)
    for delta in (0.0, DELTA):
        bounds = one_run_bounds(mechanism, repetitions=4 * RUNS, positive=40, negative=40, delta=delta, seed=1)
        assert violations(bounds, mechanism.epsilon(delta=delta)).sound
        if nats >= 2:
            assert alive(bounds) == 1.0
    if nats == 2:
        assert not violations(bounds, 1.2).sound
    with pytest.raises(UsageError, match="heads must lie between 0 and canaries = 80, got 81; take half"):
        RandomizedResponse(nats, canaries=80, heads=81)


@pytest.mark.parametrize("mu", [0.0, 0.6, 1.0, 2.0])
def test_gaussian_mechanism(mu: float) -> None:
    """One run of 200 canaries is alive from an epsilon of 2 on; two worlds of 200 runs each from about 4 on."""
    mechanism = GaussianMechanism(mu)
    truth = mechanism.epsilon(delta=DELTA)
    one, two = one_run(mechanism), two_worlds(mechanism)
    assert violations(one, truth).sound
    assert violations(two, truth).sound
    if truth >= 2:
        assert alive(one) > 0.9
    if truth >= 4:
        assert alive(two) > 0.8


@pytest.mark.parametrize(
    ("mechanism", "seen"),
    [
        (PrivateRegression(4.0), 0.0),
        (PrivateRegression(2.0), 0.75),  # epsilon 2.2: nearly always seen, at 0.2
        (PrivateRegression(1.0), 0.95),  # epsilon 6.6: a median of 0.7 is seen
        (PrivateRegression(4.0, sample_rate=1.0), 0.95),
    ],
    ids=str,
)
def test_private_regression(mechanism: PrivateRegression, seen: float) -> None:
    """Against the tighter of two accountants, neither of which the limits may exceed."""
    batch = round(100 * mechanism.sample_rate)
    recipe = Recipe(
        Architecture("mlp", 2, (1,)),
        epochs=mechanism.steps * batch // 100,
        batch_size=batch,
        privacy=Privacy(mechanism.noise_multiplier),
    )
    promised = spent(recipe, 100)
    assert (promised.steps, promised.sample_rate) == (mechanism.steps, mechanism.sample_rate)
    truth = min(promised.epsilon, mechanism.epsilon(delta=DELTA))
    one, two = one_run(mechanism), two_worlds(mechanism, runs=60)
    assert violations(one, truth).sound
    assert violations(two, truth).sound
    assert alive(one) >= seen


def test_more_noise_shows_less() -> None:
    medians = [float(np.median(one_run(PrivateRegression(noise)))) for noise in (0.5, 1.0, 2.0)]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > 2 * medians[1] > 4 * medians[2] > 0


def test_where_nothing_leaks_nothing_shows() -> None:
    for mechanism in (RandomizedResponse(0.0), GaussianMechanism(0.0), PrivateRegression(1e4)):
        blind = one_run(mechanism, seed=5)
        assert alive(blind) <= stats.binom.ppf(0.999, RUNS, 0.05) / RUNS
    lower = violations(one_run(RandomizedResponse(0.0)), 0.0)
    assert (lower.limit, lower.repetitions) == (13, RUNS)


# -- what is broken is found ---------------------------------------------------------------------------------------


def test_an_accountant_that_promises_too_much_is_found() -> None:
    assert not violations(one_run(RandomizedResponse(3.0)), 2.0).sound
    assert not violations(two_worlds(RandomizedResponse(3.0)), 2.0).sound
    loud = dataclasses.replace(PrivateRegression(2.0), noise_multiplier=0.1)  # a tenth of the noise that was promised
    assert not violations(one_run(loud), PrivateRegression(2.0).epsilon(delta=DELTA)).sound


def test_training_without_clipping_is_found() -> None:
    promised = PrivateRegression(2.0, clip=0.01, lr=1e-3)
    unclipped = dataclasses.replace(promised, noise_multiplier=0.02, clip=1.0)  # the same noise
    assert violations(one_run(promised), promised.epsilon(delta=DELTA)).count == 0
    assert not violations(one_run(unclipped), promised.epsilon(delta=DELTA)).sound


def test_the_best_of_several_numbers_of_guesses_is_found() -> None:
    """Why they must be registered (audits.md 4.4: 36 % of 200 canaries show a leak where there is none)."""
    games = RandomizedResponse(0.0).play(RUNS, np.random.default_rng(3))
    best = []
    for scores, heads in zip(games.scores, games.heads, strict=True):
        pairs = [(k, 0) for k in range(10, 200, 14)] + [(0, k) for k in range(10, 200, 14)]
        counts = [one_run_guesses(scores, heads, positive=k, negative=n) for k, n in pairs]
        best.append(max(one_run_epsilon(right, guesses, canaries=200) for right, guesses in counts))
    assert not violations(np.array(best), 0.0).sound
    assert violations(np.array(best), 0.0).count > 20


# -- the mechanisms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nats", [0.0, 1.5])
def test_randomized_response_tells_the_truth_as_often_as_it_says(nats: float) -> None:
    games = RandomizedResponse(nats, canaries=50).play(2000, np.random.default_rng(0))
    assert games.heads.shape == games.scores.shape == (2000, 50)
    right = float(np.mean((games.scores >= 1.0) == games.heads))
    assert right == pytest.approx(expit(nats), abs=0.005)
    assert float(np.mean(games.heads)) == pytest.approx(0.5, abs=0.008)
    assert np.unique(games.scores).size == games.scores.size  # no ties


@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.05, 0.9])
def test_randomized_responses_epsilon_is_the_hockey_stick_of_two_answers(delta: float) -> None:
    nats = 1.5
    epsilon = RandomizedResponse(nats).epsilon(delta=delta)
    right = float(expit(nats))
    if epsilon > 0:
        assert right - math.exp(epsilon) * (1 - right) == pytest.approx(delta, abs=1e-12)
    else:
        assert right - (1 - right) <= delta
    assert RandomizedResponse(1e5).epsilon(delta=0.999999) > 9e4


def test_gaussian_scores_lie_mu_apart() -> None:
    mechanism = GaussianMechanism(1.3, canaries=50)
    games = mechanism.play(2000, np.random.default_rng(0))
    assert float(games.scores[games.heads].mean()) == pytest.approx(1.3, abs=0.02)
    assert float(games.scores[~games.heads].mean()) == pytest.approx(0.0, abs=0.02)
    assert float(games.scores[~games.heads].std()) == pytest.approx(1.0, abs=0.02)
    assert mechanism.epsilon(delta=1e-6) == gaussian_epsilon(1.3, delta=1e-6)


def test_one_full_step_of_the_regression_is_the_gaussian_mechanism() -> None:
    """Clipped to `clip`, with noise of that times σ, in a direction of its own: scores are those of mu = 1 / σ."""
    mechanism = PrivateRegression(0.8, sample_rate=1.0, steps=1, canaries=20, lr=0.7)
    games = mechanism.play(3000, np.random.default_rng(0))
    unit = mechanism.lr * mechanism.clip * mechanism.noise_multiplier / (20 + mechanism.examples)
    assert float(games.scores[~games.heads].std()) == pytest.approx(unit, rel=0.02)
    apart = games.scores[games.heads].mean() - games.scores[~games.heads].mean()
    assert float(apart) / unit == pytest.approx(1 / 0.8, abs=0.03)
    assert mechanism.epsilon(delta=DELTA) == gaussian_epsilon(1 / 0.8, delta=DELTA)


def naive_weights(mechanism: PrivateRegression, heads: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Full batches without noise, one example after the other."""
    x, y = mechanism._data()
    weights = np.zeros(x.shape[1])
    for _ in range(mechanism.steps):
        total = np.zeros_like(weights)
        for i, (features, label) in enumerate(zip(x, y, strict=True)):
            if i >= mechanism.canaries or heads[i]:
                gradient = (expit(weights @ features) - label) * features
                total += gradient * min(1.0, mechanism.clip / float(np.linalg.norm(gradient)))
        weights = weights - mechanism.lr * total / len(x)
    return weights


@pytest.mark.parametrize("clip", [0.1, 0.45, 10.0])
def test_regression_is_its_naive_twin(clip: float) -> None:
    mechanism = PrivateRegression(1e-12, sample_rate=1.0, steps=6, clip=clip, lr=20.0, canaries=8, examples=7)
    games = mechanism.play(3, np.random.default_rng(1))
    for scores, heads in zip(games.scores, games.heads, strict=True):
        weights = naive_weights(mechanism, heads)
        np.testing.assert_allclose(scores, weights[:8], atol=1e-9)
        assert (scores[heads] > 1e-3).all()  # trained on


def test_regression_draws_every_example_at_its_rate() -> None:
    """Without noise a canary's weight counts the batches it was in."""
    mechanism = PrivateRegression(1e-12, sample_rate=0.3, steps=10, lr=1e-6, canaries=100)
    games = mechanism.play(50, np.random.default_rng(2))
    batches = games.scores / (mechanism.lr * mechanism.clip / (0.3 * (100 + mechanism.examples)))
    counts = batches[games.heads]
    assert np.abs(counts - np.round(counts)).max() < 1e-3
    assert counts.mean() == pytest.approx(3.0, abs=0.15)
    assert counts.var() == pytest.approx(10 * 0.3 * 0.7, rel=0.15)
    assert np.abs(batches[~games.heads]).max() < 1e-3


def test_games_are_seeded() -> None:
    for mechanism in (RandomizedResponse(1.0), GaussianMechanism(1.0), PrivateRegression(1.0)):
        bounds = one_run(mechanism, seed=1)
        assert np.array_equal(bounds, one_run(mechanism, seed=1))
        assert not np.array_equal(bounds, one_run(mechanism, seed=2))


# -- the accountant ------------------------------------------------------------------------------------------------


def test_sampled_gaussian_epsilon_by_hand_for_one_order() -> None:
    """Order 2: ln(1 + q**2 (e**(1/σ**2) - 1)) a step; the best of all orders is no worse."""
    q, sigma, steps = 0.1, 2.0, 50
    divergence = steps * math.log(1 + q**2 * (math.exp(1 / sigma**2) - 1))
    at_two = divergence + math.log(1 / 2) - math.log(DELTA * 2)
    found = sampled_gaussian_epsilon(sigma, q, steps, delta=DELTA)
    assert found < at_two
    loud = sampled_gaussian_epsilon(0.2, 0.5, 40, delta=DELTA)  # where order 2, the lowest, is the best
    order_two = 40 * math.log(0.25 + 0.5 + 0.25 * math.exp(1 / 0.2**2)) + math.log(1 / 2) - math.log(DELTA * 2)
    assert loud == pytest.approx(order_two)


def test_sampled_gaussian_epsilon_meets_the_full_batch() -> None:
    exact = sampled_gaussian_epsilon(2.0, 1.0, 9, delta=DELTA)
    assert exact == gaussian_epsilon(1.5, delta=DELTA)
    assert exact < sampled_gaussian_epsilon(2.0, 0.9999, 9, delta=DELTA) < 1.1 * exact
    assert sampled_gaussian_epsilon(100.0, 0.01, 1, delta=0.5) == 0.0


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (RandomizedResponse, {"nats": -1.0}, "nats must be at least 0 and finite, got -1.0"),
        (RandomizedResponse, {"nats": 1.0, "canaries": 0}, "canaries must be a count of at least 1, got 0"),
        (GaussianMechanism, {"mu": math.nan}, "mu must be at least 0 and finite, got nan"),
        (PrivateRegression, {"noise_multiplier": 0.0}, "noise_multiplier must be above 0 and finite, got 0.0"),
        (PrivateRegression, {"noise_multiplier": 1.0, "clip": math.inf}, "clip must be above 0 and finite, got inf"),
        (PrivateRegression, {"noise_multiplier": 1.0, "lr": -1.0}, "lr must be above 0 and finite, got -1.0"),
        (PrivateRegression, {"noise_multiplier": 1.0, "steps": 0}, "steps must be a count of at least 1, got 0"),
        (
            PrivateRegression,
            {"noise_multiplier": 1.0, "examples": -1},
            "examples must be a count of at least 0, got -1",
        ),
        (PrivateRegression, {"noise_multiplier": 1.0, "features": 0}, "features must be a count of at least 1, got 0"),
        (
            PrivateRegression,
            {"noise_multiplier": 1.0, "sample_rate": 0.0},
            r"sample_rate must lie in \(0, 1\], got 0.0",
        ),
    ],
)
def test_mechanisms_that_make_no_sense(kind: type[Mechanism], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**fields)


def test_counts_that_make_no_sense() -> None:
    mechanism = RandomizedResponse(1.0)
    with pytest.raises(UsageError, match="repetitions must be a count of at least 1, got 0"):
        one_run_bounds(mechanism, repetitions=0, positive=1, negative=1, seed=0)
    with pytest.raises(UsageError, match="repetitions must be a count of at least 1, got 0"):
        two_world_bounds(mechanism, repetitions=0, runs=10, seed=0)
    with pytest.raises(UsageError, match="runs must be a count of at least 1, got 0"):
        two_world_bounds(mechanism, repetitions=1, runs=0, seed=0)
    with pytest.raises(UsageError, match="positive, negative: must be counts that add up to 1 to 200"):
        one_run_bounds(mechanism, repetitions=1, positive=101, negative=100, seed=0)
    for count in (violations, lambda bounds, truth: alive(bounds)):
        with pytest.raises(UsageError, match="bounds must be a count of at least 1, got 0"):
            count(np.array([], dtype=np.float64), 1.0)
    with pytest.raises(UsageError, match="confidence must lie strictly between 0 and 1, got 95"):
        violations(np.zeros(3), 1.0, confidence=95.0)
    with pytest.raises(UsageError, match=r"delta must lie in \(0, 1\), got 0.0"):
        sampled_gaussian_epsilon(1.0, 0.5, 10, delta=0.0)
