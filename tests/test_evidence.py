"""The sidecar: arrays in, the same arrays out, the same bytes for the same arrays, and a sentence for other files."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from audit_samples import evidence
from safetensors.numpy import load, save

from unlearnkit.audits.evidence import Evidence, Group, envelope
from unlearnkit.result import UsageError


@pytest.mark.parametrize("oracles", [0, 19])
def test_round_trip(oracles: int) -> None:
    made = evidence(oracles=oracles, requested=7, canaries=3, twins=5)
    curves = {"roc/audited/fpr": np.array([0.0, 1.0])}
    made = Evidence(made.group, made.label, made.margins, made.scores, made.correct, made.sizes, curves)
    data = made.to_bytes()
    read = Evidence.from_bytes(data)
    assert read.to_bytes() == data
    assert read.oracles == oracles
    np.testing.assert_array_equal(read.group, made.group)
    np.testing.assert_array_equal(read.label, made.label)
    assert read.sizes == made.sizes
    for name in ("margins", "scores", "correct", "curves"):
        one, two = getattr(made, name), getattr(read, name)
        assert sorted(one) == sorted(two)
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])


def test_round_trip_of_what_findings_read() -> None:
    made = evidence(oracles=19, requested=7, canaries=3, twins=5, outputs=True, unlearned=4)
    read = Evidence.from_bytes(made.to_bytes())
    assert read.to_bytes() == made.to_bytes()
    assert read.ids == made.ids == tuple(f"simulated/{i:05d}" for i in range(7))
    for name in ("logits", "answers"):
        one, two = getattr(made, name), getattr(read, name)
        assert sorted(one) == sorted(two) == ["audited", "held_out", "oracles", "original"]
        for key in one:
            assert one[key].dtype == two[key].dtype
            np.testing.assert_array_equal(one[key], two[key])
    np.testing.assert_array_equal(read.logit_points, made.logit_points)
    np.testing.assert_array_equal(read.answer_label, made.answer_label)
    assert made.ensemble is not None
    assert read.ensemble is not None
    np.testing.assert_array_equal(read.ensemble, made.ensemble)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("a",)}, "evidence: 1 ids name 7 requested points"),
        ({"ensemble": np.zeros((4, 3))}, r"evidence: ensemble must have 18 points, got shape \(4, 3\)"),
        ({"logit_points": np.arange(3)}, r"evidence: logits/\w+ must be finite with 3 points, got \("),
        ({"answer_label": np.arange(3)}, r"evidence: answers/\w+ must be finite with 3 points, got \("),
        (
            {"answers": {"oracles": np.zeros((18, 300), dtype=np.uint8)}},
            "evidence: answers/oracles must be finite with",
        ),
        (
            {"logits": {"audited": np.full((7, 10), np.nan, dtype=np.float32)}},
            "evidence: logits/audited must be finite",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    made = evidence(oracles=19, requested=7, canaries=3, twins=5, outputs=True)
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(made, **change)


def test_bytes_do_not_depend_on_the_order_of_the_names() -> None:
    made = evidence(requested=4, canaries=3, twins=4)
    turned = Evidence(
        made.group,
        made.label,
        dict(reversed(made.margins.items())),
        dict(reversed(made.scores.items())),
        made.correct,
        made.sizes,
        {},
    )
    assert turned.to_bytes() == made.to_bytes()


def test_rows_and_stack() -> None:
    made = evidence(oracles=19, requested=4, canaries=3, twins=5)
    assert [made.rows(group).size for group in Group] == [4, 3, 5, 3]
    assert sorted(np.concatenate([made.rows(group) for group in Group])) == list(range(15))
    stack = made.stack(made.margins, "audited")
    assert stack.shape == (20, 15)
    np.testing.assert_array_equal(stack[0], made.margins["audited"])
    np.testing.assert_array_equal(stack[1:], made.margins["oracles"])


def test_other_files_are_refused_in_a_sentence() -> None:
    for data in (b"", b"not safetensors", save({"points/group": np.zeros(3, dtype=np.uint8)})):
        with pytest.raises(UsageError, match=r"audit\.json: not readable as the evidence of an audit"):
            Evidence.from_bytes(data, what="audit.json")
    part = load(evidence(requested=4, canaries=3, twins=4).to_bytes())
    del part["points/label"]
    with pytest.raises(UsageError, match="points/label"):
        Evidence.from_bytes(save(part))


def test_envelope_by_hand() -> None:
    grid = np.array([0.0, 0.5, 1.0])
    steep = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.8, 1.0]))
    flat = (np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.4, 1.0]))
    low, high = envelope([steep, flat], grid)
    np.testing.assert_array_equal(low, [0.0, 0.4, 1.0])
    np.testing.assert_array_equal(high, [0.8, 0.8, 1.0])
