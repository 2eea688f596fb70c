"""The sentences of an audit: what a number means, in words that a reader without statistics can act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unlearnkit.audits.coin import canaries_needed
from unlearnkit.audits.rank import oracles_needed
from unlearnkit.result import Control, Interval, Outcome, State, Word

if TYPE_CHECKING:
    from unlearnkit.audits.battery import Plan


def number(value: float) -> str:
    """Three significant digits, no exponent for everyday sizes."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 or abs(value) < 0.0005:
        return f"{value:.2g}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def span(interval: Interval, offset: float = 0.0) -> str:
    """`95 % interval a to b`."""
    low, high = (None if v is None else v + offset for v in (interval.low, interval.high))
    if low is None or high is None:
        return "no interval"
    return f"{interval.confidence:.0%} interval {number(low)} to {number(high)}".replace("%", " %")


def sentence(
    name: str,
    kind: str,
    unit: str,
    leak: Interval,
    tolerance: float,
    mde: float | None,
    state: State,
    oracles: int,
    arms: tuple[int, int],
    plan: Plan,
) -> str:
    """What one test says, and what follows from it."""
    return f"{_finding(name, kind, unit, leak, tolerance, oracles)} {_meaning(leak, mde, tolerance, state, kind, oracles, arms, plan)}"


def _finding(name: str, kind: str, unit: str, leak: Interval, tolerance: float, oracles: int) -> str:
    if kind == "coin":
        what = (
            "Deleted canaries are told from never-used ones" if "Canary" in name else "Requested are told from held-out"
        )
        return (
            f"{what} with AUC {number(0.5 + leak.value)} ({span(leak, 0.5)}; chance is 0.5, tolerance "
            f"{number(0.5 + tolerance)})."
        )
    where = "above" if leak.value > 0 else "below"
    subject = {
        "Class recognition": "Confidence in the forgotten class lies",
        "Oracle rank, class margin": "The mean margin of the forgotten class lies",
        "Oracle rank, mean margin": "The mean margin of the requested examples lies",
        "Oracle rank, canary gap": "The margin gap between deleted and never-used canaries lies",
    }.get(name, "The attack's AUC lies")
    size = f"{number(abs(leak.value))}" + (" σ" if unit == "σ" else "")
    return (
        f"{subject} {size} {where} that of {oracles} retrained models ({span(leak)}; tolerance ±{number(tolerance)})."
    )


def _meaning(
    leak: Interval,
    mde: float | None,
    tolerance: float,
    state: State,
    kind: str,
    oracles: int,
    arms: tuple[int, int],
    plan: Plan,
) -> str:
    if state == "FAIL":
        if leak.value > 0:
            return "The model still remembers them."
        return "Retraining does not leave them that low; overshooting gives deleted examples away as memory does."
    if state == "PASS":
        assert mde is not None
        return f"Within tolerance; a leak of {number(mde)} or more would have been found four times in five."
    if state == "LEAK_BELOW_TOLERANCE":
        return "A difference is measurable, and it is within tolerance."
    return "Undecided: " + _needed(leak, mde, tolerance, kind, oracles, arms, plan)


def _needed(
    leak: Interval,
    mde: float | None,
    tolerance: float,
    kind: str,
    oracles: int,
    arms: tuple[int, int],
    plan: Plan,
) -> str:
    """What would make an undecided test conclusive."""
    if kind == "coin":
        needed = canaries_needed(tolerance, significance=plan.significance, power=plan.power)
        if min(arms) and min(arms) < needed:
            return f"about {needed:,} canaries on each side would decide at this tolerance; there are {min(arms)}."
        return "the interval reaches across the tolerance."
    if mde is None:
        least = oracles_needed(significance=plan.significance)
        return f"{oracles} oracles cannot reach significance; {least} can."
    if mde > tolerance:
        return f"a leak below {number(mde)} cannot be told from the differences between retrained models."
    several = oracles_needed(significance=plan.significance, families=2)
    if leak.low is not None and leak.high is not None and max(leak.low, -leak.high) > tolerance and oracles < several:
        return f"beyond tolerance by itself, but with several tests only {several} oracles decide; there are {oracles}."
    return "the interval reaches across the tolerance."


def headline(word: Word, tests: Sequence[Outcome], *, trace: bool) -> str:
    """The sentence beside the verdict."""
    if word == "INVALID":
        return "This audit cannot be relied on: one of its own controls failed."
    if word == "FAIL":
        failed = [test for test in tests if test.state == "FAIL"]
        if all(test.leak.value < 0 for test in failed):
            return "The model was pushed beyond forgetting, and that shows."
        return "The model still remembers what it was asked to forget."
    if not trace:
        return "Nothing measurable to forget: the untouched original shows no trace either."
    if word == "PASS":
        return "No trace above the tolerance was found."
    return "The evidence does not decide whether the model forgot."


def why(
    word: Word, tests: Sequence[Outcome], controls: Sequence[Control], *, trace: bool, may_pass: bool
) -> tuple[str, ...]:
    """Up to three sentences that carry the verdict, the weightiest first."""
    if word == "INVALID":
        return tuple(control.sentence for control in controls if not control.passed)[:3]
    required = [test for test in tests if test.required]
    within = sum(test.state in ("PASS", "LEAK_BELOW_TOLERANCE") for test in required)
    count = f"Of {len(required)} required tests {within} {'stays' if within == 1 else 'stay'} within tolerance."
    lines = [count]
    decisive = [test for test in tests if test.state == ("FAIL" if word == "FAIL" else "INCONCLUSIVE")]
    lines += [test.sentence for test in decisive[:1]]
    if not trace and word != "FAIL":
        seen = [test for test in tests if test.mde is not None]
        if seen:
            traces = "; ".join(f"{_quantity(test)} ({test.group})" for test in seen)
            lines.append(f"The smallest trace this audit would have seen is {traces}.")
    if word == "INCONCLUSIVE" and within == len(required) and not may_pass:
        lines.append("Without retrained models, or 500 canaries on each side, no PASS can be given.")
    return tuple(lines)


def _quantity(test: Outcome) -> str:
    assert test.mde is not None
    if test.kind == "coin":
        return f"AUC {number(0.5 + test.mde)}"
    return f"{test.unit} ±{number(test.mde)}" if test.unit != "σ" else f"{number(test.mde)} σ of margin"


def would_have_noticed(tests: Sequence[Outcome], oracles: int, coins: bool, power: float) -> tuple[str, ...]:
    """The smallest leak of each kind that this audit finds with its power."""
    often = "four times in five" if power == 0.8 else f"with power {power:g}"
    lines: list[str] = []
    for test in sorted(tests, key=lambda t: t.name):
        if test.mde is None:
            lines.append(f"{test.name}: no leak, however large, could have become significant.")
        elif test.kind == "coin":
            lines.append(f"{test.name}: an AUC of {number(0.5 + test.mde)} or more, {often}.")
        else:
            unit = " σ" if test.unit == "σ" else ""
            of = {"σ": "a margin shift", "AUC": "an AUC difference", "confidence": "a confidence"}[test.unit]
            lines.append(f"{test.name}: {of} of {number(test.mde)}{unit} or more, {often}.")
    return tuple(lines)
