"""What a spec is made into: twins of the same class shares, and sentences for what cannot be asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from audit_samples import ATTACK, evidence, plan

from unlearnkit.audits.battery import judge
from unlearnkit.audits.case import _matched, demand, prepare
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.verdict import state_of
from unlearnkit.result import Interval, UsageError


def test_twins_have_the_class_shares_of_the_requested_examples():
    wanted = np.repeat([0, 1], [95, 5])
    held_out = np.repeat([0, 1, 2], [36, 36, 36])
    rows = _matched(wanted, held_out)
    assert np.bincount(held_out[rows], minlength=3).tolist() == [36, 1, 0]
    assert _matched(np.array([7]), held_out).size == 0


def test_a_canary_that_was_never_used_cannot_be_forgotten(tmp_path: Path):
    body = {"canaries": {"count": 40, "seed": 0}, "deletion": {"forget_ids": "ids.txt"}}
    case = prepare(parse_spec(body, folder=tmp_path))
    (tmp_path / "ids.txt").write_text(f"{case.train.ids[case.tails[0]]}\n")
    with pytest.raises(UsageError, match="is a canary that was never trained on"):
        demand(case)


def test_no_failure_while_the_interval_reaches_into_the_tolerance():
    leak = Interval(0.045, 0.123, 0.2)
    common = {"tolerance": 0.05, "mde": 0.1, "p_adjusted": 0.01, "p_tolerance_adjusted": 0.03, "significance": 0.05}
    assert state_of(leak, **common) == "INCONCLUSIVE"
    assert state_of(dataclasses.replace(leak, low=0.055), **common) == "FAIL"
    assert state_of(Interval(-0.2, -0.123, -0.055), **common) == "FAIL"


@pytest.mark.parametrize(("right", "flagged"), [(30, True), (99, False)])
def test_an_original_that_another_recipe_made_is_flagged(right: int, flagged: bool):
    made = evidence(0)
    correct = {"original/retain": np.array([right]), "oracles/retain": np.full(made.oracles, 100)}
    made = dataclasses.replace(made, correct=correct, sizes={"retain": 100})
    assert ("original unlike the oracles" in {flag.name for flag in judge(made, plan()).flags}) == flagged


def test_evidence_with_holes_is_refused():
    made = evidence(0)
    margins = dict(made.margins)
    del margins["held_out"]
    with pytest.raises(UsageError, match="margins/held_out is missing"):
        dataclasses.replace(made, margins=margins)
    with pytest.raises(UsageError, match="audited must be finite with 440 points, got shape"):
        dataclasses.replace(made, margins={**made.margins, "audited": made.margins["audited"][:-1]})
    scores = {name: array for name, array in made.scores.items() if name != f"{ATTACK}/original"}
    with pytest.raises(UsageError, match="original is missing; every model must be attacked"):
        dataclasses.replace(made, scores=scores)
