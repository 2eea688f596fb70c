"""The auditor's checks of itself, made within every audit: what must be accepted, found, or at chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import optimize, stats

from unlearnkit.audits.designs import CoinDesign, Plan, RankTest, ReferenceAttack
from unlearnkit.audits.evidence import Evidence, FloatArray, Group
from unlearnkit.audits.statistics.coin import CoinResult, coin_test
from unlearnkit.audits.statistics.rank import RankResult, oracle_rank
from unlearnkit.audits.statistics.roc import auc, auc_mde
from unlearnkit.audits.statistics.sampling import evenly
from unlearnkit.result import Control
from unlearnkit.types import Attack, Observation

SHUFFLES = 200
MOST_SHUFFLED, ASKED = 100, 3  # points of a group, and oracles, on which the reference attack's labels are shuffled
MOST_PLANTED = 33  # retrained models, evenly spread, in which a leak is planted: every other one, up to tier `hours`
PLANTED = 0.8  # the least power at whose MDE a leak of canaries is planted
SLACK = 0.001  # a control may fail by chance once in a thousand audits


def run_controls(
    evidence: Evidence,
    plan: Plan,
    tests: Sequence[RankTest],
    design: CoinDesign | None,
    *,
    attack: Attack,
    held_out: Mapping[str, bool] | None,
    caught: bool,
) -> tuple[Control, ...]:
    """Every control that the design offers something to check with.

    attack: the one that gave the scores in the evidence; it scores the points anew where their labels are shuffled.
    held_out: the tests that called the held-out oracle a failure, and whether that is more than chance (`refused`);
    None where there is no such oracle.
    caught: whether the untouched original was. When it was not, that is no failure of the auditor but a finding of its
    own (the examples left no measurable trace), so no control is listed.
    """
    found = [
        _all_retrained(evidence, plan),
        None if held_out is None else _held_out_accepted(held_out),
        _shuffled_at_chance(evidence, plan, tests, design, attack),
        _planted_found(evidence, plan, tests),
        _planted_coin_found(evidence, plan, design),
        Control(
            "untouched original caught",
            True,
            "The untouched original is told apart from models that never saw the examples.",
        )
        if caught
        else None,
    ]
    return tuple(control for control in found if control is not None)


def _all_retrained(evidence: Evidence, plan: Plan) -> Control | None:
    """Every oracle that was asked for is there: those that are left after a choice are no fair sample."""
    if not plan.oracles:
        return None
    missing = plan.oracles - evidence.oracles
    if missing:
        return Control(
            "all oracles retrained",
            False,
            f"{missing} of {plan.oracles} retrained references are missing; what is left was not chosen by chance.",
        )
    return Control("all oracles retrained", True, f"All {plan.oracles} references that were asked for are there.")


def refused(result: RankResult | CoinResult, *, tolerance: float, oracles: int, tests: int) -> bool:
    """Whether a test that called the held-out oracle a failure did so by more than chance: `SLACK` for all `tests`.

    A test may fail a retrained model in `significance` of audits; a control that did so too would make that share of
    all audits invalid. A rank among few models is never that improbable. There the distance beyond the tolerance must
    also exceed the prediction limit for one more retrained model, as if they were normal: with other laws rank tests
    fail it by chance more often than `SLACK`, but in no more than `significance` of audits. Coins told apart without
    one mistake are always refused: of few of them p has a floor, and chance does not do that.
    """
    if isinstance(result, CoinResult):
        return result.p_tolerance <= SLACK / tests or result.auc.value in (0.0, 1.0)
    reach = float(stats.t.isf(SLACK / tests / 2, oracles - 1)) * result.oracle_sd * math.sqrt(1 + 1 / oracles)
    return abs(result.shift.value) - tolerance >= reach


def _held_out_accepted(failed: Mapping[str, bool]) -> Control:
    """A retrained model that is no reference must not be called a failure, other than by chance."""
    name, who = "held-out oracle accepted", "A model retrained without the data"
    if any(failed.values()):
        named = ", ".join(test for test, surely in failed.items() if surely)
        return Control(name, False, f"{who} was called a failure by: {named}.")
    if failed:
        return Control(name, True, f"{who} fails {', '.join(failed)}, by no more than retrained models may differ.")
    return Control(name, True, "A further model retrained without the data fails no test.")


def _shuffled_at_chance(
    evidence: Evidence, plan: Plan, tests: Sequence[RankTest], design: CoinDesign | None, attack: Attack
) -> Control:
    """With shuffled labels the AUC must scatter around 0.5 as by chance; catches scoring that reads the labels.

    The labels are shuffled in the evidence and the points scored anew, handed to the attack in the order that the
    shuffled labels give, members first: to shuffle them under finished scores could not fail. Scores that know the
    answer in the stored evidence are for the held-out oracle to show, by being rejected.
    Of the reference attack the scores must not depend on who is a member at all, and yet they are computed by code
    that holds the labels: every shuffle goes the whole way, from the margins of all models to the AUC.
    """
    rng = np.random.default_rng([plan.seed, 0x5AFF])
    found = [_shuffled_design(evidence, plan, design, attack, rng)]
    found += [_shuffled_test(test, evidence, rng) for test in tests if isinstance(test, ReferenceAttack)]
    limit = int(stats.binom.isf(SLACK / len(found), SHUFFLES, plan.significance))
    passed, averages, outside = True, [], []
    for name, areas, error in found:
        outside.append(int(np.count_nonzero(np.abs(areas - 0.5) > stats.norm.isf(plan.significance / 2) * error)))
        passed &= outside[-1] <= limit and abs(areas.mean() - 0.5) <= 5 * error / math.sqrt(SHUFFLES)
        averages.append(f"{areas.mean():.3f} ({name})")
    return Control(
        "shuffled labels at chance",
        bool(passed),
        f"With shuffled labels the AUC averages {' and '.join(averages)}; {' and '.join(map(str, outside))} of "
        f"{SHUFFLES} shuffles look significant (at most {limit} are to be expected).",
    )


def _shuffled_design(
    evidence: Evidence, plan: Plan, design: CoinDesign | None, attack: Attack, rng: np.random.Generator
) -> tuple[str, FloatArray, float]:
    """AUCs of the coin test, or of the threshold attack where there is none, and their standard deviation by chance."""
    members, others = (Group.REQUESTED, Group.TWINS) if design is None else (design.members, design.others)
    evidence = evidence.part(np.flatnonzero(np.isin(evidence.group, (members, others))))
    areas = np.empty(SHUFFLES)
    for i in range(SHUFFLES):
        shuffled = replace(evidence, group=rng.permutation(evidence.group))
        if design is None or not shuffled.oracles:
            shuffled = _scored_anew(shuffled, plan, attack, members, others)
        if design is None:
            scores = shuffled.scores[f"{plan.attack}/audited"]
            areas[i] = auc(scores[shuffled.rows(members)], scores[shuffled.rows(others)])
        else:
            scores, heads = design.scores(shuffled, "audited", plan), design.heads(shuffled)
            areas[i] = auc(scores[heads], scores[~heads])
    name = f"{plan.attack.lower()} attack" if design is None else design.name
    return name, areas, _chance(evidence.rows(members).size, evidence.rows(others).size)


def _scored_anew(evidence: Evidence, plan: Plan, attack: Attack, members: Group, others: Group) -> Evidence:
    """The attack's scores of the audited model from its margins, the points in the order of their sides."""
    rows = np.concatenate([evidence.rows(members), evidence.rows(others)])
    seen = Observation(rows.astype(str), evidence.label[rows], evidence.margins["audited"][rows, None])
    scores = np.empty(rows.size)
    scores[rows] = attack.score(seen).values
    return replace(evidence, scores={**evidence.scores, f"{plan.attack}/audited": scores})


def _shuffled_test(
    test: ReferenceAttack, evidence: Evidence, rng: np.random.Generator
) -> tuple[str, FloatArray, float]:
    """The same of an attack whose AUC is the statistic of a rank test; on a sample of points and oracles, evenly
    spread, for the time it takes: code that peeks does so on these as well."""
    rows = [evidence.rows(group) for group in (Group.REQUESTED, Group.TWINS)]
    points = np.sort(np.concatenate([evenly(part, MOST_SHUFFLED) for part in rows]))
    oracles = evenly(np.arange(evidence.oracles), ASKED)
    evidence = evidence.part(points, oracles)
    areas = np.empty(SHUFFLES)
    for i in range(SHUFFLES):
        shuffled = replace(evidence, group=rng.permutation(evidence.group))
        areas[i] = test.values(test.read(shuffled, "audited"), shuffled)[0]
    return test.name, areas, _chance(*(evidence.rows(group).size for group in (Group.REQUESTED, Group.TWINS)))


def _chance(m: int, n: int) -> float:
    """Standard deviation of an AUC of so many members and others where the scores know nothing."""
    return math.sqrt((m + n + 1) / (12 * m * n))


def _planted_found(evidence: Evidence, plan: Plan, tests: Sequence[RankTest]) -> Control | None:
    """A leak of the larger of tolerance and MDE, planted in one oracle at a time, must be found nearly as promised.

    The MDE is taken from half of the models and planted in the others: in its own models it would be found by
    construction. It is planted in what the statistic reads, so that a dead or inverted statistic is noticed. Every
    test has `SLACK` of its own: the size is what the harder of two directions needs, and is found more often.
    """
    if not tests or "held_out" not in evidence.margins:
        return None
    sentences: list[str] = []
    passed = True
    for test in tests:
        pool = test.read(evidence, "held_out")
        if not np.ptp(pool, axis=1).any():
            passed = False
            sentences.append(f"{test.name}: dead, it gives all points of a model one and the same score")
            continue
        base = test.values(pool, evidence)
        taught = np.arange(0, len(pool), 2)
        smallest = test.smallest(base, plan, among=taught)
        if smallest is None:
            sentences.append(f"{test.name}: so few models reject nothing")
            continue
        size = max(test.tolerance, smallest)
        chosen = evenly(np.arange(1, len(pool), 2), MOST_PLANTED)
        tried = [_planted(test, pool[j], size, evidence) for j in chosen]
        if all(value is None for value in tried) and _follows(test, pool[0], evidence):
            sentences.append(f"{test.name}: no leak of {size:.2g} fits into its range")
            continue
        found, trials = 0, sum(value is not None for value in tried)
        for j, value in zip(chosen, tried, strict=True):
            if value is not None:
                values = np.concatenate([[base[j] + value], test.beside(np.delete(base, j), value)])[:, None]
                rank = oracle_rank(values, tolerances=np.array([test.tolerance]), confidence=plan.confidence)[0]
                found += rank.p <= plan.significance
        needed = fewest_found(trials or len(tried), taught.size, power=plan.power, level=SLACK)
        passed &= found >= needed
        sentences.append(f"{test.name} {found} of {trials or len(tried)} (at least {needed})")
    found_in = (
        "A leak of the tolerance's size (or the MDE of one half of the retrained models, if larger), planted in the "
        "other half, was found: "
    )
    return Control("planted leak found", passed, found_in + "; ".join(sentences) + ".")


def fewest_found(trials: int, taught: int, *, power: float, level: float) -> int:
    """How many of `trials` models find, but for chance `level`, a leak that a share `power` of `taught` others find.

    The MDE is the k-th smallest of what the `taught` models need, so that of as many exchangeable ones beta-binomially
    many need no more: how uncertain a quantile of few models is counts as well. At least one: who finds none is blind.
    """
    k = math.ceil(power * (taught - 1) - 1e-9) + 1
    return max(1, int(stats.betabinom.ppf(level, trials, k, taught + 1 - k)))


def _planted(test: RankTest, row: FloatArray, size: float, evidence: Evidence) -> float | None:
    """How far one model's statistic moved when its member points were raised until it had risen by `size`.

    Where the statistic ends before that (an AUC ends at 1), they are lowered until it fell by as much; None where
    neither is possible.
    """
    start = _raised(test, row, 0.0, evidence)
    up = _solve(lambda by: _raised(test, row, by, evidence) - start - size)
    if up is not None:
        return _raised(test, row, up, evidence) - start
    down = _solve(lambda by: start - size - _raised(test, row, -by, evidence))
    return None if down is None else _raised(test, row, -down, evidence) - start


def _raised(test: RankTest, row: FloatArray, by: float, evidence: Evidence) -> float:
    """The statistic of one model after its member points were raised."""
    planted = row.copy()
    planted[test.points(evidence)] += by
    return float(test.values(planted[None], evidence)[0])


def _follows(test: RankTest, row: FloatArray, evidence: Evidence) -> bool:
    """Whether the statistic rises with the scores of the member points at all."""
    reach = 1e3 * max(1.0, float(np.ptp(row)))
    return _raised(test, row, reach, evidence) > _raised(test, row, -reach, evidence)


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
    root = optimize.brentq(gap, low, high, xtol=1e-4 * high, rtol=1e-4, maxiter=200)
    return float(root) if gap(root) >= 0 else float(root) + 2e-4 * high


def _planted_coin_found(evidence: Evidence, plan: Plan, design: CoinDesign | None) -> Control | None:
    """A leak of the larger of tolerance and MDE, planted in a model that never saw the canaries, must be found."""
    if design is None:
        return None
    held_out = "held_out" in evidence.margins
    evidence = evidence.part(design.rows(evidence))
    if not held_out:  # plant in the audited model, with its coins tossed anew
        group = np.random.default_rng([plan.seed, 0x9A7]).permutation(evidence.group)
        evidence = replace(evidence, group=group)
    target = "held_out" if held_out else "audited"
    heads, members = design.heads(evidence), evidence.rows(design.members)
    m, n = int(heads.sum()), int((~heads).sum())
    # The AUC is raised to the goal itself, with no chance left in it: the MDE at power 0.5 is just significant or not.
    smallest = auc_mde(m, n, significance=plan.significance, power=max(plan.power, PLANTED))
    if smallest > 0.5:
        return None  # so few examples that no leak could be found: the test itself says so, and no auditor is at fault
    goal = 0.5 + min(0.49, max(plan.tolerances.auc, smallest))

    def planted(by: float) -> FloatArray:
        """Scores of the design after the model's outputs on the heads were raised."""
        outputs = {**evidence.margins, **evidence.scores}
        for name in (target, f"{plan.attack}/{target}"):
            outputs[name] = outputs[name].copy()
            outputs[name][members] += by
        margins, scores = ({name: outputs[name] for name in part} for part in (evidence.margins, evidence.scores))
        return design.scores(replace(evidence, margins=margins, scores=scores), target, plan)

    p = 1.0
    if float(np.ptp(planted(0.0))) > 0:
        shift = _solve(lambda by: auc(planted(by)[heads], planted(by)[~heads]) - goal)
        if shift is not None:
            p = coin_test(
                planted(shift), heads, tolerance=plan.tolerances.auc, confidence=plan.confidence, seed=plan.seed
            ).p
    return Control(
        "planted canary leak found" if design.exact else "planted leak found",
        p <= plan.significance,
        f"A planted leak of AUC {goal:.3f} gives p = {p:.2g} (must be at most {plan.significance:g}).",
    )
