"""Masks: every model and every example gets its share, exactly; what cannot be shared out is refused."""

from __future__ import annotations

import numpy as np
import pytest

from unlearnkit.masks import State, leave_out, random_halves, tri_state
from unlearnkit.result import UsageError


@pytest.mark.parametrize("n", [2, 10, 11, 40])
@pytest.mark.parametrize("models", [2, 8])
def test_halves_are_balanced_both_ways(n: int, models: int):
    mask = random_halves(n, models, seed=0)
    assert (mask.shape, mask.dtype) == ((models, n), bool)
    assert (mask.sum(axis=0) == models // 2).all()
    assert set(mask.sum(axis=1)) <= {n // 2, n - n // 2}
    assert abs(mask.sum() - models * n / 2) < 1
    np.testing.assert_array_equal(mask[::2], ~mask[1::2])


def test_the_example_more_goes_to_either_of_a_pair():
    sizes = random_halves(11, 8, seed=0).sum(axis=1).tolist()
    assert sorted(sizes) == [5, 5, 5, 5, 6, 6, 6, 6]
    assert {sizes[0], sizes[2]} == {5, 6}


def test_the_seed_decides_and_pairs_differ():
    mask = random_halves(40, 20, seed=3)
    np.testing.assert_array_equal(mask, random_halves(40, 20, seed=3))
    assert (mask != random_halves(40, 20, seed=4)).any()
    assert len({row.tobytes() for row in mask}) == 20
    together = (mask[::2, 0] == mask[::2, 1]).mean()  # any two examples are parted now and then
    assert 0 < together < 1


def test_halves_are_drawn_evenly():
    """Any two examples lie together in a share (n/2 - 1) / (n - 1) of the models, within four standard errors."""
    n, models = 10, 4_000
    mask = random_halves(n, models, seed=1).astype(float)
    together = (mask.T @ mask + (1 - mask).T @ (1 - mask))[np.triu_indices(n, 1)] / models
    share = (n / 2 - 1) / (n - 1)
    assert np.abs(together - share).max() < 4 * np.sqrt(share * (1 - share) / (models / 2))


def test_leave_out_trains_on_all_but_the_forget_rows():
    mask = leave_out(6, np.array([1, 4]), 3)
    assert mask.tolist() == [[True, False, True, True, False, True]] * 3


@pytest.mark.parametrize(("n", "targets"), [(20, [0, 3, 4, 7, 11, 19]), (21, [5, 6, 7, 8]), (6, [0, 1, 2, 3, 4, 5])])
def test_each_target_is_each_thing_in_a_third_of_the_models(n: int, targets: list[int]):
    mask = tri_state(n, np.array(targets), 9, seed=0)
    assert (mask.shape, mask.dtype) == ((9, n), np.uint8)
    for triple in mask[:, targets].reshape(3, 3, -1):
        assert (np.sort(triple, axis=0) == [[State.OUT], [State.IN], [State.FORGOTTEN]]).all()
    for state in State:
        counts = (mask[:, targets] == state).sum(axis=1)
        assert set(counts) <= {len(targets) // 3, -(-len(targets) // 3)}
    others = np.setdiff1d(np.arange(n), targets)
    assert State.FORGOTTEN not in mask[:, others]
    assert ((mask[:, others] == State.IN).sum(axis=1) == others.size // 2).all()


def test_triples_deal_anew():
    mask = tri_state(50, np.arange(30), 30, seed=0)
    np.testing.assert_array_equal(mask, tri_state(50, np.arange(30), 30, seed=0))
    assert (mask != tri_state(50, np.arange(30), 30, seed=1)).any()
    assert len({row.tobytes() for row in mask[:, :30]}) == 30
    halves = (mask[:, 30:] == State.IN).mean(axis=0)
    assert ((halves > 0.1) & (halves < 0.9)).all()


@pytest.mark.parametrize("models", [0, 1, 3, 7])
def test_halves_come_in_pairs(models: int):
    with pytest.raises(UsageError, match=f"random halves: models come in groups of 2, got {models}"):
        random_halves(10, models, seed=0)


def test_what_cannot_be_shared_out_is_refused():
    with pytest.raises(UsageError, match="random halves: there must be at least 2 examples, got 1"):
        random_halves(1, 2, seed=0)
    with pytest.raises(UsageError, match="tri-state masks: models come in groups of 3, got 4"):
        tri_state(10, np.arange(3), 4, seed=0)
    with pytest.raises(UsageError, match="tri-state masks: there must be at least 3 examples, got 2"):
        tri_state(2, np.arange(2), 3, seed=0)
    for targets in ([0, 1], [0, 1, 1]):
        with pytest.raises(UsageError, match=f"name at least three distinct targets, got {len(targets)}"):
            tri_state(10, np.array(targets), 3, seed=0)
