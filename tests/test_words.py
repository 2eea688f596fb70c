"""The sentences: numbers as people write them, and every sentence complete, whatever the outcome."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from audit_samples import plan
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnkit.audits import words
from unlearnkit.audits.verdict import state_of
from unlearnkit.audits.words import headline, number, sentence, span, why, would_have_noticed
from unlearnkit.result import Claim, Control, Individual, Individuals, Interval, Outcome, State, Word

KINDS = {
    "Class recognition": ("rank", "confidence", "class"),
    "Oracle rank, class margin": ("rank", "σ", "class"),
    "Oracle rank, mean margin": ("rank", "σ", "requested"),
    "Oracle rank, worst examples": ("rank", "σ", "requested"),
    "Oracle rank, canary gap": ("rank", "σ", "canaries"),
    "Reference attack, requested": ("rank", "AUC difference", "requested"),
    "Threshold attack, requested": ("rank", "AUC difference", "requested"),
    "Canary coin test": ("coin", "AUC − 0.5", "canaries"),
    "Requested against held-out": ("coin", "AUC − 0.5", "requested"),
}


def make(name: str, state: State = "PASS", **changes: Any) -> Outcome:
    kind, unit, group = KINDS[name]
    fields: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "unit": unit,
        "group": group,
        "leak": Interval(-0.02, 0.01, 0.04),
        "tolerance": 0.05,
        "mde": 0.03,
        "p": 0.4,
        "p_adjusted": 0.8,
        "p_tolerance": 1.0,
        "p_tolerance_adjusted": 1.0,
        "original": Interval(0.1, 0.2, 0.3),
        "original_p": 0.01,
        "required": True,
        "state": state,
        "sentence": "",
    }
    return Outcome(**(fields | changes))


def complete(text: str) -> bool:
    """A sentence that begins and ends, and in which nothing is missing."""
    missing = re.search(r"\bNone\b|\bnan\b|\binf\b|  | [.;,]|\(\)|\{|\}|-\d", text)
    return bool(text) and text.endswith(".") and (text[0].isupper() or text[0].isdigit()) and not missing


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.05, "0.050"),
        (0.1234, "0.123"),
        (-0.5, "−0.500"),
        (1.234, "1.23"),
        (-12.34, "−12.3"),
        (123.4, "123"),
        (999.4, "999"),
        (1234.0, "1,234"),
        (-1.3e-172, "−1.3\u00a0×\u00a010⁻¹⁷²"),
        (2.5e7, "2.5\u00a0×\u00a010⁷"),
        (0.0005, "0.001"),
        (0.0001, "0.0001"),
        (-0.00012, "−0.00012"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
    assert not number(value).startswith("-")


def test_span() -> None:
    assert span(Interval(-0.1, 0.0, 0.2)) == "95\u00a0% interval −0.100 to 0.200"
    assert span(Interval(-0.1, 0.0, 0.2, 0.9), 0.5) == "90\u00a0% interval 0.400 to 0.700"
    assert span(Interval(None, 0.0, 0.2)) == "no interval"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("state", [s for s in get_args(State) if s != "INVALID"])
def test_every_state_of_every_test_is_a_complete_sentence(name: str, state: State) -> None:
    for leak in ((-0.02, 0.01, 0.04), (-0.3, -0.2, -0.1), (0.1, 0.2, 0.3), (None, 0.2, None)):
        for mde in (0.03, 0.2, None):
            if state == "PASS" and mde is None:
                continue
            for claim in get_args(Claim):
                fixed = plan(claim=claim)
                text = sentence(make(name, state, leak=Interval(*leak), mde=mde), oracles=19, fewest=30, plan=fixed)
                assert complete(text), text


@pytest.mark.parametrize(
    ("name", "changes", "ending"),
    [
        ("Canary coin test", {}, "about 524 canaries on each side would decide at this tolerance; there are 30."),
        (
            "Requested against held-out",
            {},
            "about 524 examples on each side would decide at this tolerance; there are 30.",
        ),
        (
            "Canary coin test",
            {"tolerance": 0.25},
            "the interval reaches across the tolerance.",
        ),
        (
            "Canary coin test",
            {"leak": Interval(0.1, 0.2, 0.3)},
            "beyond tolerance by itself, but not when all tests are counted.",
        ),
        ("Oracle rank, mean margin", {"mde": None}, "19 oracles cannot reach significance; 19 can."),
        (
            "Oracle rank, mean margin",
            {"mde": 0.3},
            "a leak below 0.300 cannot be told from the differences between retrained models.",
        ),
        (
            "Oracle rank, mean margin",
            {"leak": Interval(-0.3, -0.2, -0.1)},
            "beyond tolerance by itself, but with several tests only 39 oracles decide; there are 19.",
        ),
        (
            "Oracle rank, mean margin",
            {"leak": Interval(-0.03, 0.02, 0.1)},
            "the interval reaches across the tolerance.",
        ),
    ],
)
def test_what_an_undecided_test_needs(name: str, changes: dict[str, Any], ending: str) -> None:
    text = sentence(make(name, "INCONCLUSIVE", **changes), oracles=19, fewest=30, plan=plan())
    assert text.endswith(f"Undecided: {ending}")


@pytest.mark.parametrize(
    ("name", "state", "changes", "ending"),
    [
        ("Oracle rank, mean margin", "PASS", {}, "No significant trace; this test by itself finds a leak of 0.030 σ"),
        ("Canary coin test", "FAIL", {}, "chance is 0.5, no tolerance). The model still remembers them."),
        (
            "Canary coin test",
            "INCONCLUSIVE",
            {"mde": 0.3},
            "Undecided: about 524 canaries on each side would find an AUC of 0.550; there are 30.",
        ),
        (
            "Oracle rank, mean margin",
            "INCONCLUSIVE",
            {"leak": Interval(0.01, 0.02, 0.03)},
            "Undecided: a trace by itself, but with several tests only 39 oracles decide; there are 19.",
        ),
        (
            "Canary coin test",
            "INCONCLUSIVE",
            {"leak": Interval(-0.03, -0.02, -0.01)},
            "Undecided: a trace by itself, but not when all tests are counted.",
        ),
        (
            "Oracle rank, mean margin",
            "INCONCLUSIVE",
            {"mde": 0.3},
            "Undecided: a leak below 0.300 cannot be told from the differences between retrained models.",
        ),
    ],
)
def test_an_exact_claim_speaks_of_no_tolerance(name: str, state: State, changes: dict[str, Any], ending: str) -> None:
    text = sentence(make(name, state, **changes), oracles=19, fewest=30, plan=plan(claim="exact"))
    assert ending in text
    assert "tolerance" not in text.replace("no tolerance", "")
    reasons = why("CONSISTENT", [make(name)], [], trace=True, may_pass=True, claim="exact")
    assert reasons[0] == "Of 1 required test 1 found no trace, and had the power to find one."


@pytest.mark.parametrize(
    ("leak", "ending"),
    [
        ((1.1, 2.0, 3.0), "the table of single examples names them."),
        (
            (-3.0, -2.0, -1.1),
            "They lie closer to what retraining gives than retrained models do, and that tells the model",
        ),
    ],
)
def test_the_worst_examples_have_no_side(leak: tuple[float, float, float], ending: str) -> None:
    failed = make(words.WORST, "FAIL", leak=Interval(*leak), required=False)
    assert ending in sentence(failed, oracles=39, fewest=0, plan=plan())
    alone = "Some examples are treated unlike retraining treats them."
    assert headline("FAIL", [failed], trace=True) == alone
    low = make("Canary coin test", "FAIL", leak=Interval(-0.3, -0.2, -0.1))
    assert headline("FAIL", [failed, low], trace=True) == "The model was pushed beyond forgetting, and that shows."


def test_beyond_tolerance_with_enough_oracles_is_not_said_to_reach_across() -> None:
    test = make("Oracle rank, mean margin", "INCONCLUSIVE", leak=Interval(0.1, 0.2, 0.3))
    text = sentence(test, oracles=39, fewest=30, plan=plan())
    assert text.endswith("Undecided: beyond tolerance by itself, but not when all tests are counted.")


def test_the_power_of_the_plan_stands_in_the_sentence() -> None:
    for power, text in ((0.8, "four times in five"), (0.9, "with power 0.9")):
        said = sentence(make("Class recognition"), oracles=39, fewest=0, plan=plan(power=power))
        assert said.endswith(f"this test by itself finds a leak of 0.030 or more {text}.")
        assert text in would_have_noticed([make("Class recognition")], power)[0]


def test_headlines() -> None:
    fail, low = make("Canary coin test", "FAIL"), make("Canary coin test", "FAIL", leak=Interval(-0.3, -0.2, -0.1))
    found = {
        headline("INVALID", [fail], trace=True),
        headline("FAIL", [fail, low], trace=True),
        headline("FAIL", [low], trace=False),
        headline("PASS", [make("Canary coin test")], trace=False),
        headline("PASS", [make("Canary coin test")], trace=True),
        headline("CONSISTENT", [make("Canary coin test")], trace=True),
        headline("INCONCLUSIVE", [make("Canary coin test")], trace=True),
    }
    assert len(found) == 7
    assert all(complete(text) for text in found)
    nothing = "Nothing measurable to forget: the untouched original shows no trace either."
    assert headline("INCONCLUSIVE", [make("Canary coin test")], trace=False) == nothing


def test_a_mixture_says_both_and_quotes_one_of_each() -> None:
    low = make("Canary coin test", "FAIL", leak=Interval(-0.3, -0.2, -0.1), sentence="Low.")
    lower = make("Oracle rank, mean margin", "FAIL", leak=Interval(-9.0, -8.0, -7.0), sentence="Lower.")
    high = make("Reference attack, requested", "FAIL", leak=Interval(0.1, 0.2, 0.3), sentence="High.")
    worst = make(words.WORST, "FAIL", leak=Interval(1.1, 2.0, 3.0), required=False, sentence="Worst.")
    passed = make("Threshold attack, requested", "PASS")
    mixed = [worst, lower, low, high, passed]
    assert headline("FAIL", mixed, trace=True) == (
        "The model still remembers some of what it was asked to forget, and was pushed too far elsewhere."
    )
    assert why("FAIL", mixed, [], trace=True, may_pass=True)[1:] == ("High.", "Lower.")
    assert why("FAIL", [worst, high], [], trace=True, may_pass=True)[1:] == ("High.",)  # what the headline speaks of
    assert why("FAIL", [worst, passed], [], trace=True, may_pass=True)[1:] == ("Worst.",)


@pytest.mark.parametrize(
    ("original", "pushed"), [(-0.25, False), (-0.1, False), (-0.09, True), (0.3, True), (None, True)]
)
def test_nothing_was_pushed_where_it_lay_before_the_deletion(original: float | None, pushed: bool) -> None:
    before = None if original is None else Interval(None, original, None)
    low = make("Canary coin test", "FAIL", leak=Interval(-0.3, -0.2, -0.1), original=before)
    high = make("Reference attack, requested", "FAIL", leak=Interval(0.1, 0.2, 0.3))
    assert ("pushed" in headline("FAIL", [low], trace=True)) == pushed
    assert ("as it did before the deletion" in headline("FAIL", [low], trace=True)) != pushed
    assert ("was pushed too far" in headline("FAIL", [low, high], trace=True)) == pushed
    assert complete(headline("FAIL", [low, high], trace=True))


@pytest.mark.parametrize("flagged", [1, 12])
@pytest.mark.parametrize("trace", [True, False])
def test_single_examples_are_said_first_among_what_is_undecided(flagged: int, trace: bool) -> None:
    far = Individual("x", -13.8, "over-forgotten", 0.025, 0.025)
    singles = Individuals(3.0, Interval(0.0, 0.1, 0.2), 0.1, 0.5, flagged, (far,), "exact", "")
    tests = [make("Oracle rank, mean margin", "INCONCLUSIVE", sentence="B.")]
    said = headline("INCONCLUSIVE", tests, trace=trace, singles=singles)
    many = "12 requested examples stand out, the farthest 13.8 σ below retraining"
    apart = many if flagged > 1 else "1 requested example stands out, 13.8 σ below retraining"
    assert said == f"The evidence does not decide: {apart}."
    lines = why("INCONCLUSIVE", tests, [], trace=trace, may_pass=True, singles=singles)
    assert len(lines) == 3
    assert lines[1].startswith(f"{apart} (p = 0.025, all examples counted). ")
    assert "so no PASS is given" in lines[1]
    exact = why("INCONCLUSIVE", tests, [], trace=trace, may_pass=True, claim="exact", singles=singles)
    assert "so no CONSISTENT is given" in exact[1]
    assert lines[2] == "B."
    failed = [make("Canary coin test", "FAIL")]  # which says enough
    assert headline("FAIL", failed, trace=trace, singles=singles) == headline("FAIL", failed, trace=trace)


def test_why_carries_the_worst_first() -> None:
    tests = [
        make("Canary coin test", "PASS", sentence="A."),
        make("Oracle rank, mean margin", "INCONCLUSIVE", sentence="B."),
    ]
    assert why("INCONCLUSIVE", tests, [], trace=True, may_pass=True) == (
        "Of 2 required tests 1 stays within tolerance.",
        "B.",
    )
    bad = Control("x", False, "The control is broken.")
    assert why("INVALID", tests, [bad], trace=True, may_pass=True) == ("The control is broken.",)
    alone = why("INCONCLUSIVE", tests[:1], [], trace=True, may_pass=False)
    assert alone[0] == "Of 1 required test 1 stays within tolerance."
    assert alone[-1] == "Without retrained models, or 500 canaries on each side, no PASS can be given."


def test_no_trace_and_no_mde_is_still_a_sentence() -> None:
    blind = make("Oracle rank, mean margin", "INCONCLUSIVE", mde=None, sentence="B.")
    assert why("INCONCLUSIVE", [blind], [], trace=False, may_pass=True)[-1] == (
        "This audit could have seen no trace, however large."
    )
    seeing = make("Canary coin test", "INCONCLUSIVE", sentence="A.")
    assert why("INCONCLUSIVE", [seeing, blind], [], trace=False, may_pass=True)[-1] == (
        "The smallest trace this audit would have seen is an AUC of 0.530 (Canary coin test)."
    )


def test_would_have_noticed_names_every_test() -> None:
    tests = [make(name) for name in KINDS]
    [line] = would_have_noticed(tests, 0.8)
    assert line.startswith("Each test by itself finds, four times in five, ")
    assert all(name in line for name in KINDS)
    blind = [make(name, mde=None) for name in KINDS]
    lines = would_have_noticed(blind, 0.8)
    assert len(lines) == len(KINDS)
    assert all(complete(line) for line in lines)


limit = st.floats(-0.49, 0.49)
share = st.floats(1e-4, 1.0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    names=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5, unique=True),
    limits=st.lists(st.tuples(limit, limit, limit), min_size=5, max_size=5),
    ps=st.lists(st.tuples(share, share), min_size=5, max_size=5),
    mde=st.one_of(st.none(), st.floats(1e-4, 0.5)),
    tolerance=st.floats(0.001, 0.49),
    oracles=st.integers(2, 200),
    fewest=st.integers(0, 5000),
    trace=st.booleans(),
    may_pass=st.booleans(),
    power=st.sampled_from([0.8, 0.9, 0.95]),
    claim=st.sampled_from(get_args(Claim)),
)
def test_random_outcomes_make_complete_sentences(
    names: list[str],
    limits: list[tuple[float, float, float]],
    ps: list[tuple[float, float]],
    mde: float | None,
    tolerance: float,
    oracles: int,
    fewest: int,
    trace: bool,
    may_pass: bool,
    power: float,
    claim: Claim,
) -> None:
    fixed = plan(power=power, claim=claim)
    tests = []
    for name, three, (p, beyond) in zip(names, limits, ps, strict=False):
        low, value, high = sorted(three)
        leak = Interval(low, value, high)
        state = state_of(
            leak,
            tolerance=tolerance,
            mde=mde,
            p=p,
            p_adjusted=p,
            p_tolerance_adjusted=beyond,
            significance=0.05,
            claim=claim,
        )
        test = make(name, state, leak=leak, mde=mde, tolerance=tolerance, p_adjusted=p)
        text = sentence(test, oracles=oracles, fewest=fewest, plan=fixed)
        assert complete(text), text
        tests.append(make(name, state, leak=leak, mde=mde, tolerance=tolerance, p_adjusted=p, sentence=text))
    word: Word = "FAIL" if any(t.state == "FAIL" for t in tests) else "INCONCLUSIVE"
    for text in (
        headline(word, tests, trace=trace),
        *why(word, tests, [], trace=trace, may_pass=may_pass, claim=claim),
        *would_have_noticed(tests, power),
    ):
        assert complete(text), text


def test_every_test_of_the_battery_has_its_words() -> None:
    assert set(words._SUBJECTS) == set(KINDS)
