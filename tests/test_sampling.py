"""The sample of a large set: today's rows for good, every group in it, and nothing of an empty one."""

from __future__ import annotations

import numpy as np
import pytest

from unlearnkit.audits.statistics.sampling import LEAST_OF_GROUP, MOST_POINTS, evenly, exactly, in_groups


def test_a_sample_of_a_large_set_is_in_equal_steps() -> None:
    assert evenly(np.arange(12_000)).tolist() == list(range(0, 12_000, 3))
    assert evenly(np.arange(MOST_POINTS + 1)).tolist() == list(range(0, MOST_POINTS + 1, 2))
    assert evenly(np.arange(5, 5 + MOST_POINTS)).tolist() == list(range(5, 5 + MOST_POINTS))
    assert evenly(np.array([7, 3, 9, 1, 4]), 2).tolist() == [7, 1]


@pytest.mark.parametrize(
    ("count", "rows"), [(0, []), (1, [0]), (4, [0, 1, 2, 3]), (5, [0, 1, 3, 4]), (11, [0, 3, 7, 10])]
)
def test_an_exact_number_includes_both_ends(count: int, rows: list[int]) -> None:
    assert exactly(np.arange(count), 4).tolist() == rows
    assert exactly(np.arange(count) + 10, 4).tolist() == [row + 10 for row in rows]


def test_no_row_is_chosen_twice() -> None:
    for count in (*range(60), 5_003):
        for most in (1, 2, 7, 50):
            assert np.unique(exactly(np.arange(count), most)).size == min(count, most)


def test_of_nothing_there_is_an_empty_sample() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert evenly(nothing).size == exactly(nothing, 3).size == 0
    assert [part.tolist() for part in in_groups(nothing)] == [[], []]


def test_the_order_of_examples_hides_no_group() -> None:
    """Where groups alternate, every second example is of one of them."""
    sites = np.tile([0, 1], 5_000)
    assert set(sites[evenly(np.arange(sites.size))]) == {0}
    shares, beside = in_groups(sites)
    assert np.bincount(sites[shares]).tolist() == [2_500, 2_500]
    assert (np.diff(shares) > 0).all()
    assert beside.size == 0


def test_small_groups_are_looked_at_beside_the_sample() -> None:
    number = np.repeat([2, -1, 1, 0], [12_000, 4_000, 3, 3_997])[np.random.default_rng(0).permutation(20_000)]
    shares, beside = in_groups(number)
    assert shares.size == 5_000
    assert np.abs(np.bincount(number[shares] + 1) - np.array([4_000, 3_997, 3, 12_000]) / 4).max() < 1
    chosen = np.concatenate([shares, beside])
    assert np.unique(chosen).size == chosen.size
    assert set(number[beside]) == {1}
    assert (number[chosen] == 1).sum() == 3
    many = np.arange(30_000) % 300  # groups of 100, of which the sample alone has 17 at most
    shares, beside = in_groups(many)
    assert shares.size == 5_000
    assert np.bincount(many[np.concatenate([shares, beside])]).tolist() == [LEAST_OF_GROUP] * 300


def test_where_all_fit_all_are_looked_at_in_their_order() -> None:
    number = np.random.default_rng(0).integers(-1, 3, MOST_POINTS)
    shares, beside = in_groups(number)
    assert (shares.tolist(), beside.size) == (list(range(MOST_POINTS)), 0)
