"""From tests and controls to states and one word: the verdict logic, pure and without models (audits.md 12)."""

from __future__ import annotations

from collections.abc import Sequence

from unlearnkit.result import Claim, Control, Interval, Outcome, State, Word


def state_of(
    leak: Interval,
    *,
    tolerance: float,
    mde: float | None,
    p: float,
    p_adjusted: float,
    p_tolerance_adjusted: float,
    significance: float,
    claim: Claim = "approximate",
) -> State:
    """The state of one test.

    FAIL: the whole interval lies beyond tolerance, and so does the leak when corrected for the number of tests. PASS
    and LEAK_BELOW_TOLERANCE: the whole interval lies within tolerance; every required test must, so no correction is
    due (intersection-union). PASS also needs the power to have seen a leak of the tolerance's size. Two-sided:
    over-forgetting counts as much.

    An exact claim grants no tolerance: any leak that is significant when corrected is a FAIL. PASS then says that
    nothing was found where a leak of the tolerance's size would have been. A leak that this test sees by itself (by
    p or by its interval: of a coin test they need not agree), and that is not significant when corrected, is neither.
    """
    if claim == "exact":
        if p_adjusted <= significance:
            return "FAIL"
        apart = (leak.low is not None and leak.low > 0) or (leak.high is not None and leak.high < 0)
        seen = apart or p <= significance
        return "PASS" if not seen and mde is not None and mde <= tolerance else "INCONCLUSIVE"
    above = leak.low is not None and leak.low > tolerance
    below = leak.high is not None and leak.high < -tolerance
    if p_tolerance_adjusted <= significance and (above or below):
        return "FAIL"
    within = leak.low is not None and leak.high is not None and -tolerance <= leak.low and leak.high <= tolerance
    if within and p_adjusted <= significance:
        return "LEAK_BELOW_TOLERANCE"
    if within and mde is not None and mde <= tolerance:
        return "PASS"
    return "INCONCLUSIVE"


def overall(
    tests: Sequence[Outcome],
    controls: Sequence[Control],
    *,
    may_pass: bool,
    claim: Claim = "approximate",
    singled_out: int = 0,
) -> Word:
    """INVALID when a control failed, FAIL when any test fails, PASS when every required test passes.

    Of an exact claim attacks alone can say no more than CONSISTENT: that nothing speaks against it.
    may_pass: whether the design could support a PASS at all (oracles, or canaries in the hundreds).
    singled_out: requested examples that lie apart from retraining when all are counted. While there are any, there is
    no PASS and no CONSISTENT: means and tests of many examples can hide one person.
    """
    if not all(control.passed for control in controls):
        return "INVALID"
    if any(test.state == "INVALID" for test in tests if test.required):
        return "INVALID"
    if any(test.state == "FAIL" for test in tests):
        return "FAIL"
    required = [test for test in tests if test.required]
    passed = required and all(test.state in ("PASS", "LEAK_BELOW_TOLERANCE") for test in required)
    # Single examples make no FAIL: their test would come on top of those that share the significance, and retrained
    # models would be called failures more often than stated. Withholding a PASS costs at most `significance` of them.
    if not (passed and may_pass) or singled_out:
        return "INCONCLUSIVE"
    return "CONSISTENT" if claim == "exact" else "PASS"
