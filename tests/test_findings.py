"""Findings beside the verdict: the naive numbers, the stated error rates, and what is planted is named."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from audit_samples import class_evidence, evidence, plan, within_binomial
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, softmax

from unlearnkit.attacks.mia_efficacy import mia_efficacy
from unlearnkit.audits import battery
from unlearnkit.audits.battery import judge
from unlearnkit.audits.evidence import Evidence, FloatArray, Group
from unlearnkit.audits.findings import TITLES, by_group, comparisons, measured_epsilon, other_classes, single_examples
from unlearnkit.audits.records import captions
from unlearnkit.audits.simulate import Law, with_audited
from unlearnkit.audits.statistics.epsilon import Split, one_run_epsilon
from unlearnkit.result import Comparison

NAMES = tuple("abcdefghij")
SIMPLE = [
    "Jensen-Shannon divergence of the outputs",
    "Activation distance",
    "Kernel distance (MMD) of the margins",
    "Tug of war (ToW)",
    "Average gap",
]
STAY, PUBLISHED = "Retained against held-out examples", ["MIA efficacy (SVC)", "Zero retrain forgetting (ZRF)"]
PROBES = ["Rounding to 8 and 4 bits", "Relearning on retained data"]


def seen(seed: int = 0, **changes: Any) -> Evidence:
    """Small evidence with everything in it."""
    usual = {"oracles": 19, "requested": 30, "twins": 30, "canaries": 20, "outputs": True}
    return evidence(seed, **(usual | changes))


def by_name(made: Evidence) -> dict[str, Comparison]:
    return {row.name: row for row in comparisons(made, plan())}


def naive(models: list[Any], distance: Any) -> FloatArray:
    """Mean distance of each model from all others."""
    count = len(models)
    return np.array([np.mean([distance(models[i], models[j]) for j in range(count) if j != i]) for i in range(count)])


def agree(row: Comparison, values: FloatArray, *, nearer: bool = False) -> None:
    assert row.value == pytest.approx(values[0], rel=1e-7)
    spread = (row.oracles.low, row.oracles.value, row.oracles.high)
    assert spread == pytest.approx((values[1:].min(), values[1:].mean(), values[1:].max()), rel=1e-7)
    farther = values[1:] <= values[0] if nearer else values[1:] >= values[0]
    assert row.p == pytest.approx((1 + farther.sum()) / len(values))


# -- distances -----------------------------------------------------------------------------------------------------


def test_distances_of_outputs_are_the_naive_ones() -> None:
    made = seen(1, leak=0.4)
    outputs = {name: softmax(logits.astype(np.float64), axis=-1) for name, logits in made.logits.items()}
    models = [outputs["audited"], *outputs["oracles"]]
    rows = by_name(made)
    agree(rows[SIMPLE[0]], naive(models, lambda p, q: np.mean(jensenshannon(p, q, axis=1) ** 2)))
    agree(rows[SIMPLE[1]], naive(models, lambda p, q: np.sqrt(((p - q) ** 2).sum(axis=1)).mean()))
    untouched = naive([outputs["original"], *outputs["oracles"]], lambda p, q: np.sqrt(((p - q) ** 2).sum(1)).mean())
    assert rows[SIMPLE[1]].original == pytest.approx(untouched[0], rel=1e-7)
    assert "on 30 requested examples" in rows[SIMPLE[0]].sentence


def test_distances_of_accuracies_are_the_naive_ones() -> None:
    made = seen(2)
    splits = ("forget", "canaries", "retain", "test")
    shares = np.array(
        [[made.correct[f"audited/{s}"][0] / made.sizes[s] for s in splits]]
        + [[made.correct[f"oracles/{s}"][i] / made.sizes[s] for s in splits] for i in range(19)]
    )
    rows = by_name(made)
    agree(rows["Average gap"], naive(list(shares), lambda a, b: np.abs(a - b).mean()))
    agree(rows["Tug of war (ToW)"], naive(list(shares), lambda a, b: np.prod(1 - np.abs(a - b))), nearer=True)


def test_the_caption_names_the_coin_test_only_where_one_reads_canaries_by_oracles() -> None:
    beside = "(the coin test standardizes it by the oracles)"
    of = {
        "canaries": seen(),
        "no coins": class_evidence(oracles=3),
        "no oracles": evidence(oracles=0),
        "neither": evidence(oracles=0, canaries=0),
    }
    said = {name: captions(made)["roc"] for name, made in of.items()}
    assert [name for name, text in said.items() if beside in text] == ["canaries"]
    deleted = [name for name, text in said.items() if text.startswith("Deleted canaries against never-used ones:")]
    assert deleted == ["canaries", "no oracles"]


def test_the_kernel_distance_says_when_it_can_grow_no_further() -> None:
    name = "Kernel distance (MMD) of the margins"
    made = seen()
    made = dataclasses.replace(made, margins={**made.margins, "original": made.margins["original"] + 50})
    only = "With 19 oracles no value can exceed 4.36; the original stands there, and may be farther out than the number"
    assert only in by_name(made)[name].sentence
    far = with_audited(made, made.margins["audited"] + 50)
    row = by_name(far)[name]
    assert 0.99 * 19**0.5 <= row.value <= 19**0.5
    assert row.sentence.endswith(
        "With 19 oracles no value can exceed 4.36; the unlearned model and the original stand there, and may be "
        "farther out than the number tells."
    )
    near = dataclasses.replace(made, margins={**made.margins, "original": made.margins["audited"]})
    assert by_name(near)[name].sentence.endswith("With 19 oracles no value can exceed 4.36.")


# -- those who stay, and what publications report -------------------------------------------------------------------


def two_sided(row: Comparison, values: FloatArray) -> None:
    """The row of a number of every model, the audited one first, against its plain rank."""
    assert row.value == pytest.approx(values[0], rel=1e-7)
    assert (row.oracles.low, row.oracles.high) == pytest.approx((values[1:].min(), values[1:].max()), rel=1e-7)
    far = np.abs(values - values.mean())
    assert row.p == pytest.approx(np.mean(far >= far[0] * (1 - 1e-12)))


def test_those_who_stay_are_held_against_those_who_never_came() -> None:
    made = seen(3)
    kept = made.beside_retained == 1

    def areas(made: Evidence, target: str) -> FloatArray:
        rows = [made.beside[target], *made.beside["oracles"]]
        return np.array([(row[kept][:, None] > row[~kept]).mean() for row in rows])

    two_sided(by_name(made)[STAY], areas(made, "audited"))
    exposed = {**made.beside, "audited": (made.beside["audited"] + 4.0 * kept).astype(np.float32)}
    worse = dataclasses.replace(made, beside=exposed)
    row = by_name(worse)[STAY]
    assert row.p == pytest.approx(1 / 20)
    assert row.original == pytest.approx(areas(made, "original")[0])
    assert "tells 100 retained from 100 held-out examples." in row.sentence
    of_class = comparisons(worse, plan(kind="class"))
    assert "held-out examples of the other classes." in next(r for r in of_class if r.name == STAY).sentence


def test_published_numbers_are_the_naive_ones_beside_the_oracles() -> None:
    made = seen(4)
    rows = by_name(made)
    name = PUBLISHED[0]
    two_sided(rows[name], np.concatenate([made.legacy[f"{name}/audited"], made.legacy[f"{name}/oracles"]]))
    assert rows[name].original == pytest.approx(made.legacy[f"{name}/original"][0])
    untrained = softmax(made.logits["untrained copy"].astype(np.float64), axis=-1)
    outputs = softmax(np.stack([made.logits["audited"], *made.logits["oracles"]]).astype(np.float64), axis=-1)
    zrf = np.array([1 - np.mean(jensenshannon(one, untrained, axis=1) ** 2) for one in outputs])
    two_sided(rows[PUBLISHED[1]], zrf)
    assert 1 - np.log(2) <= zrf.min()
    for name in PUBLISHED:
        assert "Publications report it; it is weak and decides nothing here" in rows[name].sentence


def test_mia_efficacy_is_read_from_the_margins_in_the_evidence() -> None:
    made = seen(4)
    found = battery.legacy(made)
    assert {name.rpartition("/")[2]: values.size for name, values in found.items()} == {
        "original": 1,
        "audited": 1,
        "oracles": 19,
    }
    kept = made.beside_retained == 1
    asked = made.margins["oracles"][3, made.rows(Group.REQUESTED)]
    beside = made.beside["oracles"][3].astype(np.float64)
    expected = mia_efficacy(expit(asked), expit(beside[kept]), expit(beside[~kept]))
    assert found["MIA efficacy (SVC)/oracles"][3] == expected
    assert battery.legacy(seen(oracles=0)) == battery.legacy(seen(outputs=False)) == {}
    alone = dataclasses.replace(made, beside_retained=np.ones_like(made.beside_retained))
    assert battery.legacy(alone) == {}
    none = np.where(made.group == Group.REQUESTED, np.uint8(Group.HEADS), made.group)
    bare = dataclasses.replace(
        made, ids=(), logits={}, logit_points=np.empty(0, int), swapped=None, swapped_forget=None
    )
    nobody = dataclasses.replace(bare, group=none)
    assert battery.legacy(nobody) == {}


def test_halves_that_trade_places_are_scored_against_the_oracles() -> None:
    made = seen(5, requested=19)
    assert made.swapped is not None
    assert made.swapped_forget is not None
    forget = made.swapped_forget == 1
    row = by_name(made)["SWAP test"]
    usual = made.margins["oracles"][:, :18]
    z = (made.swapped - usual.mean(axis=0)) / usual.std(axis=0, ddof=1)
    advantages = [
        (one[own][:, None] > one[~own]).mean() + (two[~own][:, None] > two[own]).mean() - 1
        for (one, two), own in zip(z, forget, strict=True)
    ]
    assert row.value == pytest.approx(np.mean(advantages))
    assert row.sentence.startswith("3 pairs of models; of each, one was trained on one half of 18 requested examples")
    assert re.search("at 95\u00a0% confidence −?[01]\\.[0-9]{2,3} to −?[01]\\.[0-9]{2,3}\\. Beside it", row.sentence)
    leaking = made.swapped + 2.0 * np.stack([forget, ~forget], axis=1)
    found = by_name(dataclasses.replace(made, swapped=leaking))["SWAP test"]
    assert found.value > 0.3
    assert found.p == pytest.approx(0.0001)
    assert "SWAP test" not in by_name(dataclasses.replace(made, swapped=None, swapped_forget=None))


def test_what_the_evidence_does_not_hold_makes_no_row() -> None:
    assert list(by_name(seen())) == [*SIMPLE, STAY, *PUBLISHED, *PROBES, "SWAP test"]
    assert list(by_name(seen(outputs=False))) == SIMPLE[2:]
    assert comparisons(seen(oracles=0, outputs=False), plan()) == ()
    assert [row.name for row in comparisons(seen(unlearned=6), plan())][11:] == [
        "KLoM, 95th percentile",
        "NeurIPS 2023 forgetting score",
        "Kernel distance (MMD) of the ensembles",
        "Examples told apart",
        "ε of single examples, 95th percentile",
    ]


def test_probes_are_ranked_among_the_retrained_models_that_were_asked() -> None:
    made = seen(5)
    readings = {name: values.copy() for name, values in made.readings.items()}
    readings["Quantization/audited"] = readings["Quantization/oracles"].max(keepdims=True) + 5.0
    readings["Mine(k=2)/audited"] = readings["Mine(k=2)/original"] = np.array([0.5])
    readings["Mine(k=2)/oracles"] = np.linspace(0.0, 1.0, 19)
    rows = by_name(dataclasses.replace(made, readings=readings))
    row = rows[PROBES[0]]
    oracles = readings["Quantization/oracles"]
    assert (row.p, row.value) == (1 / 20, pytest.approx(oracles.max() + 5.0))
    assert (row.oracles.low, row.oracles.high) == (pytest.approx(oracles.min()), pytest.approx(oracles.max()))
    assert row.original == pytest.approx(readings["Quantization/original"][0])
    assert row.sentence.endswith("when the weights are rounded; 19 retrained models were asked the same.")
    assert rows[PROBES[1]].sentence.startswith("Mean accuracy on the requested examples while the model is trained")
    assert rows["Mine(k=2)"].p == 1.0  # right in the middle; a probe without a title stands under its name


@pytest.mark.parametrize("kind", ["examples", "class"])
def test_every_probe_of_the_battery_has_a_title_and_a_question_of_its_own(kind: str) -> None:
    names = [probe.name for probe in battery.PROBES[kind]]
    assert [name for name in names if name not in TITLES] == []
    assert len({TITLES[name] for name in names}) == len(names)


@pytest.mark.parametrize(("oracles", "unlearned", "rows"), [(5, 8, 0), (8, 5, 0), (6, 6, 6)])
def test_ensembles_that_are_too_small_are_left_out_and_stop_no_audit(oracles: int, unlearned: int, rows: int) -> None:
    made = seen(2, oracles=oracles, unlearned=unlearned, requested=12, twins=12)
    made = dataclasses.replace(made, readings={})
    found = judge(made, plan(tier="hours", oracles=64))
    ensembles = ("KLoM", "NeurIPS", "Kernel distance (MMD) of the e", "Examples told", "ε of", "U-LiRA")
    assert sum(row.name.startswith(ensembles) for row in found.comparisons) == rows
    assert found.verdict.word == "INVALID"


def test_a_retrained_model_is_far_out_no_more_often_than_stated() -> None:
    runs = 60
    low = dict.fromkeys([*SIMPLE, STAY, *PUBLISHED, *PROBES, "SWAP test"], 0)
    for seed in range(runs):
        for name, row in by_name(seen(seed, requested=20, twins=4, canaries=0)).items():
            assert row.p is not None
            low[name] += row.p <= 0.1
    for name, count in low.items():
        assert within_binomial(count, runs, 0.1), (name, count)
    assert sum(low.values()) > 0


def test_a_leak_is_far_out_and_the_original_too() -> None:
    rows = by_name(seen(3, level=0.0, leak=2.5, leak_canaries=2.5))  # half of the answers right: outputs can move
    for name in SIMPLE[:3]:
        row = rows[name]
        assert row.p == pytest.approx(1 / 20)
        assert row.oracles.high is not None
        assert row.value > row.oracles.high
        assert row.original is not None
        assert row.original > row.oracles.high


def test_ensembles_stand_beside_retrained_against_retrained() -> None:
    fair = seen(4, oracles=32, unlearned=32, requested=40)
    assert fair.ensemble is not None
    leaking = dataclasses.replace(fair, ensemble=fair.ensemble + 2.5 * (fair.group == Group.REQUESTED))
    one, two = by_name(fair), by_name(leaking)
    klom, score, kernel, apart, epsilon = list(one)[11:]
    for name in (klom, score):
        assert one[name].oracles.low is one[name].oracles.high is one[name].p is one[name].original is None
        assert one[name].oracles == two[name].oracles  # the floor does not look at what was unlearned
        assert one[name].value == pytest.approx(one[name].oracles.value, rel=0.35)
    assert two[klom].value > 1.5 * two[klom].oracles.value
    assert two[score].value < 0.5 * two[score].oracles.value
    assert "16 unlearned against 16 retrained models" in one[klom].sentence
    assert "All 32 unlearned against all 32 retrained models" in one[kernel].sentence
    found = [row.p for row in (one[kernel], two[kernel])]
    assert None not in found
    assert found[0] > 0.01
    assert found[1] < 0.01
    assert one[apart].value <= 0.05
    assert one[apart].oracles == two[apart].oracles
    assert two[apart].value > 0.9
    assert one[epsilon].value <= two[epsilon].value
    assert two[epsilon].value > two[epsilon].oracles.value
    assert "Of 40 examples " in two[epsilon].sentence


def test_rows_have_nine_digits_and_do_not_ask_for_the_order_of_oracles() -> None:
    made = seen(5, outputs=False)
    other = made.part(np.arange(made.group.size), np.random.default_rng(0).permutation(19))
    for one, two in zip(comparisons(made, plan()), comparisons(other, plan()), strict=True):
        numbers = (one.value, one.original, one.oracles.low, one.oracles.value, one.oracles.high)
        for value in numbers:
            assert value == float(f"{value:.9g}")
        assert one.value == pytest.approx(two.value, rel=1e-8)
        assert one.oracles.value == pytest.approx(two.oracles.value, rel=1e-8)
        assert one.p == two.p


# -- single examples -----------------------------------------------------------------------------------------------


def test_planted_examples_are_named_with_their_direction() -> None:
    made = seen(6, requested=60)
    margins = made.margins["audited"].copy()
    rows = made.rows(Group.REQUESTED)
    margins[rows[7]] += 14
    margins[rows[33]] -= 12
    found = single_examples(with_audited(made, margins), plan())
    assert found is not None
    assert {one.id: one.direction for one in found.worst[:2]} == {
        "simulated/00007": "remembered",
        "simulated/00033": "over-forgotten",
    }
    assert len(found.worst) == 10
    assert found.flagged == 2
    oracles = made.margins["oracles"][:, rows]
    z = (margins[rows] - oracles.mean(axis=0)) / oracles.std(axis=0, ddof=1)
    named = {one.id: one for one in found.worst}
    assert named["simulated/00007"].z == pytest.approx(z[7])
    assert named["simulated/00007"].p_adjusted == pytest.approx(1 / 20)
    assert named["simulated/00007"].p_rank == pytest.approx(1 / 20)
    assert found.above.value == pytest.approx(np.mean(np.abs(z) > found.limit))
    assert "exact" in found.assumes
    assert "of 19 oracles none has an example that far out" in found.resolution


def test_the_floor_of_single_examples_is_the_largest_share_of_an_oracle() -> None:
    made = seen(7, requested=60, law="t3")
    found = single_examples(made, plan())
    assert found is not None
    stack = made.stack(made.margins, "audited")[:, made.rows(Group.REQUESTED)]
    shares = []
    for i in range(len(stack)):
        others = np.delete(stack, i, axis=0)
        z = (stack[i] - others.mean(axis=0)) / others.std(axis=0, ddof=1)
        shares.append(np.mean(np.abs(z) > 3))
    assert found.floor == pytest.approx(max(shares[1:]))
    assert found.floor > 0
    assert found.p == pytest.approx((1 + sum(share >= shares[0] for share in shares[1:])) / 20)


@pytest.mark.parametrize("law", ["normal", "t3", "skewed"])
def test_a_retrained_model_flags_somebody_no_more_often_than_stated(law: Law) -> None:
    runs = 80
    flagged = 0
    for seed in range(runs):
        found = single_examples(seen(seed, law=law), plan())
        assert found is not None
        flagged += found.flagged > 0
    assert within_binomial(flagged, runs, 0.05), flagged


def test_single_examples_need_oracles_and_names() -> None:
    assert single_examples(seen(outputs=False), plan()) is None
    assert single_examples(seen(oracles=0, outputs=False), plan()) is None


# -- other classes -------------------------------------------------------------------------------------------------


def losing(made: Evidence, label: int, *, share: float) -> Evidence:
    """The audited model forgets how to answer that share of a class."""
    right = made.answers["audited"].copy()
    rows = np.flatnonzero(made.answer_label == label)
    right[rows[: round(share * rows.size)]] = 0
    return dataclasses.replace(made, answers={**made.answers, "audited": right})


def test_the_class_that_lost_is_named() -> None:
    made = losing(seen(8), 4, share=1.0)
    found = other_classes(made, plan(classes=NAMES))
    assert found is not None
    assert [group.name for group in found.groups] == list(NAMES)
    assert found.worst == "e"
    group = next(group for group in found.groups if group.name == "e")
    assert group.audited == 0
    oracles = made.answers["oracles"][:, made.answer_label == 4].mean(axis=1)
    assert group.oracles.value == pytest.approx(oracles.mean())
    assert (group.oracles.low, group.oracles.high) == pytest.approx((oracles.min(), oracles.max()))
    assert group.gap.value == pytest.approx(-oracles.mean()) == pytest.approx(-found.drop)
    assert group.p_adjusted == found.p == pytest.approx(1 / 20)
    assert found.sentence.startswith(f"Class 'e' lost most against retraining: {100 * found.drop:.1f}\u00a0points")


def test_classes_without_held_out_examples_are_left_out() -> None:
    made = losing(seen(8), 7, share=1.0)
    kept = np.isin(made.answer_label, (2, 7, 9))
    answers = {name: right[..., kept] for name, right in made.answers.items()}
    made = dataclasses.replace(made, answers=answers, answer_label=made.answer_label[kept])
    found = other_classes(made, plan(classes=NAMES))
    assert found is not None
    assert [group.name for group in found.groups] == ["c", "h", "j"]
    assert found.worst == "h"
    assert sum(group.n for group in found.groups) == kept.sum()


def test_where_no_class_lost_none_is_said_to() -> None:
    made = seen(8)
    better = dataclasses.replace(made, answers={**made.answers, "audited": np.ones_like(made.answers["audited"])})
    found = other_classes(better, plan(classes=NAMES))
    assert found is not None
    assert found.drop < 0
    assert found.sentence.startswith("No class lost held-out accuracy against retraining. The worst class of a ")
    assert found.p == 1


def test_other_classes_need_answers_and_names() -> None:
    assert other_classes(seen(), plan()) is None
    assert other_classes(seen(outputs=False), plan(classes=NAMES)) is None
    assert other_classes(seen(oracles=0, outputs=False), plan(classes=NAMES)) is None


# -- groups --------------------------------------------------------------------------------------------------------

SITES = ("north", "south", "west")


def at_sites(seed: int = 8, **changes: Any) -> Evidence:
    """Every fourth held-out example is of no site."""
    made = seen(seed, **changes)
    return dataclasses.replace(made, answer_group=np.arange(made.answer_label.size) % 4 - 1, group_names=SITES)


def test_the_group_that_lost_is_named_and_points_without_a_group_play_no_part() -> None:
    made = at_sites()
    right = made.answers["audited"].copy()
    right[made.answer_group == 1] = 0
    right[made.answer_group == -1] = 0
    made = dataclasses.replace(made, answers={**made.answers, "audited": right})
    found = by_group(made, plan(groups=SITES))
    assert found is not None
    assert [(group.name, group.n) for group in found.groups] == [("north", 75), ("south", 75), ("west", 75)]
    for number, group in enumerate(found.groups):
        at = made.answer_group == number
        oracles = made.answers["oracles"][:, at].mean(axis=1)
        assert group.audited == pytest.approx(right[at].mean())
        assert (group.oracles.low, group.oracles.high) == pytest.approx((oracles.min(), oracles.max()))
        assert group.gap.value == pytest.approx(group.audited - oracles.mean())
    assert (found.worst, found.p) == ("south", pytest.approx(1 / 20))
    assert found.sentence.startswith(
        f"Group 'south' lost most against retraining: {100 * found.drop:.1f}\u00a0points of held-out accuracy. The "
        "worst group of a retrained model loses up to "
    )


def test_groups_that_are_the_classes_make_the_table_of_classes() -> None:
    made = losing(seen(8), 4, share=0.5)
    made = dataclasses.replace(made, answer_group=made.answer_label, group_names=NAMES)
    groups, classes = by_group(made, plan(groups=NAMES)), other_classes(made, plan(classes=NAMES))
    assert groups is not None
    assert classes is not None
    assert dataclasses.replace(groups, sentence="") == dataclasses.replace(classes, sentence="")


def test_where_a_class_is_forgotten_groups_are_about_the_others() -> None:
    found = by_group(at_sites(), plan(kind="class", groups=SITES))
    assert found is not None
    assert "held-out accuracy on the other classes" in found.sentence


def test_groups_need_names_numbers_and_oracles_and_their_absence_is_flagged() -> None:
    assert by_group(at_sites(), plan()) is None
    assert by_group(seen(), plan(groups=SITES)) is None
    alone = seen(8, oracles=0, canaries=0)
    assert by_group(alone, plan(groups=SITES)) is None
    for groups, flagged in (((), False), (SITES, True)):
        flags = judge(alone, plan(tier="seconds", groups=groups)).flags
        assert ("groups not compared" in {flag.name for flag in flags}) == flagged
    assert judge(at_sites(), plan(groups=SITES)).by_group == by_group(at_sites(), plan(groups=SITES))


# -- a measured epsilon --------------------------------------------------------------------------------------------


def test_epsilon_is_measured_on_the_canaries_of_the_original() -> None:
    made = seen(9, canaries=60, trace_canaries=3.0, outputs=False)
    found = measured_epsilon(made, plan(), delta=1e-5)
    assert found is not None
    bound, correct, guesses = found
    assert guesses / 2 < correct <= guesses <= 120
    split = Split(60, 60)  # no scores are tied
    assert bound == pytest.approx(one_run_epsilon(correct, guesses, canaries=120, delta=1e-5, split=split))
    assert bound > 0.5
    # what the audited model kept of them plays no part
    kept = with_audited(made, made.margins["original"])
    assert measured_epsilon(kept, plan(), delta=1e-5) == found


def test_no_epsilon_is_measured_where_nothing_was_learned() -> None:
    runs = 60
    above = 0
    for seed in range(runs):
        found = measured_epsilon(seen(seed, canaries=40, trace_canaries=0.0, outputs=False), plan(), delta=1e-5)
        assert found is not None
        above += found[0] > 0
    assert within_binomial(above, runs, 0.05), above


@pytest.mark.parametrize("changes", [{"canaries": 0}, {"canaries": 19}, {"canaries": 0, "oracles": 0}])
def test_without_coins_no_epsilon_is_measured(changes: dict[str, int]) -> None:
    assert measured_epsilon(seen(outputs=False, **changes), plan(), delta=1e-5) is None
