"""The sentences of an audit: what a number means, in words that a reader without statistics can act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unlearnkit.audits.statistics.coin import canaries_needed
from unlearnkit.audits.statistics.rank import oracles_needed
from unlearnkit.result import Claim, Control, Individuals, Interval, Outcome, Word

if TYPE_CHECKING:
    from unlearnkit.audits.designs import Plan


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """Three decimals below 1, fewer above; a true minus sign, powers of ten for what is no everyday size."""
    if value == 0:
        return "0"
    size = abs(value)
    if 0.0005 <= size < 1_000_000:
        text = f"{size:,.{3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0}f}"
    else:
        text, _, exponent = f"{size:.2g}".partition("e")
        text += f"\u00a0×\u00a010{str(int(exponent)).translate(_RAISED)}" if exponent else ""
    return f"−{text}" if value < 0 else text


def span(interval: Interval, offset: float = 0.0) -> str:
    """`95 % interval a to b`."""
    if interval.low is None or interval.high is None:
        return "no interval"
    low, high = number(interval.low + offset), number(interval.high + offset)
    return f"{interval.confidence * 100:g}\u00a0% interval {low} to {high}"


def often(power: float) -> str:
    """How often, in words: 0.8 is `four times in five`."""
    return "four times in five" if power == 0.8 else f"with power {power:g}"


def sentence(test: Outcome, *, oracles: int, fewest: int, plan: Plan) -> str:
    """What one test says, and what follows from it. `fewest`: examples on the smaller side of the coin test."""
    return f"{_finding(test, oracles, plan)} {_meaning(test, oracles, fewest, plan)}"


SIDE = {"remembered": "above", "over-forgotten": "below", "equal": "at"}  # of retraining, whatever the reason
WORST = "Oracle rank, worst examples"  # has no direction: it counts how far, and not on which side

_SUBJECTS = {
    "Class recognition": "Confidence in the forgotten class lies",
    "Oracle rank, class margin": "The mean margin of the forgotten class lies",
    "Oracle rank, mean margin": "The mean margin of the requested examples lies",
    WORST: "The distance of the worst twentieth of the requested examples from retraining lies",
    "Oracle rank, canary gap": "The margin gap between deleted and never-used canaries lies",
    "Reference attack, requested": "The AUC of the attack with references on the requested examples lies",
    "Threshold attack, requested": "The AUC of a plain threshold on the requested examples lies",
    "Canary coin test": "Deleted canaries are told from never-used ones",
    "Requested against held-out": "Requested examples are told from held-out ones",
}


def _finding(test: Outcome, oracles: int, plan: Plan) -> str:
    subject = _SUBJECTS[test.name]
    exact = plan.claim == "exact"
    if test.kind == "coin":
        allowed = "no tolerance" if exact else f"tolerance {number(0.5 + test.tolerance)}"
        return f"{subject} with AUC {number(0.5 + test.leak.value)} ({span(test.leak, 0.5)}; chance is 0.5, {allowed})."
    size = number(abs(test.leak.value)) + (" σ" if test.unit == "σ" else "")
    where = f"{size} {'above' if test.leak.value > 0 else 'below'}" if test.leak.value else "exactly at"
    limits = f"{span(test.leak)}; {'no tolerance' if exact else f'tolerance ±{number(test.tolerance)}'}"
    return f"{subject} {where} that of {oracles} retrained models ({limits})."


def _meaning(test: Outcome, oracles: int, fewest: int, plan: Plan) -> str:
    if test.state == "FAIL" and test.name == WORST:
        if test.leak.value > 0:
            return "Some examples are treated unlike retraining treats them; the table of single examples names them."
        return "They lie closer to what retraining gives than retrained models do, and that tells the model apart too."
    if test.state == "FAIL":
        if test.leak.value > 0:
            return "The model still remembers them."
        return "Retraining does not leave them that low, and such a difference gives deleted examples away too."
    if test.state == "PASS":
        assert test.mde is not None
        size = number(test.mde) + (" σ" if test.unit == "σ" else "")
        found = "No significant trace" if plan.claim == "exact" else "Within tolerance"
        return f"{found}; this test by itself finds a leak of {size} or more {often(plan.power)}."
    if test.state == "LEAK_BELOW_TOLERANCE":
        return "A difference is measurable, and it is within tolerance."
    return "Undecided: " + _needed(test, oracles, fewest, plan)


def _needed(test: Outcome, oracles: int, fewest: int, plan: Plan) -> str:
    """What would make an undecided test conclusive."""
    if test.mde is None and test.kind == "rank":
        least = oracles_needed(significance=plan.significance)
        return f"{oracles} oracles cannot reach significance; {least} can."
    exact = plan.claim == "exact"
    low, high = test.leak.low, test.leak.high
    if low is not None and high is not None and max(low, -high) > (0 if exact else test.tolerance):
        alone = "a trace by itself" if exact else "beyond tolerance by itself"
        several = oracles_needed(significance=plan.significance, families=2)
        if test.kind == "rank" and oracles < several:
            return f"{alone}, but with several tests only {several} oracles decide; there are {oracles}."
        return f"{alone}, but not when all tests are counted."
    if test.kind == "coin":
        needed = canaries_needed(test.tolerance, significance=plan.significance, power=plan.power)
        if fewest < needed:
            what = "canaries" if test.group == "canaries" else "examples"
            aim = f"find an AUC of {number(0.5 + test.tolerance)}" if exact else "decide at this tolerance"
            return f"about {needed:,} {what} on each side would {aim}; there are {fewest:,}."
    elif test.mde is not None and test.mde > test.tolerance:
        return f"a leak below {number(test.mde)} cannot be told from the differences between retrained models."
    return "the interval reaches across the tolerance."


def _failed(tests: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Failing tests that have a direction: above retraining, and below."""
    failed = [test for test in tests if test.state == "FAIL" and test.name != WORST]
    return [test for test in failed if test.leak.value >= 0], [test for test in failed if test.leak.value < 0]


def _as_before(test: Outcome) -> bool:
    """Whether a leak below retraining is no larger than that of the untouched original, as far as this test can tell:
    then no deletion pushed the model there."""
    high = test.leak.high
    return test.original is not None and high is not None and high < 0 and test.original.value <= high


def headline(word: Word, tests: Sequence[Outcome], *, trace: bool, singles: Individuals | None = None) -> str:
    """The sentence beside the verdict."""
    if word == "INVALID":
        return "This audit cannot be relied on: one of its own controls failed."
    if word == "FAIL":
        remembered, low = _failed(tests)
        if not remembered and not low:
            return "Some examples are treated unlike retraining treats them."
        as_before = all(_as_before(test) for test in low)
        if not remembered and as_before:
            return "The model lies below what retraining gives, as it did before the deletion, and that shows."
        if not remembered:
            return "The model was pushed beyond forgetting, and that shows."
        if not low:
            return "The model still remembers what it was asked to forget."
        elsewhere = "lies below retraining elsewhere" if as_before else "was pushed too far elsewhere"
        return f"The model still remembers some of what it was asked to forget, and {elsewhere}."
    if word == "INCONCLUSIVE" and singles is not None and singles.flagged:
        return f"The evidence does not decide: {_standing_out(singles)}."
    if not trace:
        return "Nothing measurable to forget: the untouched original shows no trace either."
    if word == "PASS":
        return "No trace above the tolerance was found."
    if word == "CONSISTENT":
        return "Consistent with exact unlearning: no trace was found, which does not prove that none is left."
    return "The evidence does not decide whether the model forgot."


def why(
    word: Word,
    tests: Sequence[Outcome],
    controls: Sequence[Control],
    *,
    trace: bool,
    may_pass: bool,
    claim: Claim = "approximate",
    singles: Individuals | None = None,
) -> tuple[str, ...]:
    """Up to three sentences that carry the verdict, the weightiest first.

    Of a FAIL the tests that are quoted are those the headline speaks of: of a mixture one of each side.
    """
    if word == "INVALID":
        return tuple(control.sentence for control in controls if not control.passed)[:3]
    required = [test for test in tests if test.required]
    within = sum(test.state in ("PASS", "LEAK_BELOW_TOLERANCE") for test in required)
    tests_required = f"{len(required)} required test{'' if len(required) == 1 else 's'}"
    stay = f"{'stays' if within == 1 else 'stay'} within tolerance"
    stay = "found no trace, and had the power to find one" if claim == "exact" else stay
    lines = [f"Of {tests_required} {within} {stay}."]
    if word == "FAIL":
        remembered, low = _failed(tests)
        quoted = [*remembered[:1], *low[:1]] or [next(test for test in tests if test.state == "FAIL")]
        lines += [test.sentence for test in quoted]
    else:
        if singles is not None and singles.flagged:
            best = "CONSISTENT" if claim == "exact" else "PASS"
            them = "it" if singles.flagged == 1 else "them"
            lines.append(
                f"{_standing_out(singles)} (p = {singles.worst[0].p_adjusted:.2g}, all examples counted). A mean can "
                f"hide one person, so no {best} is given; the table of single examples names {them}."
            )
        lines.append(max(required, key=lambda t: (t.state == "INCONCLUSIVE", abs(t.leak.value) / t.tolerance)).sentence)
    if not trace and word != "FAIL" and len(lines) < 3:
        seen = "; ".join(_smallest(test) for test in tests if test.mde is not None)
        smallest = f"The smallest trace this audit would have seen is {seen}."
        lines.append(smallest if seen else "This audit could have seen no trace, however large.")
    if word == "INCONCLUSIVE" and within == len(required) and not may_pass:
        lines.append("Without retrained models, or 500 canaries on each side, no PASS can be given.")
    return tuple(lines)


def _standing_out(singles: Individuals) -> str:
    """How many single examples lie apart from retraining, and how far the farthest."""
    far = singles.worst[0]
    where = f"{number(abs(far.z))} σ {SIDE[far.direction]} retraining"
    if singles.flagged == 1:
        return f"1 requested example stands out, {where}"
    return f"{singles.flagged:,} requested examples stand out, the farthest {where}"


def _smallest(test: Outcome) -> str:
    """The smallest leak a test finds, as a quantity: `a margin shift of 0.41 σ (requested)`."""
    assert test.mde is not None
    size = {
        "σ": f"a margin shift of {number(test.mde)} σ",
        "AUC − 0.5": f"an AUC of {number(0.5 + test.mde)}",
        "AUC difference": f"an AUC difference of {number(test.mde)}",
        "confidence": f"a confidence of {number(test.mde)}",
    }[test.unit]
    return f"{size} ({test.name})"


def would_have_noticed(tests: Sequence[Outcome], power: float) -> tuple[str, ...]:
    """The smallest leak that each test finds with the power of the plan, and tests that could find none."""
    ordered = sorted(tests, key=lambda t: t.name)
    seen = [_smallest(test) for test in ordered if test.mde is not None]
    each = "Each test by itself" if len(seen) > 1 else "This audit"
    lines = [f"{each} finds, {often(power)}, {'; '.join(seen)}. Smaller traces can remain unseen."] if seen else []
    for test in ordered:
        if test.mde is None and test.kind == "coin":
            lines.append(f"{test.name} has too few examples to find a leak of any size {often(power)}.")
        elif test.mde is None:
            lines.append(f"{test.name} could not have become significant, however large the leak.")
    return tuple(lines)
