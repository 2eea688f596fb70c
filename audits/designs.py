"""The plan of an audit, fixed beforehand, and the designs of its tests: which statistic on which points."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from unlearnkit.audits.evidence import Evidence, FloatArray, Group
from unlearnkit.audits.statistics.coin import CoinResult, coin_tests
from unlearnkit.audits.statistics.rank import Z_CAP, against_references, log_ratio, margin_z, planted_mde
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.result import Claim, Tier, UsageError

MIN_CANARIES = 20  # per arm: below, the coin test could not see a perfect memory with power 0.8 at a fair tolerance


@dataclass(frozen=True)
class Tolerances:
    """The largest leak the controller accepts, fixed before the audit. All two-sided; no standard prescribes them.

    auc: distance of an attack's AUC from what retraining gives (0.05: AUC 0.55 where 0.5 is chance).
    margin: shift of the mean margin of individual examples, in standard deviations between retrained models.
    class_margin: the same for a whole class, whose margins move together from one retraining to the next.
    recognition: mean confidence in the forgotten class beyond that of retrained models.
    worst: how far the worst twentieth of the requested examples lies from retrained models, in their σ, beyond what a
        retrained model's worst twentieth does.
    """

    auc: float = 0.05
    margin: float = 1.0
    class_margin: float = 3.0
    recognition: float = 0.05
    worst: float = 1.0

    def __post_init__(self) -> None:
        for name, top in (
            ("auc", 0.5),
            ("margin", 100.0),
            ("class_margin", 100.0),
            ("recognition", 1.0),
            ("worst", 100.0),
        ):
            value = getattr(self, name)
            if not 0 < value < top:
                hint = f"; write {value:g} percent as {value / 100:g}" if 1 <= value < 100 and top <= 1 else ""
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
    attack: str  # name of the attack that carries the verdict
    oracles: int = 0  # retrained references that were asked for
    claim: Claim = "approximate"  # exact: the controller says that nothing is left, and no tolerance is granted
    classes: tuple[str, ...] = ()  # names, for the table of classes
    groups: tuple[str, ...] = ()  # likewise, for the table of groups

    @property
    def confidence(self) -> float:
        """Of every interval."""
        return 1 - self.significance


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

    def beside(self, others: FloatArray, leak: float) -> FloatArray:
        """Values of the other models [model] when the value of one rises by `leak`."""
        return others

    def smallest(self, values: FloatArray, plan: Plan, among: NDArray[np.int64] | None = None) -> float | None:
        """The smallest leak that the test finds with the plan's power, planted in retrained models, all or some of
        them; values [model] are theirs."""
        return planted_mde(values, confidence=plan.confidence, power=plan.power, among=among)


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
        sigma = math.sqrt(float(evidence.typical[1][rows].mean()))
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


def against_oracles(margins: FloatArray, evidence: Evidence, rows: NDArray[np.int64]) -> FloatArray:
    """z of margins [..., row] by the oracles: what `margin_z` gives for its first model, in less time."""
    mean, variance = (part[rows] for part in evidence.typical)
    return np.asarray(np.clip((margins - mean) / np.sqrt(np.maximum(variance, 1e-24)), -Z_CAP, Z_CAP))


@dataclass(frozen=True)
class WorstTwentieth(RankTest):
    """Mean |z| of the 5 % of examples that lie farthest from the other models: what a mean over all would hide.

    Each of the n + 1 models is held against the other n, so their values are exchangeable (audits.md A5).
    """

    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        rows = evidence.rows(self.members)
        if len(stack) == evidence.oracles + 1:
            z = margin_z(stack[:, rows])
        else:  # a control asks about one planted model at a time
            z = against_oracles(stack[:, rows], evidence, rows)
        worst = max(1, rows.size // 20)
        return np.asarray(np.partition(np.abs(z), rows.size - worst, axis=1)[:, -worst:].mean(axis=1))

    def beside(self, others: FloatArray, leak: float) -> FloatArray:
        """One of n models that lies b deviations off raises the variance of all n by b²/n: the others seem nearer."""
        return others / math.sqrt(1.0 + leak**2 / len(others))

    def smallest(self, values: FloatArray, plan: Plan, among: NDArray[np.int64] | None = None) -> float | None:
        """Remembered or over-forgotten, a leak raises this statistic.

        The leak is one of all examples; one of a few widens the others on these alone, and is found a few points of
        power less often.
        """
        return planted_mde(
            values, confidence=plan.confidence, power=plan.power, upward=True, beside=self.beside, among=among
        )


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


@dataclass(frozen=True)
class ReferenceAttack(RankTest):
    """AUC with which BASE, the log-ratio of RMIA, tells requested examples from held-out twins in one model.

    The other models are its references: none of them saw either group. Each of the n + 1 models is held against the
    other n, so their values are exchangeable (audits.md A5). Far stronger than one threshold: what is hard for every
    model no longer hides a trace.
    """

    def values(self, stack: FloatArray, evidence: Evidence) -> FloatArray:
        members, others = evidence.rows(Group.REQUESTED), evidence.rows(Group.TWINS)
        whole = len(stack) == evidence.oracles + 1  # else a control asks about one planted model at a time
        scores = log_ratio(stack) if whole else against_references(stack, evidence.missed)
        return np.array([auc(row[members], row[others]) for row in scores])


def rank_tests(evidence: Evidence, plan: Plan) -> tuple[RankTest, ...]:
    """The oracle tests of this battery for the kind of request.

    Of single examples the attack with references must stay within tolerance; the weaker one is reported, and may fail.
    Of a whole class the few unseen images make an attack's AUC vary from one retraining to the next, and whether the
    class is still known is for the other two tests to say: there no attack is required.
    """
    if not evidence.oracles:
        return ()
    tolerance = plan.tolerances
    of_attacks = ("AUC difference", "requested", tolerance.auc, Group.REQUESTED)
    threshold = AttackAdvantage("Threshold attack, requested", *of_attacks, False, plan.attack)
    if plan.kind == "class":
        return (
            Recognition("Class recognition", "confidence", "class", tolerance.recognition, Group.REQUESTED, True),
            MarginShift("Oracle rank, class margin", "σ", "class", tolerance.class_margin, Group.REQUESTED, True),
            threshold,
        )
    tests: list[RankTest] = [
        MarginShift("Oracle rank, mean margin", "σ", "requested", tolerance.margin, Group.REQUESTED, True),
        WorstTwentieth("Oracle rank, worst examples", "σ", "requested", tolerance.worst, Group.REQUESTED, False),
    ]
    if min(evidence.rows(Group.HEADS).size, evidence.rows(Group.TAILS).size) >= MIN_CANARIES:
        tests.append(
            MarginShift("Oracle rank, canary gap", "σ", "canaries", tolerance.margin, Group.HEADS, True, Group.TAILS)
        )
    return (*tests, ReferenceAttack("Reference attack, requested", *of_attacks, True), threshold)


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

    def scores(self, evidence: Evidence, target: str, plan: Plan) -> FloatArray:
        """Scores of the compared points. Where there are oracles, margins standardized by them: they never saw a coin,
        so the test stays exact, and differences between the examples themselves no longer hide a trace."""
        rows = self.rows(evidence)
        if evidence.oracles:
            return self.standardized(evidence.margins[target][rows], evidence)
        return evidence.scores[f"{plan.attack}/{target}"][rows]

    def standardized(self, margins: FloatArray, evidence: Evidence) -> FloatArray:
        """Margins of one model on the compared points, in the order of `rows`, as z by the oracles."""
        return against_oracles(margins, evidence, self.rows(evidence))

    def test(self, scores: FloatArray, evidence: Evidence, plan: Plan, *, permutations: int = 9999) -> CoinResult:
        """The coin test of scores in the order of `rows`; where no coin was tossed, labels are shuffled by class."""
        [found] = self.tests([scores], evidence, plan, permutations=permutations)
        return found

    def tests(
        self, several: Sequence[FloatArray], evidence: Evidence, plan: Plan, *, permutations: int = 9999
    ) -> tuple[CoinResult, ...]:
        """The same of several scores, the coins being shuffled once for all of them."""
        return coin_tests(
            several,
            self.heads(evidence),
            tolerance=plan.tolerances.auc,
            strata=None if self.exact else evidence.label[self.rows(evidence)],
            permutations=permutations,
            confidence=plan.confidence,
            power=plan.power,
            seed=plan.seed,
        )


def coin_design(evidence: Evidence) -> CoinDesign | None:
    """The coin test this evidence supports."""
    return coin_design_of(evidence.rows(Group.HEADS).size, evidence.rows(Group.TAILS).size, oracles=evidence.oracles)


def coin_design_of(heads: int, tails: int, *, oracles: int) -> CoinDesign | None:
    """The coin test that so many canaries on each side, and so many oracles, make possible."""
    if min(heads, tails) >= MIN_CANARIES:
        return CoinDesign("Canary coin test", Group.HEADS, Group.TAILS, exact=True)
    if not oracles:
        return CoinDesign("Requested against held-out", Group.REQUESTED, Group.TWINS, exact=False)
    return None


def smallest_leak(test: RankTest, evidence: Evidence, plan: Plan) -> float | None:
    """The MDE of a test in this very audit, measured by planting in the retrained models at hand."""
    return test.smallest(test.values(test.read(evidence, "held_out"), evidence), plan)
