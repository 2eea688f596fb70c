"""The coin test on compressed copies: by hand, at its level without a leak, and with a leak that comes back."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from audit_samples import evidence, plan, within_binomial

from unlearnkit.audits.battery import ATTACKS, judge
from unlearnkit.audits.compressed import compressed, compressed_rows
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.statistics.coin import coin_test
from unlearnkit.audits.statistics.multiplicity import holm
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.result import UsageError
from unlearnkit.treatments import COMPRESSED


def seen(seed: int = 0, **changes: Any) -> Evidence:
    usual = {"oracles": 5, "requested": 20, "twins": 20, "canaries": 30, "outputs": True}
    return evidence(seed, **(usual | changes))


def with_treated(made: Evidence, name: str, by: float) -> Evidence:
    """The members' margins of one compressed copy of the audited model are raised."""
    members = made.group[made.treated_points] < Group.TWINS
    margins = made.treated[f"{name}/audited"] + by * members
    return dataclasses.replace(made, treated={**made.treated, f"{name}/audited": margins})


@pytest.mark.parametrize("oracles", [0, 5])
def test_it_is_the_coin_test_of_the_copys_margins(oracles: int) -> None:
    made, fixed = seen(1, oracles=oracles), plan(seed=3)
    heads = np.arange(60) < 30
    rows = np.concatenate([made.rows(Group.HEADS), made.rows(Group.TAILS)])
    copies = compressed(made, fixed, ATTACKS[0])
    assert len(copies) == 5
    expected = []
    for name, copy in zip(COMPRESSED, copies, strict=True):
        scores = {model: made.treated[f"{name}/{model}"] for model in ("audited", "original")}
        if oracles:
            usual = made.margins["oracles"][:, rows]
            z = {model: (one - usual.mean(axis=0)) / usual.std(axis=0, ddof=1) for model, one in scores.items()}
            scores = {model: np.clip(one, -1e6, 1e6) for model, one in z.items()}
        expected.append(coin_test(scores["audited"], heads, tolerance=fixed.tolerances.auc, seed=3).p)
        assert copy.coin.p == expected[-1]
        assert copy.coin.auc.value == pytest.approx(auc(scores["audited"][heads], scores["audited"][~heads]))
        assert copy.original == pytest.approx(auc(scores["original"][heads], scores["original"][~heads]))
    assert [copy.p_adjusted for copy in copies] == pytest.approx(holm(np.array(expected)))


def test_without_a_leak_no_copy_is_significant_more_often_than_stated() -> None:
    """Whatever the copies have in common; and no test is dead."""
    runs, raw, any_copy = 100, [], 0
    for seed in range(runs):
        copies = compressed(seen(seed, canaries=20, requested=4, twins=4), plan(seed=seed), ATTACKS[0], permutations=99)
        raw += [copy.coin.p <= 0.05 for copy in copies]
        any_copy += min(copy.p_adjusted for copy in copies) <= 0.05
    assert within_binomial(any_copy, runs, 0.05), any_copy
    assert 0.02 < np.mean(raw) < 0.09


def test_assumed_twins_that_are_exchangeable_are_told_apart_no_more_often_than_stated() -> None:
    runs = 40
    found = [
        compressed(seen(seed, oracles=0, canaries=0), plan(seed=seed), ATTACKS[0], permutations=199)
        for seed in range(runs)
    ]
    assert within_binomial(sum(min(copy.p_adjusted for copy in copies) <= 0.05 for copies in found), runs, 0.05)


def test_a_leak_that_comes_back_is_flagged_and_changes_no_verdict() -> None:
    made = seen(2, canaries=60)
    hidden = with_treated(made, "4 bits", 3.0)
    before, after = (judge(one, plan()) for one in (made, hidden))
    assert "leak comes back" not in {flag.name for flag in before.flags}
    [flag] = [flag for flag in after.flags if flag.name == "leak comes back"]
    assert flag.sentence.startswith(
        "Compressed copies of the model tell deleted and never-used canaries apart (weights rounded to 4 bits: AUC 0.9"
    )
    assert re.search(r"\), while the model as it is does not show it \(p = 0\.\d+\)\.$", flag.sentence)
    assert "pruned:" not in flag.sentence
    assert after.verdict == before.verdict
    row = next(row for row in after.comparisons if row.name == "Canary coin test, weights rounded to 4 bits")
    assert row.p == 0.0001
    assert row.sentence.endswith("beside chance; adjusted for 5 compressed copies p = 0.0005.")
    first = next(row for row in after.comparisons if row.name == "Canary coin test, weights rounded to 8 bits")
    assert first.sentence.endswith("p is exact, though the oracles, which standardize the scores, were not compressed.")


def test_a_leak_that_never_went_does_not_come_back() -> None:
    made = seen(2, canaries=60, leak_canaries=3.0)
    copies = compressed(made, plan(), ATTACKS[0])
    assert min(copy.p_adjusted for copy in copies) <= 0.05
    assert "leak comes back" not in {flag.name for flag in judge(made, plan()).flags}


def test_a_trace_that_the_model_shows_by_itself_does_not_come_back_in_its_copies() -> None:
    """Corrected for all tests it is none: that is no reason to call the copies worse than the model."""
    made = with_treated(seen(2, canaries=60, leak_canaries=0.2), "4 bits", 3.0)
    judged = judge(made, plan())
    [coin] = [test for test in judged.tests if test.kind == "coin"]
    assert coin.p <= 0.05 < coin.p_adjusted
    assert "leak comes back" not in {flag.name for flag in judged.flags}


def test_without_coins_the_flag_speaks_of_the_requested_examples() -> None:
    made = with_treated(seen(3, oracles=0, canaries=0, requested=60, twins=60), "8 bits", 5.0)
    [flag] = [flag for flag in judge(made, plan(tier="seconds")).flags if flag.name == "leak comes back"]
    assert flag.sentence.startswith("Compressed copies of the model tell requested and held-out examples apart (")


def test_where_no_coin_was_tossed_that_is_said() -> None:
    made = seen(3, oracles=0, canaries=0)
    rows = compressed_rows(made, compressed(made, plan(tier="seconds"), ATTACKS[0]))
    assert rows[-1].name == "Requested against held-out, 50\u00a0% of the weights pruned"
    assert rows[0].sentence.startswith("Requested over held-out examples, beside chance; adjusted for 5 compressed")
    assert rows[0].sentence.endswith("p takes both to be exchangeable.")
    assert (rows[0].oracles.low, rows[0].oracles.value, rows[0].oracles.high) == (None, 0.5, None)


def test_without_a_design_or_copies_there_are_no_rows() -> None:
    assert compressed(seen(canaries=0), plan(), ATTACKS[0]) == ()
    made = dataclasses.replace(seen(), treated={}, treated_points=np.empty(0, dtype=np.int64))
    assert (compressed(made, plan(), ATTACKS[0]), compressed_rows(made, ())) == ((), ())


def test_other_points_than_those_of_the_coin_test_are_refused() -> None:
    made = seen()
    with pytest.raises(UsageError, match="treated_points must be those that the coin test compares, members first"):
        compressed(dataclasses.replace(made, treated_points=made.treated_points[::-1].copy()), plan(), ATTACKS[0])
