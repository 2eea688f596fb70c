"""Searches in a pool: naive twins of the three scores, planted truths, speed, and points that nobody left out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from arena_samples import arena_of, mislabeled, noise

from unlearnkit.audits.worst_case.apart import SearchSeeds
from unlearnkit.audits.worst_case.pool import pool_of, search_pool
from unlearnkit.audits.worst_case.pool_search import (
    memorization,
    nearest_neighbors,
    neighbor_influence,
    out_of_sample_loss,
    pool_search,
)
from unlearnkit.masks import random_halves
from unlearnkit.result import UsageError


@pytest.fixture
def pool():
    """Margins [8, 30], mask [8, 30] and neighbors [30, 4]."""
    rng = np.random.default_rng(0)
    margins = rng.normal(2, 3, (8, 30)).astype(np.float32)
    return margins, random_halves(30, 8, seed=0), rng.integers(0, 30, (30, 4))


def test_the_scores_are_those_of_plain_loops(pool):
    margins, trained, neighbors = pool
    loss, gap, owed = out_of_sample_loss(margins, trained), memorization(margins, trained), []
    for point in range(30):
        seen = [m for m in range(8) if trained[m, point]]
        out = [m for m in range(8) if not trained[m, point]]
        assert loss[point] == pytest.approx(np.mean([np.log1p(np.exp(-margins[m, point])) for m in out]), rel=1e-5)
        assert gap[point] == pytest.approx(margins[seen, point].mean() - margins[out, point].mean(), rel=1e-4)
        total = 0.0
        for j in neighbors[point]:
            beside, without = [m for m in out if trained[m, j]], [m for m in out if not trained[m, j]]
            if beside and without:
                total += margins[beside, point].mean() - margins[without, point].mean()
        owed.append(total)
    np.testing.assert_allclose(neighbor_influence(margins, trained, neighbors), owed, rtol=1e-4, atol=1e-5)


def test_neighbors_are_the_nearest_by_cosine():
    f = np.random.default_rng(0).normal(size=(40, 5))
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    likeness = unit @ unit.T - 2 * np.eye(40)
    np.testing.assert_array_equal(nearest_neighbors(f, 3, block=7), np.argsort(-likeness, axis=1)[:, :3])
    with pytest.raises(UsageError, match="neighbors: must lie between 1 and 39, got 40"):
        nearest_neighbors(f, 40)


@pytest.mark.parametrize("by", ["loss", "memorization", "neighbors", "mislabeled"])
def test_fifty_thousand_points_and_64_models_take_less_than_a_second(by):
    rng = np.random.default_rng(0)
    margins = rng.standard_normal((64, 50_000), dtype=np.float32)
    trained, ids = random_halves(50_000, 64, seed=0), np.arange(50_000).astype(str)
    neighbors = rng.integers(0, 50_000, (50_000, 5))
    start = time.process_time()
    ranked = pool_search(margins, trained, size=5_000, by=by, ids=ids, neighbors=neighbors)
    assert time.process_time() - start < 1.0
    assert np.unique(ranked.places).size == 5_000


def test_a_point_that_every_model_saw_is_named_and_refused_or_left_out(pool):
    margins, trained, _ = pool
    trained = trained.copy()
    trained[:, 4] = True
    ids = np.array([f"p/{i}" for i in range(30)])
    with pytest.raises(UsageError, match=r"pool: 1 of 30 points lack models that never saw them, the first is 'p/4'"):
        pool_search(margins, trained, size=3, ids=ids)
    with pytest.raises(UsageError, match="models that saw them and models that did not, the first is 'p/4'"):
        pool_search(margins, trained, size=3, ids=ids, by="memorization")
    ranked = pool_search(margins, trained, size=29, ids=ids, partial=True)
    assert 4 not in ranked.places
    assert "'p/4'" in ranked.flags[0].sentence
    for by in ("mislabeled", "memorization"):
        assert 4 not in pool_search(margins, trained, size=29, ids=ids, by=by, partial=True).places
    trained[:, 5] = True
    with pytest.raises(UsageError, match="29 are to be chosen among the others, which are too few"):
        pool_search(margins, trained, size=29, ids=ids, partial=True)


@pytest.mark.usefixtures("as_users_run")
def test_wrong_shapes_are_refused(pool):
    margins, trained, _ = pool
    with pytest.raises(UsageError, match=r"must be \[model, point\]"):
        pool_search(margins, trained, size=3, ids=np.arange(29).astype(str))


def test_wrong_sizes_are_refused(pool):
    margins, trained, _ = pool
    ids = np.arange(30).astype(str)
    for size in (0, 30):
        with pytest.raises(UsageError, match=f"between 1 and 29 of the 30 training examples, got {size}"):
            pool_search(margins, trained, size=size, ids=ids)
    with pytest.raises(UsageError, match="needs the neighbors"):
        pool_search(margins, trained, size=3, ids=ids, by="neighbors")
    with pytest.raises(UsageError, match="every margin must be finite"):
        pool_search(np.full_like(margins, np.nan), trained, size=3, ids=ids)


def test_twins_are_found_first_by_the_loss_and_wrong_labels_by_memorization(tmp_path, blobs):
    twins = arena_of(tmp_path, noise(80, 0, kinds=4, copies=4), noise(20, 1, prefix="test"), epochs=30)
    found = search_pool(twins, pool_of(twins, 16, SearchSeeds(0)), size=4, by="loss")
    assert set(found.places) <= set(range(16))  # by chance 0.8 of 4
    wrong = [3, 20, 41, 55]
    arena = arena_of(tmp_path, mislabeled(blobs(60), wrong), blobs(20, seed=1, prefix="test"), epochs=30)
    pool = pool_of(arena, 16, SearchSeeds(0))
    assert set(search_pool(arena, pool, size=4, by="memorization").places) == set(wrong)
    assert set(search_pool(arena, pool, size=4, by="mislabeled").places) == set(wrong)


def test_a_pool_of_an_odd_number_is_refused(tmp_path, blobs):
    arena = arena_of(tmp_path, blobs(30), blobs(9, seed=1, prefix="test"))
    with pytest.raises(UsageError, match=r"worst_case.pool: models come in pairs of complementary halves, got 3"):
        pool_of(arena, 3, SearchSeeds(0))
