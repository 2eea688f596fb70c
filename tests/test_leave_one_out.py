"""Leave one out: sums against refitting, groups that leave together, points that lose their last reference."""

from __future__ import annotations

import numpy as np
import pytest
from attack_samples import observed
from numpy.typing import NDArray

from unlearnkit.attacks import (
    IAM,
    RMIA,
    RULI,
    BASEOffline,
    LiRA,
    LiRAOffline,
    LiRAOfflineDensity,
    Threshold,
    ULiRA,
    leave_one_out,
)
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.masks import random_halves, tri_state
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Known, Observation, References, Scores


def pool(seed: int, models: int = 12, points: int = 30, views: int = 2) -> References:
    rng = np.random.default_rng(seed)
    state = rng.permuted(np.arange(models * points).reshape(points, models), axis=1).T % 3
    margins = rng.normal(0, 3, (points, views)) + rng.normal(0, 1, (models, points, views))
    return References(margins + 2 * (state > 0)[..., None], state.astype(np.uint8))


def seen(margins: NDArray[np.floating]) -> Observation:
    ids = np.array([f"point/{i}" for i in range(len(margins))])
    return Observation(ids, np.zeros(len(margins), dtype=np.int64), margins)


def refitted(attack: Attack, references: References, together: NDArray[np.int64]) -> list[Scores]:
    scores = []
    for model in range(len(references)):
        stay = together != together[model]
        known = Known(References(references.margins[stay], references.state[stay]))
        scores.append(attack.score(seen(references.margins[model]), known))
    return scores


def same(fast: tuple[Scores, ...], slow: list[Scores]) -> None:
    assert len(fast) == len(slow)
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-9, atol=1e-9)
        assert (one.attack, one.flags) == (other.attack, other.flags)
        assert (one.rows is None) == (other.rows is None)
        if one.rows is not None and other.rows is not None:
            assert one.rows.tolist() == other.rows.tolist()


@pytest.mark.parametrize(
    "attack",
    [
        LiRA(),
        LiRA("example"),
        LiRA("fixed"),
        LiRA("legacy"),
        LiRAOffline(),
        LiRAOfflineDensity(nu0=1.0),
        ULiRA(),
        ULiRA("fixed"),
        RULI(),
        BASEOffline(),
        Threshold(),
    ],
    ids=lambda attack: attack.name,
)
@pytest.mark.parametrize("group", [1, 2])
def test_sums_equal_refitting(attack: Attack, group: int):
    references = pool(1)
    together = np.arange(12) // group
    same(leave_one_out(attack, references, together=together), refitted(attack, references, together))


@pytest.mark.parametrize("variance", ["shrunk", "example", "fixed"])
@pytest.mark.parametrize("models", [3, 4, 6])
def test_points_that_lose_their_last_reference_are_left_out_in_that_model_only(variance: str, models: int):
    """With three models each point has one reference a state: when that one plays the target, none is left."""
    rng = np.random.default_rng(models)
    states = rng.integers(0, 2, (models, 20)).astype(np.uint8)
    references = References(rng.normal(0, 1, (models, 20, 1)), states)
    attack = LiRA(variance)  # type: ignore[arg-type]
    alone = np.arange(models)
    scores = leave_one_out(attack, references)
    same(scores, refitted(attack, references, alone))
    assert any(one.rows is not None for one in scores)
    assert any(flag.name == "points without references" for one in scores for flag in one.flags)


def test_outliers_and_offsets_cost_the_sums_no_digits():
    references = pool(2)
    margins = references.margins + 1000.0
    margins[3] += 500.0
    far = References(margins, references.state)
    same(leave_one_out(ULiRA(), far), refitted(ULiRA(), far, np.arange(12)))


def test_a_target_never_sees_itself():
    """Its own answers as references would make it look like what it is: change them, and its scores stay."""
    references = pool(3)
    other = references.margins.copy()
    other[5] = 99.0
    changed = References(other, references.state)
    for attack in (LiRA(), RULI(), BASEOffline()):
        before = leave_one_out(attack, references)[5].values
        after = leave_one_out(attack, changed, targets=references.margins)[5].values
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-9)


def test_complements_of_one_seed_leave_together():
    """A mask and its complement know each other: a point is IN in the one because it is OUT in the other."""
    rng = np.random.default_rng(0)
    mask = random_halves(40, 8, seed=0).astype(np.uint8)
    seeds = rng.normal(0, 1, (4, 40, 1)).repeat(2, axis=0)  # what both models of a pair share
    references = References(rng.normal(0, 0.1, (8, 40, 1)) + seeds, mask)
    pairs = np.arange(8) // 2
    same(leave_one_out(LiRA(), references, together=pairs), refitted(LiRA(), references, pairs))
    apart = leave_one_out(LiRA(), references)
    assert not np.allclose(apart[0].values, leave_one_out(LiRA(), references, together=pairs)[0].values)


@pytest.mark.parametrize("shared", [0.0, 3.0, -1.0])
def test_a_whole_triple_leaves_both_states_as_many_references(shared: float):
    """Nothing is left of any point. Whatever the models of a triple share, the states of a target cannot be told; when
    the target leaves alone, its own state lacks a reference, and those of its triple give it away."""
    rng = np.random.default_rng(0)
    state = tri_state(3000, np.arange(3000), 9, seed=0)
    noise = rng.normal(0, 1, (3, 3, 3000))
    noise += shared * noise.mean(axis=1, keepdims=True)
    references = References(rng.normal(0, 2, (3000, 1)) + noise.reshape(9, 3000, 1), state)

    def told(together: NDArray[np.int64] | None) -> float:
        scores = leave_one_out(ULiRA(), references, together=together)
        return float(
            np.mean([auc(one.values[own == 2], one.values[own == 0]) for one, own in zip(scores, state, strict=True)])
        )

    assert abs(told(np.arange(9) // 3) - 0.5) < 0.01
    if shared >= 0:
        assert told(None) < 0.49


def test_population_and_originals_are_the_targets_own():
    references = pool(4)
    rng = np.random.default_rng(4)
    population = References.unseen([observed(rng.normal(0, 2, (25, 2)), rng) for _ in range(12)])
    originals = references.margins + 1.0
    counted = leave_one_out(RMIA(gamma=1.2), references, population=population)
    graded = leave_one_out(IAM(), references, originals=originals)
    for model in (0, 7):
        known = Known(
            references.without(model),
            population=seen(population.margins[model]),
            population_references=population.without(model),
            original=seen(originals[model]),
        )
        target = seen(references.margins[model])
        np.testing.assert_array_equal(counted[model].values, RMIA(gamma=1.2).score(target, known).values)
        np.testing.assert_array_equal(graded[model].values, IAM().score(target, known).values)


def test_memory_stays_bounded_for_a_large_pool():
    """256 models and many points are worked through in blocks: far less than one float64 copy of the pool."""
    import tracemalloc

    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1, (64, 10000, 1)).astype(np.float32)
    references = References(margins, rng.integers(0, 2, (64, 10000)).astype(np.uint8))
    target = seen(margins[0])
    tracemalloc.start()
    for attack in (LiRA(), LiRAOffline(), BASEOffline()):
        attack.run(target, Known(references))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < margins.nbytes * 2 + 5e6


@pytest.mark.usefixtures("as_users_run")
def test_what_does_not_fit_is_refused():
    references = pool(5)
    short = references.margins[:, :29]
    with pytest.raises(UsageError, match=r"targets must be margins \[model, .* like the pool, \[12, 30, 2\], got"):
        leave_one_out(LiRA(), references, targets=short)
    with pytest.raises(UsageError, match=r"leave one out: originals must be .* got \[12, 29, 2\]"):
        leave_one_out(IAM(), references, originals=short)
    with pytest.raises(UsageError, match="groups and population must be of the pool's 12 models, got 11"):
        leave_one_out(LiRA(), references, together=np.arange(11))
    with pytest.raises(UsageError, match="groups and population must be of the pool's 12 models, got 11"):
        leave_one_out(RMIA(), references, population=references.without(0))
    with pytest.raises(UsageError, match="when one group of 12 models leaves, no reference is left"):
        leave_one_out(LiRA(), references, together=np.zeros(12, dtype=np.int64))
    with pytest.raises(UsageError, match="RMIA: needs a population"):
        leave_one_out(RMIA(), references)
    bad = references.margins.copy()
    bad[0, 0] = np.nan
    with pytest.raises(UsageError, match="LiRA: the target's margins must be finite, got 2 that are not"):
        leave_one_out(LiRA(), references, targets=bad)
