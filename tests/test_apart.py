"""Search and evaluation cannot share a seed, and a shared model is refused."""

from __future__ import annotations

import pytest

from unlearnkit.audits.worst_case.apart import EvaluationSeeds, SearchSeeds, check_apart
from unlearnkit.result import UsageError


def test_no_seed_of_a_search_is_one_of_an_evaluation_whatever_is_drawn():
    for root in range(5):
        for what in ("oracles", "unlearn"):
            search, evaluation = SearchSeeds(root).draw(what, 200), EvaluationSeeds(root).draw(what, 200)
            assert not set(search) & set(evaluation)
            assert {seed % 2 for seed in search} == {0}
            assert {seed % 2 for seed in evaluation} == {1}


def test_a_name_gives_the_same_seeds_and_another_name_others():
    seeds = SearchSeeds(3)
    assert seeds.draw("a", 5)[:3] == seeds.draw("a", 3) == SearchSeeds(3).draw("a", 3)
    assert not set(seeds.draw("a", 50)) & set(seeds.draw("b", 50))
    assert seeds.generator("a").random() == seeds.generator("a").random() != seeds.generator("b").random()


def test_a_model_of_the_search_cannot_judge():
    check_apart(["a", "b"], ["c"])
    with pytest.raises(UsageError, match=r"1 models were used in the search and cannot judge .*, the first is bbbb;"):
        check_apart(["aaaa", "bbbb"], ["bbbb", "cccc"])
