"""judge() on evidence whose truth is known: error rates, power, coverage, the right word and the right sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from audit_samples import class_evidence, evidence, plan, within_binomial

from unlearnkit.audits import battery, controls, designs, words
from unlearnkit.audits.battery import BATTERY, ENOUGH_CANARIES, Judgement, judge
from unlearnkit.audits.designs import Tolerances, rank_tests, smallest_leak
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.findings import low_before
from unlearnkit.audits.simulate import with_audited
from unlearnkit.audits.statistics.coin import coin_test, coin_tests
from unlearnkit.audits.statistics.multiplicity import holm_families
from unlearnkit.audits.statistics.rank import oracle_rank
from unlearnkit.result import Comparison, Individual, Individuals, Interval, UsageError

# What 120 requested examples, 100 + 100 canaries and 39 oracles can decide.
WIDE = Tolerances(auc=0.15)


def word(judgement: Judgement) -> str:
    return judgement.verdict.word


def states(judgement: Judgement) -> dict[str, str]:
    return {test.name: test.state for test in judgement.tests}


def flags(judgement: Judgement) -> set[str]:
    return {flag.name for flag in judgement.flags}


@pytest.fixture(autouse=True)
def _few_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shuffles are for is tested with the controls."""
    monkeypatch.setattr(controls, "SHUFFLES", 40)


@pytest.fixture
def tests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated audits with fewer permutations (still exact) and without controls and distances: many in seconds."""
    monkeypatch.setattr(battery, "run_controls", lambda *_args, **_more: ())
    monkeypatch.setattr(battery, "comparisons", lambda *_args: ())
    monkeypatch.setattr(designs, "coin_tests", lambda *args, **more: coin_tests(*args, **{**more, "permutations": 499}))


def small(seed: int, **changes: Any) -> Evidence:
    return evidence(seed, **({"requested": 50, "twins": 50, "canaries": 50} | changes))


# -- error rates ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tests_only")
@pytest.mark.parametrize(
    ("oracles", "law", "runs"),
    [
        (0, "normal", 200),
        pytest.param(19, "t3", 200, marks=pytest.mark.slow),
        pytest.param(39, "normal", 1000, marks=pytest.mark.slow),
    ],
)
def test_a_retrained_model_is_rejected_no_more_often_than_stated(oracles: int, law: Any, runs: int) -> None:
    """Any test significant: at most 5 % of audits. Any test FAIL: likewise, even where next to nothing is tolerated."""
    strict = plan(tolerances=Tolerances(auc=0.001, margin=0.001, worst=0.001))
    found = [judge(small(seed, oracles=oracles, law=law), strict) for seed in range(runs)]
    for share in (
        sum(any(test.p_adjusted <= 0.05 for test in j.tests) for j in found),
        sum(any(test.state == "FAIL" for test in j.tests) for j in found),
    ):
        assert within_binomial(share, runs, 0.05), share
    # and the test is not dead: raw p-values are at 5 % about 5 % of the time
    raw = [test.p <= 0.05 for j in found for test in j.tests]
    assert 0.02 < np.mean(raw) < 0.09


@pytest.mark.usefixtures("tests_only")
def test_a_retrained_model_never_fails_at_a_tolerance_the_audit_can_resolve() -> None:
    found = [judge(small(seed), plan(tolerances=Tolerances(auc=0.2))) for seed in range(60)]
    assert not any(word(j) == "FAIL" for j in found)
    assert sum(word(j) == "PASS" for j in found) >= 40


@pytest.mark.usefixtures("tests_only")
def test_a_leak_at_the_tolerance_is_passed_no_more_often_than_stated() -> None:
    """PASS is a statement of equivalence: a true leak of just the tolerance passes in 2.5 % of audits at most."""
    passed, runs = 0, 80
    for seed in range(runs):
        made = small(seed, canaries=0, oracles=19, common=0.1)
        rank = rank_tests(made, plan())[0]
        sigma = np.sqrt(made.margins["oracles"][:, made.rows(Group.REQUESTED)].var(axis=0, ddof=1).mean())
        made = small(seed, canaries=0, oracles=19, common=0.1, leak=float(sigma))
        passed += states(judge(made, plan()))[rank.name] in ("PASS", "LEAK_BELOW_TOLERANCE")
    assert within_binomial(passed, runs, 0.025), passed


@pytest.mark.parametrize("law", ["normal", "t3"])
@pytest.mark.parametrize("oracles", [19, pytest.param(39, marks=pytest.mark.slow)])  # benchmarks/calibration.md has 39
def test_the_mde_is_found_as_often_as_stated_and_the_interval_covers(law: Any, oracles: int) -> None:
    """Every rank test by itself finds a shift of its MDE with power 0.8, whatever the law of the models."""
    runs = 100
    found: dict[str, int] = {}
    covered: dict[str, int] = {}
    for seed in range(runs):
        made = small(seed, oracles=oracles, law=law)
        for test in rank_tests(made, plan()):
            values = test.values(test.read(made, "audited"), made)
            size = smallest_leak(test, made, plan())
            assert size is not None
            for counts, shift in ((covered, 0.0), (found, size)):
                moved = np.concatenate([values[:1] + shift, test.beside(values[1:], shift)])
                [rank] = oracle_rank(moved[:, None], tolerances=np.ones(1))
                assert rank.shift.low is not None
                assert rank.shift.high is not None
                hit = rank.p <= 0.05 if shift else rank.shift.low <= 0 <= rank.shift.high
                counts[test.name] = counts.get(test.name, 0) + hit
    assert len(found) == 5
    for name in found:
        assert found[name] / runs >= 0.72, (name, found[name])
        assert within_binomial(runs - covered[name], runs, 0.05), (name, covered[name])


def test_the_coin_mde_is_found_as_often_as_stated() -> None:
    runs = 200
    found = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        heads = np.arange(200) < 100
        shift = 0.4137  # AUC 0.615 of two normals: the MDE of 100 against 100
        result = coin_test(rng.normal(0, 1, 200) + shift * heads, heads, tolerance=0.05, permutations=499, seed=seed)
        assert result.mde == pytest.approx(0.115, abs=5e-4)
        found += result.p <= 0.05
    assert found / runs >= 0.72


# -- the right word ------------------------------------------------------------------------------------------------


def test_a_forgetful_model_passes_with_every_control_listed() -> None:
    judged = judge(evidence(0), plan(tolerances=WIDE))
    assert word(judged) == "PASS"
    assert judged.verdict.headline == "No trace above the tolerance was found."
    assert judged.verdict.why[0] == "Of 4 required tests 4 stay within tolerance."
    free = {test.name for test in judged.tests[-2:]}  # no PASS hangs on them
    assert free == {"Oracle rank, worst examples", "Threshold attack, requested"}
    assert [test.required for test in judged.tests] == [True] * 4 + [False] * 2
    assert [c.name for c in judged.controls] == [
        "held-out oracle accepted",
        "shuffled labels at chance",
        "planted leak found",
        "planted canary leak found",
        "untouched original caught",
    ]
    assert all(control.passed for control in judged.controls)
    assert not flags(judged)


@pytest.mark.parametrize(
    ("made", "failed", "headline"),
    [
        (
            partial(evidence, leak_canaries=2.5),
            "Canary coin test",
            "The model still remembers what it was asked to forget.",
        ),
        (
            partial(evidence, leak=2.5),
            "Oracle rank, mean margin",
            "The model still remembers what it was asked to forget.",
        ),
        (
            partial(evidence, leak=-3.0, leak_canaries=-3.0),
            "Canary coin test",
            "The model was pushed beyond forgetting, and that shows.",
        ),
        (
            partial(class_evidence, known=6.0),
            "Class recognition",
            "The model still remembers what it was asked to forget.",
        ),
        (
            partial(class_evidence, known=-5.0),
            "Oracle rank, class margin",
            "The model was pushed beyond forgetting, and that shows.",
        ),
    ],
)
def test_leaks_fail_with_the_right_headline(made: Callable[..., Evidence], failed: str, headline: str) -> None:
    judged = judge(made(3), plan(kind="class" if made.func is class_evidence else "examples"))
    assert word(judged) == "FAIL"
    assert states(judged)[failed] == "FAIL"
    assert judged.verdict.headline == headline
    assert judged.tests[0].state == "FAIL"  # worst first
    assert judged.tests[0].sentence in judged.verdict.why


def test_the_untouched_original_fails() -> None:
    made = evidence(5)
    judged = judge(with_audited(made, made.margins["original"]), plan())
    assert word(judged) == "FAIL"
    assert set(states(judged).values()) == {"FAIL"}


def few_remembered(seed: int, *, examples: int = 4, by: float = 7.0) -> Evidence:
    """A model that forgot all requested examples but a few, which are outvoted in every mean."""
    made = evidence(seed)
    margins = made.margins["audited"].copy()
    margins[made.rows(Group.REQUESTED)[:examples]] += by
    return with_audited(made, margins)


def test_a_few_remembered_examples_fail_although_every_mean_passes() -> None:
    judged = judge(few_remembered(0), plan(tolerances=WIDE))
    worst, *others = judged.tests
    assert (worst.name, worst.state, worst.required) == ("Oracle rank, worst examples", "FAIL", False)
    assert {test.state for test in others} == {"PASS"}
    assert word(judged) == "FAIL"
    assert judged.verdict.headline == "Some examples are treated unlike retraining treats them."
    assert judged.verdict.why == ("Of 4 required tests 4 stay within tolerance.", worst.sentence)
    assert worst.sentence.endswith("the table of single examples names them.")


@pytest.mark.parametrize(
    ("worst", "flagged", "low", "how", "end"),
    [
        ((5.0, 4.0), 2, (0, 0), "2 requested examples lie above retraining, corrected", ""),
        ((-5.0, 4.0), 1, (1, 0), "1 requested example lies below retraining, corrected", ""),
        ((-5.0, 4.0), 2, (1, 1), "2 requested examples lie above or below retraining, corrected", " Those below"),
        (
            (5.0, 4.0),
            13,
            (3, 2),
            "13 requested examples lie above or below retraining (the 2 farthest: above), corrected",
            " 2 of those below",
        ),
    ],
)
def test_single_examples_that_stand_out_are_flagged(
    worst: tuple[float, ...], flagged: int, low: tuple[int, int], how: str, end: str
) -> None:
    named = tuple(Individual("x", z, "remembered" if z > 0 else "over-forgotten", 0.05, 0.001) for z in worst)
    found = Individuals(3.0, Interval(0.0, 0.1, 0.2), 0.1, 0.5, flagged, named, "assumes much", "")
    [flag] = battery._flagged(found, low)
    assert flag.name == "single examples"
    end = end and f"{end} lay there already before the deletion."
    assert flag.sentence == f"{how} for all of them (assumes much).{end}"
    assert battery._flagged(dataclasses.replace(found, flagged=0), low) == battery._flagged(None, low) == []


# What 1,000 requested examples and no canaries are in small: a hundred, and tolerances that these can decide.
ROOMY = Tolerances(auc=0.3, margin=2.0, worst=5.0)


def one_apart(by: float, *, seed: int = 1, **changes: Any) -> Evidence:
    """A model that forgot, with one requested example raised."""
    made = evidence(seed, **({"canaries": 0, "requested": 100, "twins": 100, "outputs": True} | changes))
    margins = made.margins["audited"].copy()
    margins[7] += by
    return with_audited(made, margins)


@pytest.mark.usefixtures("tests_only")
@pytest.mark.parametrize("tier", ["minutes", "hours"])
@pytest.mark.parametrize(("by", "side"), [(15.0, "above"), (-15.0, "below")])
def test_nobody_is_passed_while_one_person_is_provably_remembered(tier: Any, by: float, side: str) -> None:
    fixed = plan(tolerances=ROOMY, tier=tier)
    assert word(judge(one_apart(0.0), fixed)) == "PASS"
    judged = judge(one_apart(by), fixed)
    assert {test.state for test in judged.tests if test.required} == {"PASS"}
    assert judged.individuals is not None
    size = words.number(abs(judged.individuals.worst[0].z))
    assert word(judged) == "INCONCLUSIVE"
    apart = f"1 requested example stands out, {size} σ {side} retraining"
    assert judged.verdict.headline == f"The evidence does not decide: {apart}."
    assert judged.verdict.why[1] == (
        f"{apart} (p = 0.025, all examples counted). A mean can hide one person, so no PASS is given; the table of "
        "single examples names it."
    )
    assert "single examples" in flags(judged)


@pytest.mark.usefixtures("tests_only")
def test_nor_is_a_class_of_which_one_example_is_remembered() -> None:
    made = class_evidence(1, outputs=True)
    raised = with_audited(made, made.margins["audited"] + 15.0 * (np.arange(made.group.size) == 7))
    fixed = plan(kind="class", tolerances=Tolerances(auc=0.4, recognition=0.5, class_margin=9.0))
    assert word(judge(made, fixed)) == "PASS"
    judged = judge(raised, fixed)
    assert {test.state for test in judged.tests if test.required} == {"PASS"}
    assert word(judged) == "INCONCLUSIVE"
    assert judged.verdict.headline.startswith("The evidence does not decide: 1 requested example stands out, ")


def test_withholding_a_pass_costs_retrained_models_no_more_than_the_significance() -> None:
    """Single examples of a model that never saw them stand out in about 5 % of audits: exactly 2 of 40 ranks."""
    runs = 300
    made = (evidence(seed, canaries=0, requested=40, twins=2) for seed in range(runs))
    named = (dataclasses.replace(one, ids=tuple(map(str, range(40)))) for one in made)
    singled = [battery.single_examples(one, plan()) for one in named]
    withheld = sum(found is not None and found.flagged > 0 for found in singled)
    assert within_binomial(withheld, runs, 0.05), withheld
    assert withheld > 0


def test_examples_below_are_told_from_those_that_were_there_before() -> None:
    made = one_apart(-15.0)
    assert low_before(made, plan()) == (1, 0)
    before = made.margins["original"].copy()
    before[7] -= 17.5
    both = dataclasses.replace(made, margins={**made.margins, "original": before})
    assert low_before(both, plan()) == (1, 1)
    assert low_before(one_apart(15.0), plan()) == (0, 0)


@pytest.mark.parametrize("given", [39, 40])
def test_a_retraining_that_is_missing_makes_the_audit_invalid(given: int) -> None:
    judged = judge(evidence(0), plan(tolerances=WIDE, oracles=given))
    control = judged.controls[0]
    assert control.name == "all oracles retrained"
    assert control.passed == (given == 39)
    assert word(judged) == ("PASS" if given == 39 else "INVALID")
    if given == 40:
        sentence = "1 of 40 retrained references are missing; what is left was not chosen by chance."
        assert judged.verdict.why == (control.sentence,) == (sentence,)


# -- an exact claim ------------------------------------------------------------------------------------------------


def test_an_exact_claim_of_a_forgetful_model_is_consistent() -> None:
    judged = judge(evidence(0), plan(tolerances=WIDE, claim="exact"))
    assert word(judged) == "CONSISTENT"
    assert judged.verdict.headline.startswith("Consistent with exact unlearning: no trace was found")
    assert judged.verdict.why[0] == "Of 4 required tests 4 found no trace, and had the power to find one."
    assert flags(judged) == {"exact claim"}


def test_an_exact_claim_fails_on_a_leak_that_is_tolerated_otherwise() -> None:
    made = evidence(7, requested=400, twins=400, leak=0.6, common=0.02, canaries=0)
    tolerances = Tolerances(auc=0.2)
    assert word(judge(made, plan(tolerances=tolerances))) == "PASS"
    judged = judge(made, plan(tolerances=tolerances, claim="exact"))
    assert word(judged) == "FAIL"
    assert judged.tests[0].state == "FAIL"
    assert "no tolerance" in judged.tests[0].sentence


def test_an_exact_claim_is_not_consistent_because_too_few_oracles_were_asked() -> None:
    """Beside a clean canary test 19 oracles cannot reach significance, so that no rank test could ever fail."""
    judged = judge(evidence(2, oracles=19, leak=2.5), plan(tolerances=WIDE, claim="exact"))
    assert word(judged) == "INCONCLUSIVE"
    test = next(test for test in judged.tests if test.name == "Oracle rank, mean margin")
    assert test.p <= 0.05 < test.p_adjusted
    assert test.sentence.endswith(
        "Undecided: a trace by itself, but with several tests only 39 oracles decide; there are 19."
    )


@pytest.mark.usefixtures("tests_only")
def test_an_exact_claim_of_a_retrained_model_fails_no_more_often_than_stated() -> None:
    found = [word(judge(small(seed), plan(tolerances=Tolerances(auc=0.2), claim="exact"))) for seed in range(60)]
    assert within_binomial(found.count("FAIL"), len(found), 0.05)
    assert found.count("CONSISTENT") >= 30
    assert "PASS" not in found


# -- the standard of the battery -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"oracles": 39}, ()),
        ({"tier": "hours", "oracles": 64}, ()),
        ({"tier": "seconds", "oracles": 0}, ()),
        ({"oracles": 39, "seed": 7, "claim": "exact"}, ()),
        ({"oracles": 19}, ("oracles 19 instead of 39",)),
        ({"tier": "hours", "oracles": 39}, ("oracles 39 instead of 64",)),
        (
            {"oracles": 39, "significance": 0.1, "power": 0.9},
            ("significance 0.1 instead of 0.05", "power 0.9 instead of 0.8"),
        ),
        (
            {"oracles": 39, "tolerances": Tolerances(auc=0.15, class_margin=2.0, worst=2.5)},
            (
                "tolerance auc 0.15 instead of 0.05",
                "tolerance class margin 2 instead of 3",
                "tolerance worst 2.5 instead of 1",
            ),
        ),
    ],
)
def test_what_was_changed_from_the_standard_is_said(changes: dict[str, Any], said: tuple[str, ...]) -> None:
    assert battery.nonstandard(plan(**changes)) == said


def test_the_standard_stands_in_the_judgement() -> None:
    fixed = plan(tolerances=WIDE)
    assert judge(small(0), fixed).nonstandard == battery.nonstandard(fixed) != ()


# -- nothing to forget ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tolerance", "expected"), [(0.2, "PASS"), (0.05, "INCONCLUSIVE")])
def test_nothing_measurable_to_forget(tolerance: float, expected: str) -> None:
    judged = judge(evidence(11, trace=0.0), plan(tolerances=Tolerances(auc=tolerance)))
    assert word(judged) == expected
    assert judged.verdict.headline == "Nothing measurable to forget: the untouched original shows no trace either."
    smallest = next(line for line in judged.verdict.why if line.startswith("The smallest trace"))
    assert smallest.startswith("The smallest trace this audit would have seen is ")
    assert "an AUC of 0.615 (Canary coin test)" in smallest
    assert "a margin shift of" in smallest
    assert "no measurable trace" in flags(judged)
    assert "untouched original caught" not in {control.name for control in judged.controls}
    assert all(control.passed for control in judged.controls)


@pytest.mark.parametrize("oracles", [0, 19, 39])
def test_no_trace_is_never_invalid(oracles: int) -> None:
    words = {word(judge(small(seed, trace=0.0, oracles=oracles), plan())) for seed in range(2)}
    assert "INVALID" not in words
    assert "FAIL" not in words


def test_nothing_measurable_is_not_said_where_one_test_alone_sees_a_trace() -> None:
    """19 oracles and clean canaries: corrected for two families no rank test can reach significance."""
    judged = judge(evidence(2, oracles=19, trace=2.5, trace_canaries=0.0), plan())
    assert not judged.verdict.headline.startswith("Nothing measurable")
    assert flags(judged) == {"faint trace", "few oracles"}
    assert "untouched original caught" not in {control.name for control in judged.controls}


@pytest.mark.parametrize("oracles", [19, 39])
@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_a_held_out_oracle_of_another_kind_is_invalid(oracles: int, shift: float) -> None:
    judged = judge(evidence(4, oracles=oracles, held_out=shift), plan(tolerances=WIDE))
    assert word(judged) == "INVALID"
    assert judged.verdict.headline == "This audit cannot be relied on: one of its own controls failed."
    # a shift of the whole model takes its worst examples along
    assert judged.verdict.why == (
        "A model retrained without the data was called a failure by: Oracle rank, mean margin, "
        "Oracle rank, worst examples.",
    )


@pytest.mark.parametrize("made", [evidence(1), evidence(1, canaries=0), evidence(1, oracles=0, canaries=0)])
def test_a_dead_attack_is_invalid(made: Evidence) -> None:
    dead = dataclasses.replace(made, scores={name: np.zeros_like(a) for name, a in made.scores.items()})
    judged = judge(dead, plan(tolerances=WIDE))
    assert word(judged) == "INVALID"
    assert any("dead" in line or "planted leak" in line for line in judged.verdict.why)


def test_an_attack_that_scores_every_model_by_a_constant_of_its_own_is_dead_too() -> None:
    made = evidence(1)
    dead = {name: np.broadcast_to(a[..., :1], a.shape).copy() for name, a in made.scores.items()}
    judged = judge(dataclasses.replace(made, scores=dead), plan(tolerances=WIDE))
    assert word(judged) == "INVALID"
    assert "Threshold attack, requested: dead" in " ".join(judged.verdict.why)


def test_scores_that_know_the_order_of_the_points() -> None:
    """Such evidence makes a model that never saw the examples look like a leak: the held-out oracle is rejected.

    Without oracles it cannot be told from a leak; then it says FAIL, and never PASS.
    """
    made = evidence(1)
    slope = np.linspace(4.0, -4.0, made.group.size)

    def knows(arrays: Any, *, but: str) -> dict[str, Any]:
        return {name: a if name.endswith(but) else a + slope for name, a in arrays.items()}

    leaking = dataclasses.replace(made, margins=knows(made.margins, but="oracles"))
    judged = judge(leaking, plan(tolerances=WIDE))
    assert word(judged) == "INVALID"
    assert "held-out oracle accepted" in {c.name for c in judged.controls if not c.passed}
    alone = evidence(1, oracles=0)
    blind = dataclasses.replace(alone, scores=knows(alone.scores, but="none"))
    assert word(judge(blind, plan(tolerances=WIDE))) == "FAIL"


def test_a_leak_below_tolerance_is_said_and_passes() -> None:
    made = evidence(7, requested=400, twins=400, leak=0.6, common=0.02, canaries=0)
    judged = judge(made, plan(tolerances=Tolerances(auc=0.2)))
    assert set(states(judged).values()) == {"LEAK_BELOW_TOLERANCE"}
    assert word(judged) == "PASS"
    assert judged.verdict.headline == "No trace above the tolerance was found."
    for test in judged.tests:
        assert test.sentence.endswith("A difference is measurable, and it is within tolerance.")


@pytest.mark.parametrize("oracles", [0, 39])
def test_few_canaries_are_inconclusive_and_say_how_many_would_decide(oracles: int) -> None:
    judged = judge(evidence(8, canaries=30, oracles=oracles), plan())
    assert word(judged) == "INCONCLUSIVE"
    coin = next(test for test in judged.tests if test.kind == "coin")
    assert coin.state == "INCONCLUSIVE"
    assert "about 524 canaries on each side would decide at this tolerance; there are 30." in coin.sentence


def test_too_few_canaries_for_the_coin_test_are_flagged() -> None:
    judged = judge(evidence(8, canaries=12), plan(tolerances=WIDE))
    assert sorted(states(judged)) == [
        "Oracle rank, mean margin",
        "Oracle rank, worst examples",
        "Reference attack, requested",
        "Threshold attack, requested",
    ]
    assert flags(judged) == {"few canaries"}
    assert "Only 12 canaries on one side" in judged.flags[0].sentence


# -- tier seconds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("canaries", "leak", "expected"),
    [
        (100, 2.5, "FAIL"),
        (499, 0.0, "INCONCLUSIVE"),
        (500, 0.0, "PASS"),
        (0, 3.0, "FAIL"),
        (0, 0.0, "INCONCLUSIVE"),
    ],
)
def test_without_oracles(canaries: int, leak: float, expected: str) -> None:
    tolerance = Tolerances(auc=0.1)
    made = evidence(16, oracles=0, canaries=canaries, requested=800, twins=800, leak=leak, leak_canaries=leak)
    judged = judge(made, plan(tier="seconds", tolerances=tolerance))
    assert word(judged) == expected
    assert len(judged.tests) == 1
    assert "no oracles" in flags(judged)
    assert ("twins assumed exchangeable" in flags(judged)) == (not canaries)
    if expected == "INCONCLUSIVE":
        assert judged.tests[0].state == "PASS"
        assert judged.verdict.why[-1] == "Without retrained models, or 500 canaries on each side, no PASS can be given."
    assert ENOUGH_CANARIES == 500


def test_without_oracles_both_sides_need_500_canaries() -> None:
    made = evidence(16, oracles=0, canaries=700)
    kept = np.flatnonzero((made.group != Group.HEADS) | (np.cumsum(made.group == Group.HEADS) <= 300))
    part = made.part(kept)
    assert part.rows(Group.HEADS).size == 300
    judged = judge(part, plan(tier="seconds", tolerances=WIDE))
    assert states(judged) == {"Canary coin test": "PASS"}
    assert word(judged) == "INCONCLUSIVE"


# -- several tests -------------------------------------------------------------------------------------------------


def test_19_oracles_cannot_decide_beside_a_clean_canary_test_and_39_can() -> None:
    few = judge(evidence(2, oracles=19, leak=2.5), plan())
    assert word(few) == "INCONCLUSIVE"
    sentence = next(test.sentence for test in few.tests if test.name == "Oracle rank, mean margin")
    assert sentence.endswith(
        "Undecided: beyond tolerance by itself, but with several tests only 39 oracles decide; there are 19."
    )
    assert "39 oracles decide on their own" in next(f.sentence for f in few.flags if f.name == "few oracles")
    assert word(judge(evidence(2, oracles=39, leak=2.5), plan())) == "FAIL"
    # once the canary test has failed, or where there are no canaries, 19 are enough
    for made in (evidence(2, oracles=19, leak=2.5, leak_canaries=2.5), evidence(2, oracles=19, leak=2.5, canaries=0)):
        assert states(judge(made, plan()))["Oracle rank, mean margin"] == "FAIL"


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ([[0.03]], [[0.03]]),
        ([[0.01, 0.2], [0.6]], [[0.02, 0.4], [0.6]]),
        ([[0.01, 0.02], [0.04]], [[0.02, 0.04], [0.04]]),
        # one member of the first family is not rejected: the second still counts double, 0.06 and not 0.03
        ([[0.001, 0.9], [0.03]], [[0.002, 0.9], [0.06]]),
        ([[0.05, 0.05], [0.001]], [[0.05, 0.05], [0.002]]),
        ([[0.7, 0.8], [0.9]], [[1.0, 1.0], [1.0]]),
        ([[0.01], [0.02], [0.03]], [[0.03], [0.04], [0.04]]),
    ],
)
def test_holm_across_families_by_hand(families: list[list[float]], expected: list[list[float]]) -> None:
    for order in (1, -1):
        found = holm_families(families[::order])[::order]
        for one, two in zip(found, expected, strict=True):
            assert one == pytest.approx(two)


def test_holm_across_families_keeps_the_level() -> None:
    """One member of a family of two is a true leak; the other member and the second family are not."""
    rng = np.random.default_rng(0)
    runs = 8_000
    null = rng.uniform(size=(runs, 2))
    # members of a family are corrected inside it already, here by nothing: the worst a valid correction may do
    false = [
        min(adjusted[0][1], adjusted[1][0]) <= 0.05 for a, b in null if (adjusted := holm_families([[1e-6, a], [b]]))
    ]
    assert within_binomial(sum(false), runs, 0.05), np.mean(false)


@pytest.mark.usefixtures("tests_only")
def test_adjusted_p_values_are_never_below_the_raw_ones() -> None:
    for seed in range(5):
        for test in judge(evidence(seed, leak=0.5), plan()).tests:
            assert test.p <= test.p_adjusted <= 1
            assert test.p_tolerance <= test.p_tolerance_adjusted <= 1
            assert test.leak.low is None or test.leak.low <= test.leak.value


# -- what an outcome says ------------------------------------------------------------------------------------------


def test_quantities_and_originals() -> None:
    judged = judge(evidence(0), plan())
    coin = next(test for test in judged.tests if test.kind == "coin")
    quantities = {q.name: q for q in coin.quantities}
    assert quantities["AUC"].value == pytest.approx(coin.leak.value + 0.5)
    assert coin.original is not None
    assert coin.original.value > 0.3
    assert coin.original_p == pytest.approx(1e-4)
    assert quantities["TPR at 1\u00a0% FPR"].value is not None
    rank = next(test for test in judged.tests if test.name == "Oracle rank, mean margin")
    audited, mean = (q.value for q in rank.quantities[:2])
    assert audited is not None
    assert mean is not None
    assert audited - mean == pytest.approx(rank.leak.value)
    few = next(test for test in judge(evidence(0, canaries=30), plan()).tests if test.kind == "coin")
    missing = next(q for q in few.quantities if q.name.startswith("TPR at 1\u00a0%"))
    assert missing.value is None
    assert missing.why == "needs at least 100 never-used examples"


def test_accuracy_comes_with_its_spread() -> None:
    judged = judge(evidence(0), plan())
    rows = {(row.model, row.split): row for row in judged.accuracy}
    assert set(rows) == {
        (m, s) for m in ("original", "audited", "oracles") for s in ("forget", "canaries", "retain", "test")
    }
    for row in judged.accuracy:
        assert row.rate.low is not None
        assert row.rate.high is not None
        assert 0 <= row.rate.low <= row.rate.value <= row.rate.high <= 1
        assert row.rate.value == pytest.approx(row.correct / row.n)
    # A further oracle lies between the lowest and the highest of 39 in 38 of 40 audits, whatever their law.
    assert rows["oracles", "test"].rate.confidence == pytest.approx(38 / 40)


def test_a_coin_test_too_small_for_its_power_claims_no_mde() -> None:
    judged = judge(evidence(0, oracles=0, canaries=0, requested=2, twins=30), plan(tier="seconds"))
    assert judged.tests[0].mde is None
    assert word(judged) in ("INCONCLUSIVE", "INVALID")
    assert judged.verdict.mde == (
        "Requested against held-out has too few examples to find a leak of any size four times in five.",
    )


def test_attacks_that_hold_the_original_are_ranked_among_retrained_models() -> None:
    def rows(**settings: Any) -> dict[str, Comparison]:
        return {row.name: row for row in judge(small(3, **settings), plan()).comparisons}

    names = ("IAM attack", "Deletion inference from two models")
    fair, leaking = rows(), rows(leak=2.0)
    for name in names:
        assert fair[name].p is not None
        assert fair[name].p > 0.1
        assert leaking[name].p == pytest.approx(1 / 32)  # 39 oracles, eight of them references
    # The better the deletion, the more two versions tell of it: that is why only the rank counts.
    assert fair[names[1]].value > 0.8 > leaking[names[1]].value
    assert "8 oracles are its references, 31 are ranked." in fair[names[0]].sentence
    # Of two oracles one would be the reference: the other alone ranks nothing, and must not end the audit.
    assert not set(names) & set(rows(oracles=2))
    assert set(names) <= set(rows(oracles=3))
    assert not set(names) & {row.name for row in judge(class_evidence(0), plan(kind="class")).comparisons}


# -- determinism ---------------------------------------------------------------------------------------------------


def test_few_retrained_models_are_not_told_from_retrained_ones_and_leaking_ones_are() -> None:
    """Were a target to leave alone, its own kind would be one smaller: an AUC of 0.44 with three on each side."""
    floors, found = [], []
    for seed in range(12):
        made = small(seed, oracles=6, unlearned=6)
        [fair] = battery._unlearned_or_not(made, plan())
        assert made.ensemble is not None
        kept = dataclasses.replace(made, ensemble=made.ensemble + 2.0 * (made.group == Group.REQUESTED))
        [leaking] = battery._unlearned_or_not(kept, plan())
        assert leaking.oracles == fair.oracles
        floors.append(fair.oracles.value)
        found.append(leaking.value)
    assert abs(np.mean(floors) - 0.5) < 0.025, floors
    assert min(found) > 0.7


def test_the_same_arrays_give_the_same_judgement() -> None:
    fixed = plan(classes=tuple("abcdefghij"))
    settings: dict[str, Any] = {"oracles": 19, "requested": 20, "canaries": 20, "outputs": True, "unlearned": 8}
    made = small(9, **settings)
    judged = judge(made, fixed)
    assert None not in (judged.individuals, judged.collateral)
    # compressed copies, distances, retained and published, probes, SWAP, many models, two versions, U-LiRA
    assert len(judged.comparisons) == 5 + 5 + 3 + 2 + 1 + 5 + 2 + 1
    assert judge(small(9, **settings), fixed) == judged
    assert judge(Evidence.from_bytes(made.to_bytes()), fixed) == judged
    assert BATTERY == "1"


def test_order_changes_nothing_but_the_seeded_permutations() -> None:
    """Guaranteed: leaks, intervals, MDE, rank p and states, to rounding. The coin test's p is drawn by a seed over the
    points in their order: it stays within the error of 9,999 draws."""
    made = evidence(9, leak=0.4)
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.permutation(made.rows(Group(g))) for g in (3, 1, 0, 2)])
    first, second = judge(made, plan()), judge(made.part(points, rng.permutation(39)), plan())
    assert word(first) == word(second)
    assert [t.name for t in first.tests] == [t.name for t in second.tests]
    for one, two in zip(first.tests, second.tests, strict=True):
        assert one.state == two.state
        assert one.mde == pytest.approx(two.mde, rel=1e-9)
        for limit in ("low", "value", "high"):
            assert getattr(one.leak, limit) == pytest.approx(getattr(two.leak, limit), rel=1e-9, abs=1e-12)
        error = 4 * np.sqrt(one.p * (1 - one.p) / 9999) if one.kind == "coin" else 1e-12
        assert one.p == pytest.approx(two.p, abs=error + 1e-4 * (one.kind == "coin"))


def test_another_seed_changes_the_permutations_only() -> None:
    first, second = judge(small(9), plan(seed=0)), judge(small(9), plan(seed=1))
    for one, two in zip(first.tests, second.tests, strict=True):
        assert one.leak == two.leak
        assert (one.p == two.p) == (one.kind == "rank")


# -- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auc", "margin", "class_margin", "recognition", "worst"])
@pytest.mark.parametrize("value", [0.0, -0.1, 100.0, float("nan")])
def test_tolerances_must_be_shares_or_shifts(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"audit\.tolerances\.{name}: must lie between 0 and "):
        Tolerances(**{name: value})


def test_percent_is_recognized() -> None:
    with pytest.raises(UsageError, match=r"got 5; write 5 percent as 0\.05"):
        Tolerances(auc=5.0)
