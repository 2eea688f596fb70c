"""The sidecar: arrays in, the same arrays out, the same bytes for the same arrays, and a sentence for other files."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from audit_samples import evidence
from safetensors.numpy import load, save

from unlearnkit.audits.designs import coin_design, rank_tests
from unlearnkit.audits.evidence import Evidence, Group, envelope
from unlearnkit.audits.simulate import simulate, standard_plan
from unlearnkit.audits.statistics.rank import Z_CAP, margin_z
from unlearnkit.result import UsageError
from unlearnkit.treatments import COMPRESSED


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


@pytest.mark.parametrize("canaries", [3, 20])
def test_round_trip_of_what_findings_read(canaries: int) -> None:
    made = evidence(oracles=19, requested=7, canaries=canaries, twins=5, outputs=True, unlearned=4)
    made = dataclasses.replace(made, answer_group=np.arange(300) % 3 - 1, group_names=("a", "b"))
    read = Evidence.from_bytes(made.to_bytes())
    assert read.to_bytes() == made.to_bytes()
    assert read.ids == made.ids == tuple(f"simulated/{i:05d}" for i in range(7))
    models = ["audited", "held_out", "oracles", "original"]
    treated = [f"{name}/{model}" for name in COMPRESSED for model in ("original", "audited")] if canaries == 20 else []
    for name, there in (
        ("logits", [*models, "untrained copy"]),
        ("answers", models),
        ("beside", models),
        ("legacy", [f"MIA efficacy (SVC)/{model}" for model in ("audited", "oracles", "original")]),
        ("treated", treated),
    ):
        one, two = getattr(made, name), getattr(read, name)
        assert sorted(one) == sorted(two) == sorted(there)
        for key in one:
            assert one[key].dtype == two[key].dtype
            np.testing.assert_array_equal(one[key], two[key])
    np.testing.assert_array_equal(read.logit_points, made.logit_points)
    for name in ("answer_label", "answer_group", "treated_points", "beside_retained", "swapped", "swapped_forget"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert read.group_names == ("a", "b")
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
        ({"group_names": ("a",)}, r"evidence: answer_group must have 300 points, got shape \(0,\)"),
        (
            {"answer_group": np.arange(300) % 3, "group_names": ("a", "b")},
            "evidence: answer_group must hold every number of 2 names",
        ),
        (
            {"answer_group": np.arange(300) % 2, "group_names": ("a", "b", "c")},
            "evidence: answer_group must hold every number of 3 names",
        ),
        (
            {"answers": {"oracles": np.zeros((18, 300), dtype=np.uint8)}},
            "evidence: answers/oracles must be finite with",
        ),
        (
            {"readings": {"Pruning/audited": np.zeros(1), "Pruning/original": np.zeros(1)}},
            "evidence: readings/Pruning/oracles is missing; a probe is put to original, audited, oracles",
        ),
        (
            {"legacy": {"MIA/audited": np.zeros(1)}},
            "evidence: legacy/MIA/oracles is missing; a published number is computed for original, audited, oracles",
        ),
        (
            {"treated": {"4 bits/audited": np.zeros(2)}, "treated_points": np.arange(2)},
            "evidence: treated/10 % pruned/audited is missing; original and audited are treated to 8 bits, 4 bits, 10 ",
        ),
        (
            {"treated": {"4 bits/audited": np.zeros(2)}},
            r"evidence: treated/4 bits/audited must be finite with 0 points",
        ),
        ({"treated_points": np.array([3, 18])}, "evidence: treated_points must lie among 18 points"),
        (
            {"beside_retained": np.zeros(3, dtype=np.uint8)},
            r"evidence: beside/\w+ must be finite with 3 points, got \(",
        ),
        ({"swapped": None}, r"evidence: swapped must be finite margins .*, got \[\] and \[3, 6\]"),
        ({"swapped": np.zeros((3, 2, 5))}, r"evidence: swapped must be .*, got \[3, 2, 5\] and \[3, 6\]"),
        ({"swapped": np.full((3, 2, 6), np.inf)}, "evidence: swapped must be finite margins"),
        (
            {"swapped": np.zeros((1, 2, 8)), "swapped_forget": np.zeros((1, 8), dtype=np.uint8)},
            "evidence: swapped must be finite margins .* of requested points",
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


def test_copies_are_compressed_in_every_way_or_in_none() -> None:
    made = evidence(oracles=19, requested=7, canaries=20, twins=5, outputs=True)
    for model in ("audited", "original"):
        fewer = {name: one for name, one in made.treated.items() if name != f"4 bits/{model}"}
        with pytest.raises(UsageError, match=f"evidence: treated/4 bits/{model} is missing; "):
            dataclasses.replace(made, treated=fewer)
    fewer = {name: one for name, one in made.treated.items() if not name.startswith("4 bits/")}
    with pytest.raises(UsageError, match="evidence: treated/4 bits/audited is missing; "):
        dataclasses.replace(made, treated=fewer)
    with pytest.raises(UsageError, match="evidence: treated/2 bits/audited is not known; "):
        dataclasses.replace(made, treated={**made.treated, "2 bits/audited": made.treated["4 bits/audited"]})


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


def test_a_part_keeps_what_it_names_in_the_order_given() -> None:
    made = simulate(3, oracles=5, requested=6, canaries=3, twins=4, outputs=True, unlearned=2)
    points, oracles = np.array([7, 0, 12]), np.array([4, 1])
    part = made.part(points, oracles)
    assert part.group.tolist() == made.group[points].tolist()
    for arrays, all_arrays in ((part.margins, made.margins), (part.scores, made.scores)):
        for name, array in arrays.items():
            whole = all_arrays[name]
            expected = whole[np.ix_(oracles, points)] if name.endswith("oracles") else whole[points]
            np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(part.correct["oracles/test"], made.correct["oracles/test"][oracles])
    np.testing.assert_array_equal(part.correct["audited/test"], made.correct["audited/test"])
    assert (part.ids, dict(part.logits), dict(part.answers), part.ensemble) == ((), {}, {}, None)
    assert made.part(points).oracles == 5


def test_scores_against_oracles_are_the_leave_one_out_z_of_the_first_model() -> None:
    made = simulate(4, oracles=7, requested=10, canaries=25, twins=6)
    margins = {name: array.copy() for name, array in made.margins.items()}
    first, second = made.rows(Group.HEADS)[:2]
    margins["oracles"][:, [first, second]] = 1.5  # oracles that do not differ: as far out as can be said, or not at all
    margins["audited"][[first, second]] = 1.5, 2.5
    made = dataclasses.replace(made, margins=margins)
    design = coin_design(made)
    assert design is not None
    found = design.scores(made, "audited", standard_plan())
    twin = margin_z(made.stack(made.margins, "audited")[:, design.rows(made)])[0]
    np.testing.assert_allclose(found, twin, rtol=1e-12)
    assert sorted(set(found[np.abs(found) == Z_CAP])) == [Z_CAP]
    worst = rank_tests(made, standard_plan())[1]
    stack = worst.read(made, "audited")
    np.testing.assert_allclose(worst.values(stack[:1], made), worst.values(stack, made)[:1], rtol=1e-12)
