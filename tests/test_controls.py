"""Each control of the auditor alone: passes on good evidence, and fails when the thing it watches is sabotaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from audit_samples import ATTACK, class_evidence, evidence, plan
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.attacks import Threshold
from unlearnkit.audits import controls
from unlearnkit.audits.battery import judge
from unlearnkit.audits.controls import SLACK, fewest_found, refused, run_controls
from unlearnkit.audits.designs import (
    AttackAdvantage,
    CoinDesign,
    MarginShift,
    Plan,
    RankTest,
    ReferenceAttack,
    Tolerances,
    coin_design,
    rank_tests,
)
from unlearnkit.audits.evidence import Evidence, FloatArray, Group
from unlearnkit.audits.statistics.coin import coin_test
from unlearnkit.audits.statistics.rank import RankResult, planted_mde
from unlearnkit.result import Control, Interval
from unlearnkit.types import Attack, Known, Observation

WIDE = Tolerances(auc=0.15)
THRESHOLD = Threshold()


def only(name: str, found: tuple[Control, ...]) -> Control:
    [control] = [control for control in found if control.name == name]
    return control


def planted(made: Evidence, fixed: Plan, tests: Sequence[RankTest]) -> Control:
    """The control of leaks planted in oracles alone."""
    found = run_controls(made, fixed, tests, None, attack=THRESHOLD, held_out={}, caught=True)
    return only("planted leak found", found)


def run(
    made: Evidence, *, design: CoinDesign | None = None, caught: bool = True, attack: Attack = THRESHOLD
) -> tuple[Control, ...]:
    fixed = plan(tolerances=WIDE)
    held_out: dict[str, bool] | None = {} if "held_out" in made.margins else None
    return run_controls(
        made,
        fixed,
        rank_tests(made, fixed),
        design or coin_design(made),
        attack=attack,
        held_out=held_out,
        caught=caught,
    )


def test_all_pass_on_good_evidence_and_say_so_in_sentences() -> None:
    found = run(evidence(0))
    assert all(control.passed for control in found)
    for control in found:
        assert control.sentence.endswith(".")
        assert "nan" not in control.sentence


def test_the_held_out_oracle_is_named_with_the_tests_that_rejected_it() -> None:
    good, bad = (
        only(
            "held-out oracle accepted",
            run_controls(evidence(0), plan(), (), None, attack=THRESHOLD, held_out=failed, caught=True),
        )
        for failed in ({}, {"Canary coin test": True, "Reference attack": False, "Oracle rank, mean margin": True})
    )
    assert good.passed
    assert good.sentence == "A further model retrained without the data fails no test."
    assert not bad.passed
    assert bad.sentence.endswith("was called a failure by: Canary coin test, Oracle rank, mean margin.")


def rank_result(shift: float, sd: float, *, p: float = 0.05) -> RankResult:
    interval = Interval(None, shift, None, 0.95)
    return RankResult(interval, p=p, p_adjusted=p, p_tolerance=p, mde=None, oracle_mean=0.0, oracle_sd=sd)


@pytest.mark.parametrize(("oracles", "tests"), [(3, 1), (19, 1), (39, 1), (19, 4)])
def test_a_held_out_oracle_is_refused_by_chance_as_often_as_a_control_may(
    oracles: int, tests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "SLACK", 0.05)  # often enough to be counted
    models = np.random.default_rng(5).normal(size=(5_000, oracles + 1))
    shifts = models[:, 0] - models[:, 1:].mean(axis=1)
    sd = models[:, 1:].std(axis=1, ddof=1)
    count = sum(
        refused(rank_result(*pair), tolerance=0.0, oracles=oracles, tests=tests)
        for pair in zip(shifts.tolist(), sd.tolist(), strict=True)
    )
    low, high = stats.binom.interval(0.999, models.shape[0], 0.05 / tests)
    assert low <= count <= high


def test_a_held_out_oracle_far_beyond_the_tolerance_is_refused() -> None:
    for shift, found in ((7.0, True), (-7.0, True), (6.5, False), (-6.5, False)):
        assert refused(rank_result(shift, 1.0), tolerance=3.0, oracles=39, tests=1) == found
    assert refused(rank_result(1.1, 0.0), tolerance=1.0, oracles=19, tests=6)


def test_a_coin_test_refuses_the_held_out_oracle_at_the_level_of_a_control() -> None:
    heads = np.arange(200) < 100
    scores = np.random.default_rng(3).normal(size=200)
    for leak, p_at_most, found in ((0.8, 0.05, False), (1.5, 1e-3, True)):
        result = coin_test(scores + leak * heads, heads, tolerance=0.05, seed=0)
        assert result.p_tolerance <= p_at_most
        assert refused(result, tolerance=0.05, oracles=19, tests=6) == found


def test_coins_told_apart_without_a_mistake_always_refuse_the_held_out_oracle() -> None:
    heads = np.arange(40) < 20
    result = coin_test(heads - 0.5, heads, tolerance=0.2, seed=0)
    assert result.p_tolerance > SLACK / 6
    assert refused(result, tolerance=0.2, oracles=19, tests=6)


@pytest.mark.parametrize(("oracles", "significance"), [(9, 0.05), (18, 0.05), (39, 0.02)])
def test_where_no_rank_can_reject_the_planted_leak_is_no_failure(oracles: int, significance: float) -> None:
    made, fixed = evidence(4, oracles=oracles), plan(significance=significance)
    control = planted(made, fixed, rank_tests(made, fixed))
    assert control.passed
    assert "Oracle rank, mean margin: so few models reject nothing" in control.sentence


def test_a_failure_by_chance_is_said_and_makes_no_audit_invalid() -> None:
    """Next to nothing is tolerated, and this held-out oracle is one of the 5 % that lie outside."""
    strict = Tolerances(auc=1e-6, margin=1e-6, worst=1e-6)
    judged = judge(evidence(6), plan(tolerances=strict))
    control = only("held-out oracle accepted", judged.controls)
    assert control.passed
    assert control.sentence == (
        "A model retrained without the data fails Reference attack, requested, Threshold attack, requested, "
        "by no more than retrained models may differ."
    )
    assert judged.verdict.word != "INVALID"


@pytest.mark.parametrize(("trials", "taught"), [(10, 10), (20, 20), (33, 51)])
def test_as_few_planted_leaks_are_found_only_by_chance(trials: int, taught: int) -> None:
    """Whatever the law: the size is the 80 % quantile of what some models need, and others need it or less."""
    needs = np.random.default_rng(8).standard_t(3, size=(20_000, taught + trials))
    size = np.quantile(needs[:, :taught], 0.8, axis=1, method="higher")
    found = np.count_nonzero(needs[:, taught:] <= size[:, None], axis=1)
    least = fewest_found(trials, taught, power=0.8, level=0.01)
    assert np.mean(found < least) <= 0.0125
    assert np.mean(found <= least) > 0.0075


def test_at_least_one_planted_leak_must_be_found() -> None:
    assert stats.betabinom.ppf(0.001, 10, 6, 5) == 0
    assert fewest_found(10, 10, power=0.5, level=0.001) == 1


def test_the_original_is_listed_only_where_it_was_caught() -> None:
    for caught in (False, True):
        names = {control.name for control in run(evidence(0), caught=caught)}
        assert ("untouched original caught" in names) == caught


@pytest.mark.parametrize(("asked", "passed"), [(40, True), (41, False), (60, False), (0, None)])
def test_oracles_that_were_asked_for_must_be_there(asked: int, passed: bool | None) -> None:
    made = evidence(0, oracles=40)
    found = run_controls(made, plan(oracles=asked), (), None, attack=THRESHOLD, held_out={}, caught=True)
    if passed is None:
        assert "all oracles retrained" not in {control.name for control in found}
        return
    control = only("all oracles retrained", found)
    assert control.passed == passed
    assert control.sentence == (
        f"All {asked} references that were asked for are there."
        if passed
        else f"{asked - 40} of {asked} retrained references are missing; what is left was not chosen by chance."
    )


def test_where_an_oracle_is_missing_the_audit_is_invalid() -> None:
    made = evidence(0, oracles=40)
    assert judge(made, plan(oracles=41, tolerances=WIDE)).verdict.word == "INVALID"
    assert judge(made, plan(oracles=40, tolerances=WIDE)).verdict.word == "PASS"


# -- shuffled labels -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ReadsTheLabels(CoinDesign):
    """A scorer that looks up who was trained on."""

    def scores(self, evidence: Evidence, target: str, plan: Plan) -> FloatArray:
        return CoinDesign.scores(self, evidence, target, plan) + 0.5 * self.heads(evidence)


@dataclasses.dataclass(frozen=True)
class ReadsTheOrder(CoinDesign):
    """A scorer whose scores fall along the rows it is handed, members first."""

    def scores(self, evidence: Evidence, target: str, plan: Plan) -> FloatArray:
        scores = CoinDesign.scores(self, evidence, target, plan)
        return scores - np.linspace(0.0, 1.0, scores.size)


@pytest.mark.parametrize("cheat", [ReadsTheLabels, ReadsTheOrder])
@pytest.mark.parametrize("oracles", [0, 19])
def test_a_scorer_that_reads_the_labels_is_caught(cheat: type[CoinDesign], oracles: int) -> None:
    made = evidence(1, oracles=oracles)
    honest = coin_design(made)
    assert honest is not None
    design = cheat(honest.name, honest.members, honest.others, honest.exact)
    control = only("shuffled labels at chance", run(made, design=design))
    assert not control.passed
    assert only("shuffled labels at chance", run(made, design=honest)).passed
    assert "of 200 shuffles look significant (at most 21 are to be expected)." in control.sentence


@dataclasses.dataclass(frozen=True)
class OrderedThreshold(Attack):
    """Its scores fall along the points as they are handed to it: members come first."""

    def run(self, target: Observation, known: Known) -> FloatArray:
        return Threshold().run(target, known) - np.linspace(0.0, 1.0, len(target.margins))


@pytest.mark.parametrize(
    "made",
    [
        class_evidence(1),
        evidence(1, canaries=0),
        evidence(1, oracles=0, canaries=0),
        evidence(1, oracles=0),
    ],
)
def test_an_attack_that_reads_the_order_is_caught_in_every_design(made: Evidence) -> None:
    """Also where the scores are the attack's own, not standardized: of a class, and in tier `seconds`."""
    assert only("shuffled labels at chance", run(made)).passed
    control = only("shuffled labels at chance", run(made, attack=OrderedThreshold()))
    assert not control.passed, control.sentence


def test_scoring_anew_gives_the_scores_of_the_evidence() -> None:
    made = evidence(1, oracles=0, canaries=0)
    again = controls._scored_anew(made, plan(), THRESHOLD, Group.REQUESTED, Group.TWINS)
    np.testing.assert_array_equal(again.scores[f"{ATTACK}/audited"], made.scores[f"{ATTACK}/audited"])


@dataclasses.dataclass(frozen=True)
class PeekingReference(ReferenceAttack):
    """Its references are those models that know a point's side: what a pool that is sorted by labels would give."""

    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        helped = stack.copy()
        helped[0] += 0.5 * (evidence.group == Group.REQUESTED)
        return ReferenceAttack.values(self, helped, evidence)


@dataclasses.dataclass(frozen=True)
class OrderedReference(ReferenceAttack):
    """Its scores fall along the requested examples first, then the twins."""

    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        order = np.concatenate([evidence.rows(Group.REQUESTED), evidence.rows(Group.TWINS)])
        helped = stack.copy()
        helped[0, order] -= np.linspace(0.0, 1.0, order.size)
        return ReferenceAttack.values(self, helped, evidence)


@pytest.mark.parametrize("cheat", [PeekingReference, OrderedReference])
@pytest.mark.parametrize("canaries", [0, 20])
def test_a_reference_attack_that_reads_the_labels_is_caught(cheat: type[ReferenceAttack], canaries: int) -> None:
    made, fixed = evidence(1, oracles=19, canaries=canaries), plan(tolerances=WIDE)
    tests = rank_tests(made, fixed)
    [honest] = [test for test in tests if isinstance(test, ReferenceAttack)]
    sabotaged = [cheat(**vars(test)) if test is honest else test for test in tests]
    for these, passed in ((tests, True), (sabotaged, False)):
        control = controls._shuffled_at_chance(made, fixed, these, coin_design(made), THRESHOLD)
        assert control.passed == passed
        assert "(Reference attack, requested); " in control.sentence


def test_areas_of_shuffled_labels_scatter_as_by_chance() -> None:
    made = evidence(2, oracles=19, canaries=0, requested=40, twins=25, leak=2.0)
    [test] = [test for test in rank_tests(made, plan()) if isinstance(test, ReferenceAttack)]
    name, areas, error = controls._shuffled_test(test, made, np.random.default_rng(0))
    assert name == "Reference attack, requested"
    assert error == pytest.approx((66 / (12 * 40 * 25)) ** 0.5)
    assert areas.std() == pytest.approx(error, rel=0.2)
    assert areas.mean() == pytest.approx(0.5, abs=5 * error / len(areas) ** 0.5)


@pytest.mark.parametrize("made", [evidence(2), evidence(2, canaries=0), evidence(2, oracles=0, canaries=0)])
def test_a_strong_leak_is_no_failure_of_the_shuffle(made: Evidence) -> None:
    leaking = dataclasses.replace(
        made,
        margins={**made.margins, "audited": made.margins["original"] + 3.0 * (made.group < Group.TWINS)},
        scores={**made.scores, f"{ATTACK}/audited": made.scores[f"{ATTACK}/original"]},
    )
    assert only("shuffled labels at chance", run(leaking)).passed


def test_ties_make_the_shuffle_narrower_not_wrong() -> None:
    made = evidence(3, oracles=0)
    tied = {name: np.round(a / 4) for name, a in made.margins.items()}
    rounded = dataclasses.replace(made, margins=tied, scores={f"{ATTACK}/{name}": a for name, a in tied.items()})
    assert only("shuffled labels at chance", run(rounded)).passed


# -- planted leaks -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dead(MarginShift):
    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        return np.zeros(len(stack))


@dataclasses.dataclass(frozen=True)
class Inverted(MarginShift):
    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        return -MarginShift.values(self, stack, evidence)


@dataclasses.dataclass(frozen=True)
class LooksElsewhere(MarginShift):
    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        return np.asarray(stack[:, evidence.rows(Group.TWINS)].mean(axis=1))


@dataclasses.dataclass(frozen=True)
class DeafAttack(AttackAdvantage):
    """Reads whether each score is positive: a shift of the size promised moves it hardly at all."""

    def read(self, evidence: Evidence, target: str) -> FloatArray:
        return np.sign(AttackAdvantage.read(self, evidence, target) + 1e9)


@dataclasses.dataclass(frozen=True)
class Upward(MarginShift):
    def smallest(self, values: FloatArray, plan: Plan, among: NDArray[np.int64] | None = None) -> float | None:
        return planted_mde(values, confidence=plan.confidence, power=plan.power, upward=True, among=among)


def test_models_that_need_more_than_the_others_miss_the_planted_leak() -> None:
    """Every other model lies far below: what is enough for one half is not enough for the other."""
    made, test = evidence(4, canaries=0), Upward("upward", "σ", "requested", 0.01, Group.REQUESTED, True)
    oracles = made.margins["oracles"].copy()
    oracles[::2, made.rows(Group.REQUESTED)] -= 5.0  # behind the held-out one, these are the models in odd places
    uneven = dataclasses.replace(made, margins={**made.margins, "oracles": oracles})
    for one, passed in ((made, True), (uneven, False)):
        control = planted(one, plan(), (test,))
        assert control.passed == passed, control.sentence
    values = test.values(test.read(uneven, "held_out"), uneven)
    odd, even = (test.smallest(values, plan(), among=np.arange(start, values.size, 2)) for start in (1, 0))
    assert odd is not None
    assert even is not None
    assert odd > 2 * even


@pytest.mark.parametrize("broken", [Dead, Inverted, LooksElsewhere])
def test_a_broken_rank_statistic_misses_the_planted_leak(broken: type[MarginShift]) -> None:
    made, fixed = evidence(4), plan()
    sound = MarginShift("sound", "σ", "requested", 1.0, Group.REQUESTED, True)
    test = broken("broken", "σ", "requested", 1.0, Group.REQUESTED, True)
    for tests, passed in (((sound,), True), ((test,), False), ((sound, test), False)):
        control = planted(made, fixed, tests)
        assert control.passed == passed
    assert "broken 0 of 20 (at least 7)" in control.sentence


def test_a_deaf_attack_is_called_dead() -> None:
    made = evidence(4)
    test = DeafAttack("deaf", "AUC", "requested", 0.05, Group.REQUESTED, True, ATTACK)
    control = planted(made, plan(), (test,))
    assert not control.passed
    assert "deaf: dead, it gives all points of a model one and the same score" in control.sentence


def test_a_leak_that_does_not_fit_into_the_range_of_the_auc_is_no_failure() -> None:
    """Oracles with an AUC of 0.6 and a tolerance of 0.45: up leads beyond 1, down is tried instead."""
    made = evidence(5, canaries=0)
    easy = {n: a + 0.5 * (made.group == Group.REQUESTED) for n, a in made.scores.items()}
    fixed = plan(tolerances=Tolerances(auc=0.45))
    made = dataclasses.replace(made, scores=easy)
    control = planted(made, fixed, rank_tests(made, fixed))
    assert control.passed
    assert "Threshold attack, requested 20 of 20" in control.sentence


def test_a_class_with_few_unseen_images_is_no_failure_of_the_auditor() -> None:
    """The AUC over a handful of twins varies so much that its MDE leaves the range: said, and not INVALID."""
    made, fixed = class_evidence(6, twins=2, oracles=19), plan(kind="class")
    control = planted(made, fixed, rank_tests(made, fixed))
    assert control.passed, control.sentence


@dataclasses.dataclass(frozen=True)
class InvertedCoin(CoinDesign):
    def scores(self, evidence: Evidence, target: str, plan: Plan) -> FloatArray:
        return -CoinDesign.scores(self, evidence, target, plan)


@dataclasses.dataclass(frozen=True)
class DeadCoin(CoinDesign):
    def scores(self, evidence: Evidence, target: str, plan: Plan) -> FloatArray:
        return np.zeros(self.rows(evidence).size)


@dataclasses.dataclass(frozen=True)
class OtherModelsCoin(CoinDesign):
    """Scores another model than the one it is asked about."""

    def scores(self, evidence: Evidence, target: str, plan: Plan) -> FloatArray:
        return CoinDesign.scores(self, evidence, "original", plan)


@pytest.mark.parametrize("broken", [InvertedCoin, DeadCoin, OtherModelsCoin])
@pytest.mark.parametrize("oracles", [0, 19])
def test_a_broken_coin_design_misses_the_planted_leak(broken: type[CoinDesign], oracles: int) -> None:
    made = evidence(7, oracles=oracles, trace=0.0)
    honest = coin_design(made)
    assert honest is not None
    assert only("planted canary leak found", run(made, design=honest)).passed
    design = broken(honest.name, honest.members, honest.others, honest.exact)
    assert not only("planted canary leak found", run(made, design=design)).passed


@pytest.mark.parametrize("power", [0.5, 0.6, 0.95])
def test_a_planted_canary_leak_is_found_at_every_power_that_a_spec_may_ask_for(power: float) -> None:
    """At a tolerance below the MDE, so that the MDE is what is planted."""
    fixed = plan(power=power, tolerances=Tolerances(auc=0.01))
    for seed in range(10):
        made = evidence(seed, oracles=0)
        found = run_controls(made, fixed, (), coin_design(made), attack=THRESHOLD, held_out=None, caught=True)
        control = only("planted canary leak found", found)
        assert control.passed, control.sentence


def test_a_coin_test_that_sees_nothing_misses_the_planted_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    real = controls.coin_test

    def blind(scores: FloatArray, *arguments: object, **more: object) -> object:
        return real(np.zeros_like(scores), *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(controls, "coin_test", blind)
    control = only("planted canary leak found", run(evidence(7)))
    assert not control.passed
    assert "gives p = 1 (must be at most 0.05)" in control.sentence


def test_assumed_twins_get_a_planted_leak_too() -> None:
    made = evidence(7, oracles=0, canaries=0)
    assert only("planted leak found", run(made)).passed
    dead = dataclasses.replace(made, scores={name: np.zeros_like(a) for name, a in made.scores.items()})
    assert not only("planted leak found", run(dead)).passed


def test_too_few_examples_are_no_fault_of_the_auditor() -> None:
    """One requested example against five twins: no p could get to 0.05, whatever was planted."""
    names = {control.name for control in run(evidence(7, oracles=0, canaries=0, requested=1, twins=5))}
    assert names >= {"shuffled labels at chance"}
    assert "planted leak found" not in names


def test_the_solver() -> None:
    assert controls._solve(lambda by: by - 3.0) == pytest.approx(3.0, rel=1e-5)
    assert controls._solve(lambda by: by) == 0.0
    assert controls._solve(lambda by: by + 1.0) == 0.0
    assert controls._solve(lambda by: -1.0 - by) is None
    jump = controls._solve(lambda by: float(by > 2.0) - 0.5)
    assert jump is not None
    assert 2.0 < jump < 2.001
