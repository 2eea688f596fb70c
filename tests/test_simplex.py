"""The projection and its steps: invariants, a naive twin, and that a step moves whatever the unit of the losses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from unlearnkit.audits.worst_case.simplex import descend, largest, project, random_start, scale_free_step
from unlearnkit.result import UsageError

VECTORS = arrays(np.float64, st.integers(2, 40), elements=st.floats(-1e4, 1e4))


@given(VECTORS, st.data())
def test_the_projection_lies_in_the_set_stays_there_and_is_the_nearest(v, data):
    m = data.draw(st.integers(1, v.size - 1))
    w = project(v, m)
    assert abs(w.sum() - m) < 1e-6
    assert w.min() >= 0
    assert w.max() <= 1
    np.testing.assert_allclose(project(w, m), w, atol=1e-9)
    other = np.roll(w, 1)  # also in the set
    assert np.sum((v - w) ** 2) <= np.sum((v - other) ** 2) * (1 + 1e-9) + 1e-6


def test_the_projection_agrees_with_a_root_finder():
    rng = np.random.default_rng(0)
    for n, m in ((5, 2), (50, 7), (500, 499)):
        v = rng.normal(0, 3, n)
        mu = brentq(lambda mu: np.clip(v - mu, 0, 1).sum() - m, v.min() - 1, v.max(), xtol=1e-14)  # noqa: B023
        np.testing.assert_allclose(project(v, m), np.clip(v - mu, 0, 1), atol=1e-9)


def test_a_point_of_the_set_does_not_move():
    w = random_start(1000, 137, np.random.default_rng(0))
    np.testing.assert_array_equal(project(w, 137), w)


def test_a_large_gamma_makes_the_weights_uniform():
    rng = np.random.default_rng(0)
    w, losses = random_start(50, 5, rng), rng.lognormal(0, 3, 50)
    np.testing.assert_allclose(descend(w, losses, step=1.0, gamma=1e9), 0.1, atol=1e-6)


def test_without_gamma_a_step_is_that_of_the_paper():
    rng = np.random.default_rng(1)
    w, losses = random_start(50, 5, rng), rng.lognormal(0, 3, 50)
    np.testing.assert_array_equal(descend(w, losses, step=0.3, gamma=0.0), project(w - 0.3 * losses, 5))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_scale_free_step_finds_the_lowest_losses_in_any_unit(unit):
    rng = np.random.default_rng(2)
    losses = unit * rng.lognormal(-3, 2, 4500)
    w = random_start(4500, 450, rng)
    for _ in range(20):
        w = descend(w, losses, step=scale_free_step(losses, 450, pace=1.0), gamma=0.0)
    overlap = np.intersect1d(largest(w, losses, 450), np.argsort(losses)[:450]).size / 450
    assert overlap > 0.95


def test_the_published_step_leaves_the_random_start_unchanged():
    rng = np.random.default_rng(2)
    losses = rng.lognormal(-3, 1, 4500)
    start = w = random_start(4500, 450, rng)
    for _ in range(2):
        w = descend(w, losses, step=0.01, gamma=0.0)
    assert set(largest(w, losses, 450)) == set(np.flatnonzero(start))


def test_equal_losses_give_no_step_and_ties_go_to_the_earlier():
    assert scale_free_step(np.ones(10), 3, pace=1.0) == 0.0
    assert largest(np.zeros(4), np.ones(4), 2).tolist() == [0, 1]


@pytest.mark.parametrize("m", [0, 10, 11, -1])
def test_none_and_all_are_refused(m):
    with pytest.raises(UsageError, match=rf"worst_case.size: must lie between 1 and 9 of the 10 choices, got {m}"):
        project(np.zeros(10), m)
    with pytest.raises(UsageError, match=r"worst_case\.size"):
        random_start(10, m, np.random.default_rng(0))


def test_weights_that_are_no_vector_of_numbers_are_refused():
    with pytest.raises(UsageError, match="one finite number per choice"):
        project(np.array([0.0, np.nan]), 1)
