"""States and words as truth tables."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sample_result import outcome

from unlearnkit.audits.verdict import overall, state_of
from unlearnkit.result import EXIT_CODES, Control, Interval

GOOD, BAD = Control("a", True, "fine."), Control("b", False, "broken.")
INSIDE, BEYOND, ACROSS = (-0.02, 0.01, 0.04), (0.11, 0.2, 0.3), (-0.02, 0.08, 0.2)


@pytest.mark.parametrize(
    ("leak", "mde", "p", "p_tolerance", "expected"),
    [
        (BEYOND, 0.04, 0.001, 0.001, "FAIL"),
        (BEYOND, 0.04, 0.001, 0.05, "FAIL"),  # at the level counts
        (BEYOND, 0.04, 0.001, 0.0501, "INCONCLUSIVE"),
        (BEYOND, None, 1.0, 0.001, "FAIL"),
        (INSIDE, 0.04, 0.9, 1.0, "PASS"),
        (INSIDE, 0.05, 0.9, 1.0, "PASS"),
        (INSIDE, 0.0501, 0.9, 1.0, "INCONCLUSIVE"),  # no power to have seen it
        (INSIDE, None, 0.9, 1.0, "INCONCLUSIVE"),
        (INSIDE, 0.04, 0.05, 1.0, "LEAK_BELOW_TOLERANCE"),
        (INSIDE, None, 0.01, 1.0, "LEAK_BELOW_TOLERANCE"),  # what was seen needs no power
        (ACROSS, 0.04, 0.01, 0.3, "INCONCLUSIVE"),
        (ACROSS, 0.04, 0.9, 1.0, "INCONCLUSIVE"),
        ((None, 0.01, None), 0.04, 0.9, 1.0, "INCONCLUSIVE"),
        ((-0.06, 0.01, 0.04), 0.04, 0.9, 1.0, "INCONCLUSIVE"),
        ((-0.05, 0.0, 0.05), 0.04, 0.9, 1.0, "PASS"),
    ],
)
@pytest.mark.parametrize("mirror", [1, -1])
def test_states(
    leak: tuple[Any, ...], mde: float | None, p: float, p_tolerance: float, expected: str, mirror: int
) -> None:
    limits = [None if limit is None else mirror * limit for limit in leak][::mirror]
    state = state_of(
        Interval(limits[0], limits[1] or 0.0, limits[2]),
        tolerance=0.05,
        mde=mde,
        p=p,
        p_adjusted=p,
        p_tolerance_adjusted=p_tolerance,
        significance=0.05,
    )
    assert state == expected


def test_overall_as_a_truth_table() -> None:
    states: tuple[Any, ...] = ("PASS", "LEAK_BELOW_TOLERANCE", "INCONCLUSIVE", "FAIL", "INVALID")
    for first, second, control, may_pass in itertools.product(states, states, (GOOD, BAD), (True, False)):
        tests = [outcome("x", first, INSIDE, tolerance=0.05), outcome("y", second, INSIDE, tolerance=0.05)]
        word = overall(tests, [GOOD, control], may_pass=may_pass)
        if control is BAD or "INVALID" in (first, second):
            assert word == "INVALID"
        elif "FAIL" in (first, second):
            assert word == "FAIL"
        elif "INCONCLUSIVE" in (first, second) or not may_pass:
            assert word == "INCONCLUSIVE"
        else:
            assert word == "PASS"
        assert word in EXIT_CODES


@pytest.mark.parametrize(
    ("state", "expected"), [("PASS", "PASS"), ("INCONCLUSIVE", "PASS"), ("FAIL", "FAIL"), ("INVALID", "PASS")]
)
def test_a_test_that_is_not_required_can_only_fail(state: Any, expected: str) -> None:
    tests = [
        outcome("x", "PASS", INSIDE, tolerance=0.05),
        outcome("y", state, INSIDE, tolerance=0.05, required=False),
    ]
    assert overall(tests, [GOOD], may_pass=True) == expected


@pytest.mark.parametrize(
    ("leak", "mde", "alone", "p", "expected"),
    [
        (INSIDE, 0.04, 0.05, 0.05, "FAIL"),  # no tolerance: what is significant is too much, however small
        (BEYOND, None, 0.01, 0.01, "FAIL"),
        (INSIDE, 0.05, 0.0501, 0.0501, "PASS"),
        (ACROSS, 0.04, 0.9, 0.9, "PASS"),  # nothing is seen where it would have been
        (INSIDE, 0.0501, 0.9, 0.9, "INCONCLUSIVE"),  # no power to have seen it
        (INSIDE, None, 0.9, 0.9, "INCONCLUSIVE"),
        (BEYOND, 0.04, 0.04, 0.1, "INCONCLUSIVE"),  # seen by this test alone, too few oracles for more
        ((0.001, 0.01, 0.02), 0.04, 0.051, 0.1, "INCONCLUSIVE"),
        ((0.0, 0.01, 0.02), 0.04, 0.051, 0.1, "PASS"),
        (ACROSS, 0.04, 0.05, 0.1, "INCONCLUSIVE"),  # a coin p sees what its interval does not exclude
        ((None, 0.01, None), 0.04, 0.9, 0.9, "PASS"),
    ],
)
@pytest.mark.parametrize("mirror", [1, -1])
def test_states_of_an_exact_claim(
    leak: tuple[Any, ...], mde: float | None, alone: float, p: float, expected: str, mirror: int
) -> None:
    limits = [None if limit is None else mirror * limit for limit in leak][::mirror]
    for beyond in (0.001, 1.0):  # what lies beyond a tolerance that nobody grants plays no part
        state = state_of(
            Interval(limits[0], limits[1] or 0.0, limits[2]),
            tolerance=0.05,
            mde=mde,
            p=alone,
            p_adjusted=p,
            p_tolerance_adjusted=beyond,
            significance=0.05,
            claim="exact",
        )
        assert state == expected


def test_an_exact_claim_is_never_passed() -> None:
    states: tuple[Any, ...] = ("PASS", "INCONCLUSIVE", "FAIL", "INVALID")
    for first, second, control, may_pass in itertools.product(states, states, (GOOD, BAD), (True, False)):
        tests = [outcome("x", first, INSIDE, tolerance=0.05), outcome("y", second, INSIDE, tolerance=0.05)]
        usual = overall(tests, [control], may_pass=may_pass)
        word = overall(tests, [control], may_pass=may_pass, claim="exact")
        assert word == ("CONSISTENT" if usual == "PASS" else usual)
        assert word in EXIT_CODES


@pytest.mark.parametrize("claim", ["approximate", "exact"])
def test_nobody_is_passed_while_single_examples_stand_out(claim: Any) -> None:
    """It takes a PASS or CONSISTENT away, and changes no other word: above all it makes no FAIL."""
    states: tuple[Any, ...] = ("PASS", "LEAK_BELOW_TOLERANCE", "INCONCLUSIVE", "FAIL", "INVALID")
    for state, control, may_pass in itertools.product(states, (GOOD, BAD), (True, False)):
        tests = [outcome("x", state, INSIDE, tolerance=0.05)]
        usual = overall(tests, [control], may_pass=may_pass, claim=claim)
        for singled_out in (1, 7):
            word = overall(tests, [control], may_pass=may_pass, claim=claim, singled_out=singled_out)
            assert word == ("INCONCLUSIVE" if usual in ("PASS", "CONSISTENT") else usual)


def test_nothing_required_is_no_pass() -> None:
    assert overall([], [GOOD], may_pass=True) == "INCONCLUSIVE"
    only = [outcome("y", "PASS", INSIDE, tolerance=0.05, required=False)]
    assert overall(only, [], may_pass=True) == "INCONCLUSIVE"


def test_exit_codes() -> None:
    assert dict(EXIT_CODES) == {"PASS": 0, "CONSISTENT": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INVALID": 4}
