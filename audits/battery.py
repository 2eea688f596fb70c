"""The battery: the fixed list of tests, and judge(): evidence -> outcomes, controls, flags and verdict.

judge() is a pure function of arrays and of a plan that is fixed beforehand, so that `unlearnkit verify` can compute
every statement again from the evidence in a report. Battery 0 holds the coin-flip canary test, oracle rank tests and
the threshold attack; each has its control inside the audit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import expit

from unlearnkit.attacks import Threshold
from unlearnkit.audits import words
from unlearnkit.audits.coin import CoinResult, coin_test
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.rank import RankResult, margin_z, mde_factor, oracle_rank, oracles_needed, planted_mde
from unlearnkit.audits.roc import auc, auc_mde, clopper_pearson, tpr_at_fpr
from unlearnkit.audits.verdict import overall, state_of
from unlearnkit.result import Accuracy, Control, Flag, Interval, Outcome, Quantity, State, UsageError, Verdict

BATTERY = "0"
ATTACKS = (Threshold(),)

FloatArray = NDArray[np.float64]
Tier = Literal["seconds", "minutes"]

MIN_CANARIES = 20  # per arm: below, the coin test could not see a perfect memory with power 0.8 at a fair tolerance
ENOUGH_CANARIES = 500  # per arm: from here on the coins alone may carry a PASS (audits.md 12)
SHUFFLES = 400


@dataclass(frozen=True)
class Tolerances:
    """The largest leak the controller accepts, fixed before the audit. All two-sided; no standard prescribes them.

    auc: distance of an attack's AUC from what retraining gives (0.05: AUC 0.55 where 0.5 is chance).
    margin: shift of the mean margin of individual examples, in standard deviations between retrained models.
    class_margin: the same for a whole class, whose margins move together from one retraining to the next.
    recognition: mean confidence in the forgotten class beyond that of retrained models.
    """

    auc: float = 0.05
    margin: float = 1.0
    class_margin: float = 3.0
    recognition: float = 0.05

    def __post_init__(self) -> None:
        for name, top in (("auc", 0.5), ("margin", 100.0), ("class_margin", 100.0), ("recognition", 1.0)):
            value = getattr(self, name)
            if not 0 < value < top:
                hint = "; write 5 percent as 0.05" if value >= 1 and top <= 1 else ""
                raise UsageError(f"audit.tolerances.{name}: must lie between 0 and {top:g}, got {value:g}{hint}")


@dataclass(frozen=True)
class Plan:
    """What is fixed before any score is computed."""

    kind: Literal["class", "examples"]
    tier: Tier
    tolerances: Tolerances
    significance: float
    power: float
    seed: int

    @property
    def confidence(self) -> float:
        """Of every interval."""
        return 1 - self.significance


@dataclass(frozen=True)
class Judgement:
    """What the evidence says under a plan; tests worst first."""

    tests: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    flags: tuple[Flag, ...]
    accuracy: tuple[Accuracy, ...]
    verdict: Verdict


@dataclass(frozen=True)
class RankTest(ABC):
    """One statistic per model, read off margins or scores [model, point]; the audited model ranked among oracles."""

    name: str
    unit: str
    group: str
    tolerance: float
    members: Group  # the points on which a leak shows, and on which the control plants one
    required: bool  # whether a PASS needs it; a FAIL counts in any case

    @abstractmethod
    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        """[model, point] -> [model]."""

    def read(self, evidence: Evidence, target: str) -> FloatArray:
        """The array that the statistic reads, [target and oracles, point]."""
        return evidence.stack(evidence.margins, target)

    def points(self, evidence: Evidence) -> NDArray[np.int64]:
        """Where the control plants its leak."""
        return evidence.rows(self.members)


@dataclass(frozen=True)
class MarginShift(RankTest):
    """Mean margin of the group, in σ: the typical standard deviation of one example's margin between oracles.

    Two-sided, so over-forgetting is found too. audits.md A5 standardizes every margin by all other models, the audited
    one among them: that keeps the ranks exact, but ties every oracle's statistic to the audited model, and neither an
    interval nor an MDE for the shift could then be had by shifting. A mean in one common unit has all three.
    """

    against: Group | None = None  # subtract the mean margin of this group: cancels how confident a model is at large

    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        rows = evidence.rows(self.members)
        sigma = math.sqrt(float(evidence.margins["oracles"][:, rows].var(axis=0, ddof=1).mean()))
        means = stack[:, rows].mean(axis=1)
        if self.against is not None:
            means = means - stack[:, evidence.rows(self.against)].mean(axis=1)
        return np.asarray(means / max(sigma, 1e-12))


@dataclass(frozen=True)
class Recognition(RankTest):
    """Mean confidence in the forgotten class, on the forgotten images and on unseen ones of the class."""

    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        return np.asarray(expit(stack[:, self.points(evidence)]).mean(axis=1))

    def points(self, evidence: Evidence) -> NDArray[np.int64]:
        return np.concatenate([evidence.rows(Group.REQUESTED), evidence.rows(Group.TWINS)])


@dataclass(frozen=True)
class AttackAdvantage(RankTest):
    """AUC of an attack that tells requested examples from held-out twins in one model, against the oracles' AUC.

    The oracles' own AUC is the zero: it absorbs every difference between the two groups that is not memory.
    """

    attack: str

    def read(self, evidence: Evidence, target: str) -> FloatArray:
        arrays = {model: evidence.scores[f"{self.attack}/{model}"] for model in (target, "oracles")}
        return evidence.stack(arrays, target)

    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        members, others = evidence.rows(Group.REQUESTED), evidence.rows(Group.TWINS)
        return np.array([auc(row[members], row[others]) for row in stack])


def rank_tests(evidence: Evidence, plan: Plan) -> tuple[RankTest, ...]:
    """The oracle tests of this battery for the kind of request.

    Of a whole class the few unseen images make the attack's AUC vary from one retraining to the next, and whether the
    class is still known is for the other two tests to say: there the attack is reported, and not required.
    """
    if not evidence.oracles:
        return ()
    tolerance = plan.tolerances
    attack = AttackAdvantage(
        "Threshold attack, requested",
        "AUC",
        "requested",
        tolerance.auc,
        Group.REQUESTED,
        plan.kind == "examples",
        ATTACKS[0].name,
    )
    if plan.kind == "class":
        return (
            Recognition("Class recognition", "confidence", "class", tolerance.recognition, Group.REQUESTED, True),
            MarginShift("Oracle rank, class margin", "σ", "class", tolerance.class_margin, Group.REQUESTED, True),
            attack,
        )
    tests: list[RankTest] = [
        MarginShift("Oracle rank, mean margin", "σ", "requested", tolerance.margin, Group.REQUESTED, True)
    ]
    if min(evidence.rows(Group.HEADS).size, evidence.rows(Group.TAILS).size) >= MIN_CANARIES:
        tests.append(
            MarginShift("Oracle rank, canary gap", "σ", "canaries", tolerance.margin, Group.HEADS, True, Group.TAILS)
        )
    return (*tests, attack)


@dataclass(frozen=True)
class CoinDesign:
    """Which points the coin test compares: canaries by their coins, or requested examples with assumed twins."""

    name: str
    members: Group
    others: Group
    exact: bool  # coins were tossed; otherwise exchangeability is only assumed

    def heads(self, evidence: Evidence) -> NDArray[np.bool_]:
        """True for trained-on points, in the order of `rows`."""
        return np.asarray(evidence.group[self.rows(evidence)] == self.members)

    def rows(self, evidence: Evidence) -> NDArray[np.int64]:
        return np.concatenate([evidence.rows(self.members), evidence.rows(self.others)])

    def scores(self, evidence: Evidence, target: str) -> FloatArray:
        """Scores of the compared points. Where there are oracles, margins standardized by them: they never saw a coin,
        so the test stays exact, and differences between the examples themselves no longer hide a trace."""
        rows = self.rows(evidence)
        if evidence.oracles:
            return np.asarray(margin_z(evidence.stack(evidence.margins, target)[:, rows])[0])
        return evidence.scores[f"{ATTACKS[0].name}/{target}"][rows]


def coin_design(evidence: Evidence) -> CoinDesign | None:
    """The coin test this evidence supports."""
    if min(evidence.rows(Group.HEADS).size, evidence.rows(Group.TAILS).size) >= MIN_CANARIES:
        return CoinDesign("Canary coin test", Group.HEADS, Group.TAILS, exact=True)
    if not evidence.oracles:
        return CoinDesign("Requested against held-out", Group.REQUESTED, Group.TWINS, exact=False)
    return None


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


def _examine(evidence: Evidence, target: str, plan: Plan) -> list[list[_Finding]]:
    """Every family of tests on one model, in the order of `rank_tests` and `coin_design`."""
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
        mdes = [_mde(test, evidence, plan) for test in tests]
        families.append(
            [
                _Finding(r.shift, mde, r.p, r.p_adjusted, r.p_tolerance, rank=r)
                for r, mde in zip(ranks, mdes, strict=True)
            ]
        )
    design = coin_design(evidence)
    if design is not None:
        result = coin_test(
            design.scores(evidence, target),
            design.heads(evidence),
            tolerance=plan.tolerances.auc,
            confidence=plan.confidence,
            seed=plan.seed,
        )
        interval = result.auc
        leak = Interval(
            None if interval.low is None else interval.low - 0.5,
            interval.value - 0.5,
            None if interval.high is None else interval.high - 0.5,
            plan.confidence,
        )
        families.append([_Finding(leak, result.mde, result.p, result.p, result.p_tolerance, coin=result)])
    return families


def _across(families: Sequence[Sequence[float]]) -> list[list[float]]:
    """Holm's step-down over families, each already corrected inside."""
    order = sorted(range(len(families)), key=lambda i: min(families[i]))
    adjusted: list[list[float]] = [[] for _ in families]
    floor = 0.0
    for step, i in enumerate(order):
        factor = len(families) - step
        adjusted[i] = [max(floor, min(1.0, factor * p)) for p in families[i]]
        floor = max(floor, min(1.0, factor * min(families[i])))
    return adjusted


@dataclass(frozen=True)
class _Judged:
    """A finding with its corrections and its state."""

    finding: _Finding
    p_adjusted: float
    p_tolerance_adjusted: float
    state: State


def _states(families: list[list[_Finding]], tolerances: list[list[float]], plan: Plan) -> list[list[_Judged]]:
    p = _across([[f.p_family for f in family] for family in families])
    beyond = _across([[f.p_tolerance for f in family] for family in families])
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
                    p_adjusted=p[i][j],
                    p_tolerance_adjusted=beyond[i][j],
                    significance=plan.significance,
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
    judged = {
        target: _states(_examine(evidence, target, plan), tolerances, plan)
        for target in ("audited", "original", "held_out")
        if target in evidence.margins
    }
    outcomes: list[Outcome] = []
    for j, test in enumerate(tests):
        outcomes.append(_rank_outcome(test, judged["audited"][0][j], judged["original"][0][j], evidence, plan))
    if design is not None:
        outcomes.append(_coin_outcome(design, judged["audited"][-1][0], judged["original"][-1][0], evidence, plan))
    severity = {"INVALID": 0, "FAIL": 1, "INCONCLUSIVE": 2, "LEAK_BELOW_TOLERANCE": 3, "PASS": 4}
    outcomes.sort(key=lambda o: (severity[o.state], -abs(o.leak.value) / o.tolerance))

    controls = [control for control in _controls(evidence, plan, judged, tests, design) if control is not None]
    trace = any(j.p_adjusted <= plan.significance for family in judged["original"] for j in family)
    flags = list(_flags(evidence, plan, design, trace=trace))
    may_pass = bool(tests) or (
        design is not None and design.exact and evidence.rows(Group.TAILS).size >= ENOUGH_CANARIES
    )
    word = overall(outcomes, controls, may_pass=may_pass)
    verdict = Verdict(
        word=word,
        headline=words.headline(word, outcomes, trace=trace),
        why=words.why(word, outcomes, controls, trace=trace, may_pass=may_pass),
        mde=words.would_have_noticed(outcomes, evidence.oracles, design is not None and design.exact, plan.power),
    )
    if trace:
        controls.append(
            Control("untouched original caught", True, "The untouched original is told apart from retrained models.")
        )
    return Judgement(tuple(outcomes), tuple(controls), tuple(flags), _accuracy(evidence, plan), verdict)


def _rank_outcome(test: RankTest, audited: _Judged, original: _Judged, evidence: Evidence, plan: Plan) -> Outcome:
    rank = audited.finding.rank
    assert rank is not None
    quantities = [
        Quantity("audited model", rank.oracle_mean + rank.shift.value, test.unit),
        Quantity("mean of the oracles", rank.oracle_mean, test.unit),
        Quantity("standard deviation between oracles", rank.oracle_sd, test.unit),
    ]
    return _outcome(
        test.name,
        "rank",
        test.unit,
        test.group,
        test.tolerance,
        test.required,
        audited,
        original,
        evidence,
        plan,
        quantities,
    )


def _coin_outcome(design: CoinDesign, audited: _Judged, original: _Judged, evidence: Evidence, plan: Plan) -> Outcome:
    coin = audited.finding.coin
    assert coin is not None
    quantities = [
        Quantity("AUC", coin.auc.value, "", coin.auc.low, coin.auc.high),
        Quantity(f"right guesses of {coin.guesses}", float(coin.correct)),
        Quantity("p of that many right guesses", coin.p_guesses),
    ]
    if design.exact:
        quantities.append(
            Quantity("ε of the joint deletion, lower bound", coin.epsilon_set, "nats", why="for all canaries together")
        )
    scores, heads = design.scores(evidence, "audited"), design.heads(evidence)
    for target in (0.01, 0.1):
        if target * coin.tails < 1:
            quantities.append(
                Quantity(f"TPR at {target:.0%} FPR", None, why=f"needs at least {math.ceil(1 / target)} non-members")
            )
            continue
        point = tpr_at_fpr(scores[heads], scores[~heads], fpr=target, confidence=plan.confidence)
        quantities.append(Quantity(f"TPR at {target:.0%} FPR", point.tpr.value, "", point.tpr.low, point.tpr.high))
    group = "canaries" if design.exact else "requested"
    return _outcome(
        design.name, "coin", "AUC", group, plan.tolerances.auc, True, audited, original, evidence, plan, quantities
    )


def _outcome(
    name: str,
    kind: str,
    unit: str,
    group: str,
    tolerance: float,
    required: bool,
    audited: _Judged,
    original: _Judged,
    evidence: Evidence,
    plan: Plan,
    quantities: list[Quantity],
) -> Outcome:
    finding = audited.finding
    arms = (evidence.rows(Group.HEADS).size, evidence.rows(Group.TAILS).size)
    return Outcome(
        name=name,
        kind=kind,
        unit=unit,
        group=group,
        leak=finding.leak,
        tolerance=tolerance,
        mde=finding.mde,
        p=finding.p,
        p_adjusted=audited.p_adjusted,
        p_tolerance=finding.p_tolerance,
        p_tolerance_adjusted=audited.p_tolerance_adjusted,
        original=original.finding.leak,
        original_p=original.finding.p,
        required=required,
        state=audited.state,
        sentence=words.sentence(
            name, kind, unit, finding.leak, tolerance, finding.mde, audited.state, evidence.oracles, arms, plan
        ),
        quantities=tuple(quantities),
    )


def _controls(
    evidence: Evidence,
    plan: Plan,
    judged: dict[str, list[list[_Judged]]],
    tests: tuple[RankTest, ...],
    design: CoinDesign | None,
) -> list[Control | None]:
    """Each returns a control, or None where the design offers nothing to check."""
    return [
        _held_out_accepted(judged, tests, design),
        _shuffled_at_chance(evidence, plan, design),
        _planted_found(evidence, plan, tests),
        _planted_coin_found(evidence, plan, design),
    ]


def _held_out_accepted(
    judged: dict[str, list[list[_Judged]]], tests: tuple[RankTest, ...], design: CoinDesign | None
) -> Control | None:
    """A retrained model that is no reference must not be called a failure."""
    if "held_out" not in judged:
        return None
    names = [[test.name for test in tests]] * bool(tests) + ([[design.name]] if design else [])
    rejected = [
        names[i][j]
        for i, family in enumerate(judged["held_out"])
        for j, judgement in enumerate(family)
        if judgement.state == "FAIL"
    ]
    if rejected:
        return Control(
            "held-out oracle accepted",
            False,
            f"A model retrained without the data was called a failure by: {', '.join(rejected)}.",
        )
    return Control("held-out oracle accepted", True, "A further model retrained without the data fails no test.")


def _shuffled_at_chance(evidence: Evidence, plan: Plan, design: CoinDesign | None) -> Control | None:
    """With shuffled labels the AUC must scatter around 0.5 as by chance; catches scores that know the answer."""
    if design is None:
        members, others = evidence.rows(Group.REQUESTED), evidence.rows(Group.TWINS)
        scores = evidence.scores[f"{ATTACKS[0].name}/audited"][np.concatenate([members, others])]
        heads = np.arange(scores.size) < members.size
    else:
        scores, heads = design.scores(evidence, "audited"), design.heads(evidence)
    rng = np.random.default_rng([plan.seed, 0x5AFF])
    shuffled = [rng.permutation(heads) for _ in range(SHUFFLES)]
    areas = np.array([auc(scores[s], scores[~s]) for s in shuffled])
    m, n = int(heads.sum()), int((~heads).sum())
    error = math.sqrt((m + n + 1) / (12 * m * n))
    outside = int(np.count_nonzero(np.abs(areas - 0.5) > stats.norm.isf(plan.significance / 2) * error))
    limit = int(stats.binom.isf(0.001, SHUFFLES, plan.significance))
    passed = outside <= limit and abs(areas.mean() - 0.5) <= 5 * error / math.sqrt(SHUFFLES)
    return Control(
        "shuffled labels at chance",
        bool(passed),
        f"With shuffled labels the AUC averages {areas.mean():.3f}; {outside} of {SHUFFLES} shuffles look significant "
        f"(at most {limit} are to be expected).",
    )


def _planted_found(evidence: Evidence, plan: Plan, tests: tuple[RankTest, ...]) -> Control | None:
    """A leak of the larger of tolerance and MDE, planted in every oracle in turn, must be found as often as promised.

    It is planted in what the statistic reads, so that a dead or inverted statistic is noticed.
    """
    if not tests or "held_out" not in evidence.margins:
        return None
    sentences: list[str] = []
    passed = True
    for test in tests:
        pool = test.read(evidence, "held_out")
        if float(np.ptp(pool)) == 0.0:
            passed = False
            sentences.append(f"{test.name}: dead, it gives every point of every model one and the same score")
            continue
        size = max(test.tolerance, _mde(test, evidence, plan) or 0.0)
        found = sum(
            _planted_p(test, np.roll(pool, -j, axis=0), size, evidence, plan) <= plan.significance
            for j in range(len(pool))
        )
        needed = int(stats.binom.ppf(0.001, len(pool), plan.power))
        passed &= found >= needed
        sentences.append(f"{test.name} {found} of {len(pool)} (at least {needed})")
    found_in = "A leak of the tolerance's size (or the MDE, if larger), planted in retrained models, was found: "
    return Control("planted leak found", passed, found_in + "; ".join(sentences) + ".")


def _mde(test: RankTest, evidence: Evidence, plan: Plan) -> float | None:
    """The larger of two: what normal theory says, and what planting in the retrained models at hand shows."""
    values = test.values(test.read(evidence, "held_out"), evidence)
    factor = mde_factor(evidence.oracles, significance=plan.significance, power=plan.power)
    planted = planted_mde(values, confidence=plan.confidence, power=plan.power)
    return None if factor is None or planted is None else max(factor * float(values[1:].std(ddof=1)), planted)


def _planted_p(test: RankTest, stack: FloatArray, size: float, evidence: Evidence, plan: Plan) -> float:
    """p of the rank test after the first model's member points were raised until its statistic rose by `size`."""
    rows = test.points(evidence)
    goal = test.values(stack, evidence)[0] + size

    def raised(by: float) -> FloatArray:
        planted = stack.copy()
        planted[0, rows] += by
        return test.values(planted, evidence)

    shift = _solve(lambda by: float(raised(by)[0] - goal))
    if shift is None:  # no rise of the scores moves the statistic that far
        return 1.0
    values = raised(shift)[:, None]
    return oracle_rank(values, tolerances=np.array([test.tolerance]), confidence=plan.confidence)[0].p


def _solve(gap: Callable[[float], float]) -> float | None:
    """The shift at which an increasing gap reaches zero (or just exceeds it, where it jumps)."""
    high = 1e-3
    while gap(high) < 0:
        high *= 4
        if high > 1e6:
            return None
    if gap(0.0) >= 0:
        return 0.0
    low, high = 0.0, high
    root = optimize.brentq(gap, low, high, xtol=1e-9 * high, rtol=1e-6, maxiter=200)
    return float(root) if gap(root) >= 0 else float(root) + 2e-6 * high


def _planted_coin_found(evidence: Evidence, plan: Plan, design: CoinDesign | None) -> Control | None:
    """A leak of the larger of tolerance and MDE, planted in a model that never saw the canaries, must be found."""
    if design is None or not design.exact:
        return None
    target = "held_out" if "held_out" in evidence.margins else None
    heads = design.heads(evidence)
    m, n = int(heads.sum()), int((~heads).sum())
    goal = 0.5 + min(0.49, max(plan.tolerances.auc, auc_mde(m, n, significance=plan.significance, power=plan.power)))
    if target is None:  # no oracle: plant in the audited model with its coins tossed anew
        scores = design.scores(evidence, "audited")
        heads = np.random.default_rng([plan.seed, 0x9A7]).permutation(heads)
    else:
        scores = design.scores(evidence, target)
    p = 1.0
    if float(np.ptp(scores)) > 0:
        shift = _solve(lambda by: auc(scores[heads] + by, scores[~heads]) - goal)
        if shift is not None:
            planted = scores + shift * heads
            p = coin_test(planted, heads, tolerance=plan.tolerances.auc, confidence=plan.confidence, seed=plan.seed).p
    return Control(
        "planted canary leak found",
        p <= plan.significance,
        f"A planted leak of AUC {goal:.3f} gives p = {p:.2g} (must be at most {plan.significance:g}).",
    )


def _flags(evidence: Evidence, plan: Plan, design: CoinDesign | None, *, trace: bool) -> list[Flag]:
    flags: list[Flag] = []
    if not trace:
        flags.append(
            Flag(
                "no measurable trace",
                "The untouched original cannot be told from models that never saw these examples; "
                "there is nothing measurable to forget, and no method could be seen to fail.",
            )
        )
    if not evidence.oracles:
        flags.append(Flag("no oracles", "No model was retrained without the data; this tier can FAIL but seldom PASS."))
    if design is not None and not design.exact:
        flags.append(
            Flag(
                "twins assumed exchangeable",
                "Held-out examples stand in for canaries that no coin assigned; a difference between the two groups "
                "of examples looks like a leak.",
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


def _accuracy(evidence: Evidence, plan: Plan) -> tuple[Accuracy, ...]:
    rows: list[Accuracy] = []
    for model in ("original", "audited", "oracles"):
        for split, n in evidence.sizes.items():
            counts = evidence.correct.get(f"{model}/{split}")
            if counts is None:
                continue
            if model == "oracles":
                share = counts / n
                rate = Interval(float(share.min()), float(share.mean()), float(share.max()), 1.0 - 1.0 / len(counts))
            else:
                rate = clopper_pearson(int(counts[0]), n, confidence=plan.confidence)
            rows.append(Accuracy(model, split, float(counts.mean()), n, rate))
    return tuple(rows)
