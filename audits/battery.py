"""The battery: judge(), evidence -> outcomes, controls, flags and verdict; the fixed list of attacks and its version.

judge() is a pure function of arrays and of a plan that is fixed beforehand, so that `unlearnkit verify` can compute
every statement again from the evidence in a report. Battery 1 has no parameters: coin-flip canary test, oracle rank
tests and threshold attack decide, each with its control inside the audit; findings about single examples, other
classes and distances from retraining stand beside them. What a user changes from the standard is listed as such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
from scipy.special import expit

from unlearnkit import masks
from unlearnkit.attacks import (
    IAM,
    ClassSeparability,
    LinearProbe,
    Pruning,
    Quantization,
    RandomNeighbors,
    RetainRelearning,
    RMIAOffline,
    Threshold,
    TwinProbe,
    TwoModel,
    ULiRA,
    leave_one_out,
)
from unlearnkit.attacks.mia_efficacy import mia_efficacy
from unlearnkit.audits import words
from unlearnkit.audits.compressed import Compressed, compressed, compressed_rows
from unlearnkit.audits.controls import refused, run_controls
from unlearnkit.audits.designs import (
    MIN_CANARIES,
    CoinDesign,
    Plan,
    RankTest,
    Tolerances,
    coin_design,
    rank_tests,
    smallest_leak,
)
from unlearnkit.audits.evidence import PROBED_MODELS, Evidence, FloatArray, Group
from unlearnkit.audits.findings import (
    LEAST_MODELS,
    MIA_EFFICACY,
    SPLITS,
    by_group,
    comparisons,
    low_before,
    other_classes,
    record_epsilon,
    rounded,
    single_examples,
    spread,
)
from unlearnkit.audits.statistics.coin import CoinResult
from unlearnkit.audits.statistics.multiplicity import holm_families
from unlearnkit.audits.statistics.rank import RankResult, oracle_rank, oracles_needed
from unlearnkit.audits.statistics.roc import auc, clopper_pearson, tpr_at_fpr
from unlearnkit.audits.statistics.sampling import evenly
from unlearnkit.audits.verdict import overall, state_of
from unlearnkit.audits.worst_case.gaps import Instruments
from unlearnkit.audits.worst_case.stress_evidence import stress_flags, stress_sets
from unlearnkit.result import (
    Accuracy,
    Collateral,
    Comparison,
    Control,
    Flag,
    Individuals,
    Interval,
    Outcome,
    Quantity,
    State,
    StressSets,
    Tier,
    Verdict,
)
from unlearnkit.types import Attack, Known, Observation, Probe, References

BATTERY = "1"
# Scores of the plain attack; the one with references is read off the margins of all models at once.
ATTACKS = (Threshold(),)
# Questions to the open models, for a request of each kind. They stand beside the verdict.
_OF_BOTH = (Quantization(), Pruning(), RetainRelearning(steps=40))
PROBES: dict[str, tuple[Probe, ...]] = {
    "examples": (*_OF_BOTH, RandomNeighbors(), TwinProbe()),
    "class": (*_OF_BOTH, LinearProbe(), ClassSeparability()),
}
OF_OTHER_SETS = Instruments({"RMIA": RMIAOffline()})  # beside accuracies and margins
PROBED = 19  # oracles that the probes are put to as well, at most: enough to reject at 0.05

# The standard of this battery; tolerances have theirs in `Tolerances`.
ORACLES: dict[Tier, int] = {"seconds": 0, "minutes": 39, "hours": 64}
SIGNIFICANCE, POWER = 0.05, 0.8

DELTA = 1e-5  # of every ε that is measured
UNLIKE = 0.05  # accuracy on retained examples below that of every oracle by which an original looks like a stranger
ENOUGH_CANARIES = 500  # per arm: from here on the coins alone may carry a PASS (audits.md 12)


@dataclass(frozen=True)
class Judgement:
    """What the evidence says under a plan; tests worst first."""

    tests: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    flags: tuple[Flag, ...]
    accuracy: tuple[Accuracy, ...]
    verdict: Verdict
    nonstandard: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    individuals: Individuals | None
    collateral: Collateral | None
    by_group: Collateral | None
    stress: StressSets | None


def nonstandard(plan: Plan) -> tuple[str, ...]:
    """What a plan changes from the standard of this battery, in words."""
    standard = {"oracles": ORACLES[plan.tier], "significance": SIGNIFICANCE, "power": POWER}
    pairs = [(name, getattr(plan, name), value) for name, value in standard.items()]
    usual = Tolerances()
    pairs += [
        (f"tolerance {f.name.replace('_', ' ')}", getattr(plan.tolerances, f.name), getattr(usual, f.name))
        for f in fields(usual)
    ]
    return tuple(f"{name} {given:g} instead of {value:g}" for name, given, value in pairs if given != value)


@dataclass(frozen=True)
class _Finding:
    """One test of one model, before corrections across families."""

    leak: Interval
    mde: float | None
    p: float
    p_family: float  # corrected within its family
    p_tolerance: float  # likewise
    coin: CoinResult | None = None
    rank: RankResult | None = None


def _examine(evidence: Evidence, target: str, plan: Plan, mdes: Sequence[float | None]) -> list[list[_Finding]]:
    """Every family of tests on one model, in the order of `rank_tests` and `coin_design`; `mdes` of the rank tests."""
    families: list[list[_Finding]] = []
    tests = rank_tests(evidence, plan)
    if tests:
        values = np.stack([test.values(test.read(evidence, target), evidence) for test in tests], axis=1)
        ranks = oracle_rank(
            values,
            tolerances=np.array([test.tolerance for test in tests]),
            confidence=plan.confidence,
            power=plan.power,
        )
        families.append(
            [
                _Finding(r.shift, mde, r.p, r.p_adjusted, r.p_tolerance, rank=r)
                for r, mde in zip(ranks, mdes, strict=True)
            ]
        )
    design = coin_design(evidence)
    if design is not None:
        result = design.test(design.scores(evidence, target, plan), evidence, plan)
        interval = result.auc
        leak = Interval(
            None if interval.low is None else interval.low - 0.5,
            interval.value - 0.5,
            None if interval.high is None else interval.high - 0.5,
            plan.confidence,
        )
        mde = result.mde if result.mde <= 0.5 else None  # no AUC lies that far from chance
        families.append([_Finding(leak, mde, result.p, result.p, result.p_tolerance, coin=result)])
    return families


@dataclass(frozen=True)
class _Judged:
    """A finding with its corrections and its state."""

    finding: _Finding
    p_adjusted: float
    p_tolerance_adjusted: float
    state: State


def _states(families: list[list[_Finding]], tolerances: list[list[float]], plan: Plan) -> list[list[_Judged]]:
    p = holm_families([[f.p_family for f in family] for family in families])
    beyond = holm_families([[f.p_tolerance for f in family] for family in families])
    return [
        [
            _Judged(
                f,
                p[i][j],
                beyond[i][j],
                state_of(
                    f.leak,
                    tolerance=tolerances[i][j],
                    mde=f.mde,
                    p=f.p,
                    p_adjusted=p[i][j],
                    p_tolerance_adjusted=beyond[i][j],
                    significance=plan.significance,
                    claim=plan.claim,
                ),
            )
            for j, f in enumerate(family)
        ]
        for i, family in enumerate(families)
    ]


def judge(evidence: Evidence, plan: Plan) -> Judgement:
    """Every test on the audited model, on the untouched original and on the held-out oracle, and what follows."""
    tests = rank_tests(evidence, plan)
    design = coin_design(evidence)
    tolerances = ([[test.tolerance for test in tests]] if tests else []) + ([[plan.tolerances.auc]] if design else [])
    mdes = [smallest_leak(test, evidence, plan) for test in tests]
    judged = {
        target: _states(_examine(evidence, target, plan, mdes), tolerances, plan)
        for target in ("audited", "original", "held_out")
        if target in evidence.margins
    }
    outcomes: list[Outcome] = []
    for j, test in enumerate(tests):
        outcomes.append(_rank_outcome(test, judged["audited"][0][j], judged["original"][0][j], evidence, plan))
    if design is not None:
        outcomes.append(_coin_outcome(design, judged["audited"][-1][0], judged["original"][-1][0], evidence, plan))
    severity = {"INVALID": 0, "FAIL": 1, "INCONCLUSIVE": 2, "LEAK_BELOW_TOLERANCE": 3, "PASS": 4}
    # Worst first; what no PASS hangs on stands last, unless it fails.
    outcomes.sort(
        key=lambda o: (
            not o.required and o.state != "FAIL",
            severity[o.state],
            not o.required,
            -abs(o.leak.value) / o.tolerance,
        )
    )

    of_original = [j for family in judged["original"] for j in family]
    caught = any(j.p_adjusted <= plan.significance for j in of_original)
    # "Nothing measurable" is a strong thing to say: a test that sees a trace by itself forbids it, corrected or not.
    trace = any(j.finding.p_family <= plan.significance for j in of_original)
    names = [test.name for test in tests] + ([design.name] if design else [])
    held_out = _failing(judged.get("held_out"), names, tolerances, plan, evidence.oracles)
    checks = run_controls(evidence, plan, tests, design, attack=ATTACKS[0], held_out=held_out, caught=caught)
    may_pass = bool(tests) or (design is not None and design.exact and _arm(evidence) >= ENOUGH_CANARIES)
    singles = single_examples(evidence, plan)
    singled_out = 0 if singles is None else singles.flagged
    word = overall(outcomes, checks, may_pass=may_pass, claim=plan.claim, singled_out=singled_out)
    verdict = Verdict(
        word=word,
        headline=words.headline(word, outcomes, trace=trace, singles=singles),
        why=words.why(word, outcomes, checks, trace=trace, may_pass=may_pass, claim=plan.claim, singles=singles),
        mde=words.would_have_noticed(outcomes, plan.power),
    )
    copies = compressed(evidence, plan, ATTACKS[0])
    # That the model as it is shows nothing is a strong thing to say too: uncorrected, as for a trace.
    noticed = design is not None and judged["audited"][-1][0].finding.p <= plan.significance
    others = _other_sets(evidence, plan)
    flags = (
        *_flags(evidence, plan, design, trace=trace, caught=caught),
        *([] if noticed or design is None else _comes_back(design, copies, judged["audited"][-1][0].finding.p, plan)),
        *_flagged(singles, low_before(evidence, plan) if singled_out else (0, 0)),
        *(stress_flags(others) if others is not None else ()),
        *evidence.notes,
    )
    return Judgement(
        tests=tuple(outcomes),
        controls=checks,
        flags=flags,
        accuracy=_accuracy(evidence, plan),
        verdict=verdict,
        nonstandard=nonstandard(plan),
        comparisons=(
            *comparisons(evidence, plan),
            *_beside_the_original(evidence, plan),
            *_unlearned_or_not(evidence, plan),
            *compressed_rows(evidence, copies),
        ),
        individuals=singles,
        collateral=other_classes(evidence, plan),
        by_group=by_group(evidence, plan),
        stress=others,
    )


def _failing(
    families: list[list[_Judged]] | None,
    names: list[str],
    tolerances: list[list[float]],
    plan: Plan,
    oracles: int,
) -> dict[str, bool] | None:
    """The tests that call the held-out oracle a failure, and whether that is more than chance; None without one.

    Every family by itself: corrected for the other one, 19 oracles could never reject the held-out one.
    """
    if families is None:
        return None
    found = {}
    for name, tolerance, judged in zip(names, chain(*tolerances), chain(*families), strict=True):
        result = judged.finding.rank or judged.finding.coin
        assert result is not None  # a finding is of one or the other
        if result.p_tolerance <= plan.significance:
            found[name] = refused(result, tolerance=tolerance, oracles=oracles, tests=len(names))
    return found


def _other_sets(evidence: Evidence, plan: Plan) -> StressSets | None:
    """Tier `hours`: what the method does to other sets than the requested one."""
    if evidence.stress is None:
        return None
    return stress_sets(evidence.stress, classes=plan.classes, confidence=plan.confidence, instruments=OF_OTHER_SETS)


def _arm(evidence: Evidence) -> int:
    """Canaries on the side that has fewer."""
    return min(evidence.rows(Group.HEADS).size, evidence.rows(Group.TAILS).size)


# Attacks by who also holds the original. Retrained models differ from it most of all: only the rank says something.
_WITH_ORIGINAL: tuple[tuple[Attack, str, str], ...] = (
    (IAM(), "IAM attack", "how far each lies on the way from models that never saw it to the original"),
    (TwoModel("margin"), "Deletion inference from two models", "what the original says and this model does not"),
)
MOST_RANKED = 64  # oracles, for the attacks that hold the original
LEGACY_POINTS, LEGACY_TAUGHT = 500, 200  # requested examples that are judged; retained, and held-out, that teach
REFERENCES = 8  # of the oracles, at most, for attacks that need some of them fixed; more add little (audits.md 2.6)


def legacy(evidence: Evidence) -> dict[str, FloatArray]:
    """Numbers that publications report, "name/model": without weight in any verdict, and weak (audits.md 2.3).

    Kept in the evidence as they were read: whether an example lies on this or that side of what a machine was taught
    can turn on the last bit, and the ranks must follow from the evidence anywhere.
    """
    if evidence.oracles < 2 or not evidence.beside:
        return {}
    rows = evidence.rows(Group.REQUESTED)
    rows = evenly(rows, LEGACY_POINTS)
    retained, held_out = (np.flatnonzero(evidence.beside_retained == kind) for kind in (1, 0))
    if not min(rows.size, retained.size, held_out.size):
        return {}
    retained, held_out = (evenly(part, LEGACY_TAUGHT) for part in (retained, held_out))

    def read(margins: FloatArray, beside: FloatArray) -> float:
        asked, kept, unseen = (expit(part) for part in (margins[rows], beside[retained], beside[held_out]))
        return mia_efficacy(asked, kept, unseen)

    found = {}
    for model in PROBED_MODELS:
        asked = np.atleast_2d(evidence.margins[model])[:PROBED]
        aside = np.atleast_2d(evidence.beside[model])[:PROBED].astype(np.float64)
        found[f"{MIA_EFFICACY}/{model}"] = np.array([read(*pair) for pair in zip(asked, aside, strict=True)])
    return found


def _beside_the_original(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """AUC of attacks that hold the original and a few oracles as references, on the audited model and other oracles."""
    members, others = evidence.rows(Group.REQUESTED), evidence.rows(Group.TWINS)
    few = min(REFERENCES, evidence.oracles // 2)
    if plan.kind == "class" or not min(few, members.size, others.size) or evidence.oracles - few < 2:
        return ()
    rows = np.concatenate([members, others])

    def seen(margins: FloatArray) -> Observation:
        return Observation(rows.astype(str), evidence.label[rows], margins[rows, None])

    audited, *oracles = (seen(row) for row in evidence.stack(evidence.margins, "audited"))
    known = Known(references=References.unseen(oracles[:few]), original=seen(evidence.margins["original"]))

    def area(attack: Attack, target: Observation) -> float:
        scores = attack.score(target, known).values
        return auc(scores[: members.size], scores[members.size :])

    found = []
    for attack, name, question in _WITH_ORIGINAL:
        areas = np.array([area(attack, one) for one in (audited, *oracles[few : few + MOST_RANKED])])
        [rank] = oracle_rank(areas[:, None], tolerances=np.ones(1), confidence=plan.confidence)
        ranked = f"{few} oracles are its references, {areas.size - 1} are ranked"
        sentence = f"Requested against held-out examples: {question}; {ranked}."
        found.append(Comparison(name, "AUC", float(areas[0]), spread(areas[1:]), rank.p, None, sentence))
    return tuple(rounded(row) for row in found)


def _unlearned_or_not(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """Tier `hours`: U-LiRA, each model in turn called unlearned or retrained by all others (Hayes et al. 2024).

    At half of the models on each side, so that retrained against retrained ones are a fair comparison.
    """
    if evidence.ensemble is None or min(len(evidence.ensemble), evidence.oracles) < LEAST_MODELS:
        return ()
    rows = evidence.rows(Group.REQUESTED)
    unlearned, oracles = evidence.ensemble[:, rows], evidence.margins["oracles"][:, rows]
    half = min(len(unlearned), len(oracles) // 2)
    rng = np.random.default_rng([plan.seed, 0x011A])

    def area(first: FloatArray, second: FloatArray) -> float:
        state = np.repeat(np.array([masks.State.FORGOTTEN, masks.State.OUT], dtype=np.uint8), half)
        pool = References(np.concatenate([first, second])[..., None], np.repeat(state[:, None], rows.size, axis=1))
        # With each target one of the other kind leaves: a target that leaves its own kind smaller pulls AUCs below 0.5.
        scores = leave_one_out(ULiRA(), pool, together=np.tile(np.arange(half), 2))
        values = np.stack([one.values for one in scores])
        return auc(values[:half].ravel(), values[half:].ravel())

    found, floor = [], []
    for _ in range(SPLITS):
        mixed = rng.permutation(len(oracles))
        one, other = oracles[mixed[:half]], oracles[mixed[half : 2 * half]]
        found.append(area(unlearned[rng.permutation(len(unlearned))[:half]], other))
        floor.append(area(one, other))
    sentence = (
        f"{half} unlearned against {half} retrained models, mean of {SPLITS} draws; beside it, retrained against "
        "retrained ones. 0.5: nobody can tell."
    )
    value, usual = (float(f"{np.mean(part):.9g}") for part in (found, floor))
    return (
        Comparison("U-LiRA, unlearned or retrained", "AUC", value, Interval(None, usual, None), None, None, sentence),
    )


def _rank_outcome(test: RankTest, audited: _Judged, original: _Judged, evidence: Evidence, plan: Plan) -> Outcome:
    rank = audited.finding.rank
    assert rank is not None
    outcome = Outcome(
        name=test.name,
        kind="rank",
        unit=test.unit,
        group=test.group,
        tolerance=test.tolerance,
        required=test.required,
        quantities=(
            Quantity("audited model", rank.oracle_mean + rank.shift.value, test.unit),
            Quantity("mean of the oracles", rank.oracle_mean, test.unit),
            Quantity("standard deviation between oracles", rank.oracle_sd, test.unit),
        ),
        **_common(audited, original),
    )
    return _told(outcome, evidence, plan)


def _coin_outcome(design: CoinDesign, audited: _Judged, original: _Judged, evidence: Evidence, plan: Plan) -> Outcome:
    coin = audited.finding.coin
    assert coin is not None
    quantities = [
        Quantity("AUC", coin.auc.value, "", coin.auc.low, coin.auc.high),
        Quantity(f"right guesses of {coin.guesses}", float(coin.correct)),
        Quantity("p of that many right guesses", coin.p_guesses),
    ]
    if design.exact:
        quantities.append(Quantity("ε of the joint deletion of all canaries, lower bound", coin.epsilon_set, "nats"))
        record = record_epsilon(coin, plan, delta=DELTA)
        quantities.append(Quantity("ε of one canary, lower bound (one run, δ = 10⁻⁵)", record, "nats"))
    scores, heads = design.scores(evidence, "audited", plan), design.heads(evidence)
    for target in (0.01, 0.1):
        name = f"TPR at {target:.0%} FPR".replace("%", "\u00a0%")
        if target * coin.tails < 1:
            quantities.append(Quantity(name, None, why=f"needs at least {math.ceil(1 / target)} never-used examples"))
            continue
        point = tpr_at_fpr(scores[heads], scores[~heads], fpr=target, confidence=plan.confidence)
        quantities.append(Quantity(name, point.tpr.value, "", point.tpr.low, point.tpr.high))
    outcome = Outcome(
        name=design.name,
        kind="coin",
        unit="AUC − 0.5",
        group="canaries" if design.exact else "requested",
        tolerance=plan.tolerances.auc,
        required=True,
        quantities=tuple(quantities),
        **_common(audited, original),
    )
    return _told(outcome, evidence, plan)


def _common(audited: _Judged, original: _Judged) -> dict[str, Any]:
    """The fields of an outcome that are filled alike for every kind of test."""
    finding = audited.finding
    return {
        "leak": finding.leak,
        "mde": finding.mde,
        "p": finding.p,
        "p_adjusted": audited.p_adjusted,
        "p_tolerance": finding.p_tolerance,
        "p_tolerance_adjusted": audited.p_tolerance_adjusted,
        "original": original.finding.leak,
        "original_p": original.finding.p,
        "state": audited.state,
        "sentence": "",
    }


def _told(outcome: Outcome, evidence: Evidence, plan: Plan) -> Outcome:
    design = coin_design(evidence)
    sides = (design.members, design.others) if design is not None else ()
    fewest = min((evidence.rows(side).size for side in sides), default=0)
    return replace(outcome, sentence=words.sentence(outcome, oracles=evidence.oracles, fewest=fewest, plan=plan))


def _flags(evidence: Evidence, plan: Plan, design: CoinDesign | None, *, trace: bool, caught: bool) -> list[Flag]:
    flags: list[Flag] = []
    if not trace:
        flags.append(
            Flag(
                "no measurable trace",
                "The untouched original cannot be told from models that never saw these examples; "
                "there is nothing measurable to forget, and no method could be seen to fail.",
            )
        )
    elif not caught:
        flags.append(
            Flag(
                "faint trace",
                "One test alone tells the untouched original from models that never saw these examples, but not when "
                "all tests are counted; a method that forgot nothing could go unnoticed.",
            )
        )
    if evidence.oracles and "original/retain" in evidence.correct:
        n = evidence.sizes["retain"]
        own, others = evidence.correct["original/retain"][0] / n, evidence.correct["oracles/retain"] / n
        if own < others.min() - UNLIKE:
            flags.append(
                Flag(
                    "original unlike the oracles",
                    f"The original answers {own * 100:.1f}\u00a0% of the retained examples, the retrained models "
                    f"{others.mean() * 100:.1f}\u00a0%: it was not made by this recipe, or expects other inputs "
                    "(normalization). Distances from the retrained models then mean little.",
                )
            )
    if plan.claim == "exact":
        flags.append(
            Flag(
                "exact claim",
                "No tolerance is granted: any significant trace is a FAIL. That nothing is found does not prove that "
                "nothing is left; the MDE says what could remain unseen.",
            )
        )
    if not evidence.oracles:
        flags.append(Flag("no oracles", "No model was retrained without the data; this tier can FAIL but seldom PASS."))
    if plan.groups and evidence.oracles < 2:
        flags.append(
            Flag(
                "groups not compared",
                "What a deletion cost a group is read off retrained models; without any there is no table by group.",
            )
        )
    if design is not None and not design.exact:
        flags.append(
            Flag(
                "twins assumed exchangeable",
                "Held-out examples stand in for canaries that no coin assigned; a difference between the two groups "
                "of examples looks like a leak.",
            )
        )
    few = _arm(evidence)
    if 0 < few < MIN_CANARIES:
        flags.append(
            Flag(
                "few canaries",
                f"Only {few} canaries on one side belong to this request; the coin test needs {MIN_CANARIES} on each "
                "and was left out.",
            )
        )
    if evidence.oracles and evidence.oracles < (needed := oracles_needed(significance=plan.significance, families=2)):
        flags.append(
            Flag(
                "few oracles",
                f"With {evidence.oracles} oracles the rank tests reach p = {1 / (evidence.oracles + 1):.2g} at best: "
                f"enough alone or after the canary test has failed; {needed} oracles decide on their own.",
            )
        )
    return flags


def _comes_back(design: CoinDesign, copies: Sequence[Compressed], p: float, plan: Plan) -> list[Flag]:
    """Compressed copies that show what the model as it is, with this p, does not. That they differ is not tested."""
    found = [copy for copy in copies if copy.p_adjusted <= plan.significance]
    if not found:
        return []
    told = "; ".join(
        f"{copy.told}: AUC {copy.coin.auc.value:.3f}, adjusted p = {copy.p_adjusted:.2g}" for copy in found
    )
    apart = "deleted and never-used canaries" if design.exact else "requested and held-out examples"
    return [
        Flag(
            "leak comes back",
            f"Compressed copies of the model tell {apart} apart ({told}), while the model as it is does not show it "
            f"(p = {p:.2g}).",
        )
    ]


def _flagged(singles: Individuals | None, low: tuple[int, int]) -> list[Flag]:
    """Single examples that stand out even when all are counted. low: those below retraining, and how many of them the
    original has there as well."""
    if singles is None or not singles.flagged:
        return []
    how = " or ".join(sorted({words.SIDE[one.direction] for one in singles.worst[: singles.flagged]}))
    if singles.flagged > len(singles.worst):  # of the rest nothing is known here but that they stand out
        how = f"above or below retraining (the {len(singles.worst)} farthest: {how})"
    else:
        how = f"{how} retraining"
    examples = "1 requested example lies" if singles.flagged == 1 else f"{singles.flagged:,} requested examples lie"
    below, before = low
    already = "" if not before else f" {f'{before:,} of those' if before < below else 'Those'} below lay there already"
    already += " before the deletion." * bool(before)
    return [Flag("single examples", f"{examples} {how}, corrected for all of them ({singles.assumes}).{already}")]


def _accuracy(evidence: Evidence, plan: Plan) -> tuple[Accuracy, ...]:
    rows: list[Accuracy] = []
    for model in ("original", "audited", "oracles"):
        for split in ("forget", "canaries", "retain", "test"):
            n = evidence.sizes.get(split, 0)
            counts = evidence.correct.get(f"{model}/{split}")
            if counts is None:
                continue
            if model == "oracles":
                low, mean, high = (float(count) / n for count in (counts.min(), counts.mean(), counts.max()))
                rate = Interval(low, mean, high, spread(counts / n).confidence)
            else:
                rate = clopper_pearson(int(counts[0]), n, confidence=plan.confidence)
            rows.append(Accuracy(model, split, float(counts.mean()), n, rate))
    return tuple(rows)
