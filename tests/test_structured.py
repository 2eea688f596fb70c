"""Structured sets: the entanglement score by hand, groups out of ids, and doubles of which one stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlearnkit.audits.worst_case.structured import doubles, entanglement, far_from_retain, group_of, near_retain
from unlearnkit.result import UsageError
from unlearnkit.types import Examples


def test_the_entanglement_score_by_hand():
    features = np.array([[0.0], [2.0], [10.0], [14.0]])
    # means 1 and 12, of all 6.5; spread 1 + 4; apart ½(5.5² + 5.5²)
    assert entanglement(features, np.array([True, True, False, False])) == pytest.approx(5 / 30.25)
    with pytest.raises(UsageError, match="both the forget and the retain set must hold examples"):
        entanglement(features, np.zeros(4, dtype=bool))
    with pytest.raises(UsageError, match="the two sets have the same mean"):
        entanglement(np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([True, True, False, False]))


def test_near_is_more_entangled_than_random_and_far_less():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 8))
    sets = [near_retain(features, 40)[0], rng.permutation(400)[:40], far_from_retain(features, 40)[0]]
    near, random, far = (entanglement(features, np.isin(np.arange(400), places)) for places in sets)
    assert near > random > far
    with pytest.raises(UsageError, match="between 1 and 399 of the 400 training examples, got 400"):
        near_retain(features, 400)
    with pytest.raises(UsageError, match="got 0"):
        far_from_retain(features, 0)


IDS = np.array(["ann/1", "bob/1", "ann/2", "cy/1", "ann/3"])


def test_a_group_is_what_ids_carry():
    assert (group_of(IDS, "^([a-z]+)/", "bob")[0] == [1]).all()
    places, name = group_of(IDS, "^([a-z]+)/", None)
    assert (places.tolist(), name) == ([0, 2, 4], "ann")


@pytest.mark.parametrize(
    ("pattern", "group", "said"),
    [
        ("(", None, r"worst_case.pattern: '\(' is no regular expression"),
        ("^[a-z]+/", None, "has no parenthesis around what names the group"),
        ("^([0-9]+)/", None, "fits no id; ids look like 'ann/1'"),
        ("^([a-z]+)/", "anne", r"no id is of group 'anne'; did you mean 'ann'\? \(3 groups, the largest is 'ann'\)"),
        ("(/)", None, "every training example is of group '/'; nothing would be retained"),
    ],
)
def test_a_group_that_cannot_be_is_refused(pattern, group, said):
    with pytest.raises(UsageError, match=said):
        group_of(IDS, pattern, group)


def test_one_of_every_pair_of_doubles_is_forgotten_and_its_copy_stays():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    x[31], x[38], x[12] = x[0], x[5], x[11]
    examples = Examples(torch.from_numpy(x), torch.zeros(40, dtype=torch.int64), np.arange(40).astype(str))
    assert doubles(examples).tolist() == [0, 5, 11]
    assert doubles(examples, 2).tolist() == [0, 5]
    with pytest.raises(UsageError, match="3 training examples have a near-copy among the others, and 4 are asked for"):
        doubles(examples, 4)
