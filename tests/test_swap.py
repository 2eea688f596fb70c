"""The SWAP test: values by hand, zero advantage for retraining, exact size, and leaks and over-forgetting found."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from scipy import stats
from torch import nn

from unlearnkit.audits.statistics.roc import auc
from unlearnkit.audits.statistics.swap import swap_test
from unlearnkit.audits.swapping import swap_jobs, swap_pairs
from unlearnkit.fleet import Fleet
from unlearnkit.jobs import Sets, TrainJob, UnlearnJob
from unlearnkit.methods import METHODS
from unlearnkit.models import Architecture
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.train import Recipe
from unlearnkit.types import Access, Method, Need


def halves(pairs: int, points: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    forget = np.zeros((pairs, points), dtype=bool)
    for row in forget:
        row[rng.permutation(points)[: points // 2]] = True
    return forget


def test_by_hand() -> None:
    scores = np.array([[[4.0, 3.0, 1.0, 2.0], [1.0, 4.0, 3.0, 2.0]]])
    forget = np.array([[True, True, False, False]])
    result = swap_test(scores, forget, seed=0)
    # AUC_m(F over T) = 1; in m' T = {3, 2} over F = {1, 4}: 2 of 4
    assert result.advantage.value == pytest.approx(1 + 0.5 - 1)
    assert (result.advantage.low, result.quality, result.quality_low, result.pairs) == (None, 0.5, None, 1)


def test_the_statistic_is_that_of_two_aucs_and_p_that_of_all_deals() -> None:
    rng = np.random.default_rng(1)
    scores, forget = rng.integers(0, 4, (3, 2, 6)).astype(float), halves(3, 6, 0)  # with ties

    def naive(forget: np.ndarray) -> list[float]:
        return [
            auc(first[own], first[~own]) + auc(second[~own], second[own]) - 1
            for (first, second), own in zip(scores, forget, strict=True)
        ]

    result = swap_test(scores, forget, permutations=20_000, seed=0)
    found = naive(forget)
    assert result.advantage.value == pytest.approx(np.mean(found))
    reach = stats.t.ppf(0.975, 2) * np.std(found, ddof=1) / 3**0.5
    assert result.advantage.high == pytest.approx(min(1.0, np.mean(found) + reach))
    deals = [np.isin(np.arange(6), chosen) for chosen in itertools.combinations(range(6), 3)]
    parts = [[naive(np.stack([deal] * 3))[pair] for deal in deals] for pair in range(3)]
    every = np.array([sum(one) for one in itertools.product(*parts)])
    assert result.p == pytest.approx(np.mean(np.abs(every) >= abs(sum(found)) - 1e-9), abs=0.015)


def test_yes_or_no_gives_the_advantage_of_the_paper() -> None:
    rng = np.random.default_rng(2)
    said, forget = rng.integers(0, 2, (1, 2, 40)), halves(1, 40, 3)
    own = forget[0]
    first, second = said[0]
    by_hand = 0.5 * (first[own].mean() + second[~own].mean() - first[~own].mean() - second[own].mean())
    assert swap_test(said.astype(float), forget, seed=0).advantage.value == pytest.approx(by_hand)


def test_size_is_exact_when_models_do_not_know_the_deal() -> None:
    """Models of one law; points differ much in difficulty, which is what fools an attack on one split."""
    rng = np.random.default_rng(3)
    p = []
    for seed in range(300):
        difficulty = rng.normal(0, 5, 30)
        scores = difficulty + rng.normal(size=(2, 2, 30))
        p.append(swap_test(scores, halves(2, 30, seed), permutations=199, seed=seed).p)
    assert stats.binom.ppf(0.001, 300, 0.05) <= np.sum(np.array(p) <= 0.05) <= stats.binom.isf(0.001, 300, 0.05)


def test_a_dummy_attack_has_no_advantage_though_it_beats_a_single_split() -> None:
    forget = halves(4, 20, 0)
    dummy = np.stack([np.stack([own, own]) for own in forget]).astype(float)  # "what is in F is a member"
    assert auc(dummy[0, 0][forget[0]], dummy[0, 0][~forget[0]]) == 1.0
    result = swap_test(dummy, forget, seed=0)
    assert (result.advantage.value, result.p, result.quality) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_remembering_and_over_forgetting_are_found(sign: int) -> None:
    forget = halves(4, 100, 1)
    scores = np.random.default_rng(0).normal(size=(4, 2, 100))
    scores[:, 0] += sign * forget
    scores[:, 1] += sign * ~forget
    result = swap_test(scores, forget, permutations=999, seed=0)
    assert result.p == 0.001
    assert 0.3 < sign * result.advantage.value < 0.7
    assert result.advantage.low is not None
    assert result.advantage.high is not None
    assert result.advantage.low * result.advantage.high > 0
    assert result.quality_low is not None
    assert result.quality_low < result.quality < 0.7
    assert result == swap_test(scores, forget, permutations=999, seed=0)
    order = np.random.default_rng(5).permutation(100)
    assert swap_test(scores[:, :, order], forget[:, order], permutations=99, seed=0).advantage == result.advantage


def test_wrong_arrays_are_refused(as_users_run: None) -> None:
    scores, forget = np.zeros((1, 2, 4)), np.array([[True, True, False, False]])
    with pytest.raises(UsageError, match=r"needs scores \[pair, 2, point\] .* got \[2, 4\] and \[1, 4\]"):
        swap_test(scores[0], forget, seed=0)
    with pytest.raises(UsageError, match="every score must be finite, got 8 that are not"):
        swap_test(scores + np.nan, forget, seed=0)
    with pytest.raises(UsageError, match=r"half of each pool .* got 1 of 4 in pair 0"):
        swap_test(scores, np.array([[True, False, False, False]]), seed=0)
    with pytest.raises(UsageError, match="one pair of models and two points at least"):
        swap_test(scores[:, :, :0], forget[:, :0], seed=0)
    with pytest.raises(UsageError, match="permutations must be at least 1, got 0"):
        swap_test(scores, forget, permutations=0, seed=0)


@dataclass(frozen=True)
class Nothing(Method):
    """Forgets nothing."""

    needs: ClassVar[Need] = Need(0)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return model


@pytest.fixture(scope="module")
def fleet(blobs: MakeBlobs, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    train = blobs(100)
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8))
    train.x[:40] = noise  # the pool is noise: what is learned of it is learned by heart
    return Fleet(Sets(train, blobs(30, seed=1, prefix="test")), Store(tmp_path_factory.mktemp("swap")), processes=1)


def test_retraining_has_advantage_zero_and_doing_nothing_the_largest(fleet: Fleet) -> None:
    recipe = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=12, batch_size=20, lr=0.1, weight_decay=0.0)
    sets = {"retain": np.arange(40, 100), "pool": np.arange(40)}
    exact = swap_pairs(fleet, recipe, METHODS["Retrain"](), **sets, pairs=2, seed=0)
    result = swap_test(exact.margins, exact.forget, seed=0)
    assert (result.advantage.value, result.p, result.quality) == (0.0, 1.0, 1.0)
    np.testing.assert_array_equal(exact.margins[:, 0], exact.margins[:, 1])  # one and the same model
    # retrained apart, with seeds of their own: no advantage either
    apart = np.stack([exact.margins[0, 0], exact.margins[1, 0]])[None]
    assert not np.array_equal(apart[0, 0], apart[0, 1])
    assert swap_test(apart, exact.forget[:1], seed=0).p > 0.01
    nothing = swap_pairs(fleet, recipe, Nothing(), **sets, pairs=2, seed=0)
    result = swap_test(nothing.margins, nothing.forget, permutations=999, seed=0)
    assert result.p == 0.001
    assert result.advantage.value > 0.5
    assert nothing.observations[0][0].outputs().shape == (40, 1, 3)


def test_jobs_say_what_each_model_is_trained_on_and_forgets() -> None:
    recipe, method = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=1), Nothing()
    pool, retain, unseen = np.arange(6), np.arange(6, 20), np.arange(3)
    jobs, forget = swap_jobs(
        recipe, method, retain=retain, pool=pool, pairs=2, seed=0, unseen=unseen, keep_weights=False
    )
    assert forget.shape == (2, 6)
    for i, job in enumerate(jobs):
        [done] = job.stages
        assert isinstance(done, UnlearnJob)
        assert isinstance(done.start, TrainJob)
        half = pool[forget[i // 2] != bool(i % 2)]  # the second model of a pair forgets what the first never saw
        np.testing.assert_array_equal(done.forget, half)
        np.testing.assert_array_equal(done.start.rows, np.union1d(half, retain))
        np.testing.assert_array_equal(job.points.train, pool)
        assert (done.unseen is unseen, job.keep_weights) == (True, False)
    assert len(jobs) == 4


def test_pools_that_cannot_be_dealt(fleet: Fleet) -> None:
    recipe = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=1)
    for pool, pairs, message in (
        (np.arange(3), 1, "must be even, got 3 rows"),
        (np.arange(4), 0, "needs one pair at least, got 0"),
        (np.arange(36, 42), 1, "2 rows of the pool are retained rows too, the first is 40"),
    ):
        with pytest.raises(UsageError, match=message):
            swap_pairs(fleet, recipe, Nothing(), retain=np.arange(40, 100), pool=pool, pairs=pairs, seed=0)
