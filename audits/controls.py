"""The auditor's checks of itself, made within every audit: what must be accepted, found, or at chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, stats

from unlearnkit.audits.coin import coin_test
from unlearnkit.audits.designs import CoinDesign, Plan, RankTest, smallest_leak
from unlearnkit.audits.evidence import Evidence, FloatArray, Group
from unlearnkit.audits.rank import oracle_rank
from unlearnkit.audits.roc import auc, auc_mde
from unlearnkit.result import Control

SHUFFLES = 400
SLACK = 0.001  # a control may fail by chance once in a thousand audits


def run_controls(
    evidence: Evidence,
    plan: Plan,
    tests: Sequence[RankTest],
    design: CoinDesign | None,
    *,
    held_out_failed: Sequence[str] | None,
    trace: bool,
) -> tuple[Control, ...]:
    """Every control that the design offers something to check with.

    held_out_failed: names of the tests that called the held-out oracle a failure; None where there is no such oracle.
    trace: whether the untouched original was caught. When it was not, that is no failure of the auditor but a finding
    of its own (the examples left no measurable trace), so no control is listed.
    """
    found = [
        None if held_out_failed is None else _held_out_accepted(held_out_failed),
        _shuffled_at_chance(evidence, plan, design),
        _planted_found(evidence, plan, tests),
        _planted_coin_found(evidence, plan, design),
        Control(
            "untouched original caught",
            True,
            "The untouched original is told apart from models that never saw the examples.",
        )
        if trace
        else None,
    ]
    return tuple(control for control in found if control is not None)


def _held_out_accepted(failed: Sequence[str]) -> Control:
    """A retrained model that is no reference must not be called a failure."""
    if failed:
        return Control(
            "held-out oracle accepted",
            False,
            f"A model retrained without the data was called a failure by: {', '.join(failed)}.",
        )
    return Control("held-out oracle accepted", True, "A further model retrained without the data fails no test.")


def _shuffled_at_chance(evidence: Evidence, plan: Plan, design: CoinDesign | None) -> Control | None:
    """With shuffled labels the AUC must scatter around 0.5 as by chance; catches scores that know the answer."""
    if design is None:
        members, others = evidence.rows(Group.REQUESTED), evidence.rows(Group.TWINS)
        scores = evidence.scores[f"{plan.attack}/audited"][np.concatenate([members, others])]
        heads = np.arange(scores.size) < members.size
    else:
        scores, heads = design.scores(evidence, "audited", plan), design.heads(evidence)
    rng = np.random.default_rng([plan.seed, 0x5AFF])
    shuffled = [rng.permutation(heads) for _ in range(SHUFFLES)]
    areas = np.array([auc(scores[s], scores[~s]) for s in shuffled])
    m, n = int(heads.sum()), int((~heads).sum())
    error = math.sqrt((m + n + 1) / (12 * m * n))
    outside = int(np.count_nonzero(np.abs(areas - 0.5) > stats.norm.isf(plan.significance / 2) * error))
    limit = int(stats.binom.isf(SLACK, SHUFFLES, plan.significance))
    passed = outside <= limit and abs(areas.mean() - 0.5) <= 5 * error / math.sqrt(SHUFFLES)
    return Control(
        "shuffled labels at chance",
        bool(passed),
        f"With shuffled labels the AUC averages {areas.mean():.3f}; {outside} of {SHUFFLES} shuffles look significant "
        f"(at most {limit} are to be expected).",
    )


def _planted_found(evidence: Evidence, plan: Plan, tests: Sequence[RankTest]) -> Control | None:
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
        size = max(test.tolerance, smallest_leak(test, evidence, plan) or 0.0)
        found = sum(
            _planted_p(test, np.roll(pool, -j, axis=0), size, evidence, plan) <= plan.significance
            for j in range(len(pool))
        )
        needed = int(stats.binom.ppf(SLACK, len(pool), plan.power))
        passed &= found >= needed
        sentences.append(f"{test.name} {found} of {len(pool)} (at least {needed})")
    found_in = "A leak of the tolerance's size (or the MDE, if larger), planted in retrained models, was found: "
    return Control("planted leak found", passed, found_in + "; ".join(sentences) + ".")


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
        scores = design.scores(evidence, "audited", plan)
        heads = np.random.default_rng([plan.seed, 0x9A7]).permutation(heads)
    else:
        scores = design.scores(evidence, target, plan)
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
