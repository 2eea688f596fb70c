"""Tier `hours`: other sets than the requested one. What was planted is found, no canary is in a set, nothing is paid
twice, and every sentence follows from arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arena_samples import RECIPE, noise
from stress_samples import stress_evidence

from unlearnkit.attacks import RMIAOffline
from unlearnkit.audits import battery, controls, gathering
from unlearnkit.audits.audit import audit, save_audit
from unlearnkit.audits.case import Case, demand, prepare
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.verify import verify_file
from unlearnkit.audits.worst_case import stress
from unlearnkit.audits.worst_case import stress_evidence as stress_evidence_module
from unlearnkit.audits.worst_case.arena import Found
from unlearnkit.audits.worst_case.certificate import Scale
from unlearnkit.audits.worst_case.gaps import Answers, Instruments, Looked, measured
from unlearnkit.audits.worst_case.stress import Stress, ask_stress, plan_stress
from unlearnkit.audits.worst_case.stress_evidence import StressEvidence, harder, stress_flags, stress_sets
from unlearnkit.data import Dataset
from unlearnkit.fleet import Fleet, Progress
from unlearnkit.jobs import Sets
from unlearnkit.methods import SCRUB
from unlearnkit.models import Architecture, build, save_model
from unlearnkit.result import StressSets, UsageError
from unlearnkit.store import Store
from unlearnkit.types import Examples

CLASSES = tuple("0123456789")
TWINS = set(range(50))  # ten noise images, five times each
WRONG = {40, 41, 42, 43, 44}  # of these: a fifth copy under another label
HEADS = np.arange(100, 110)  # as canaries: noise, like the rest


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """As many sets, fewer models of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stress, "SCALE", Scale(oracles=2, unlearnings=2))
        yield


def case_of(
    deletion: dict[str, Any] | None = None, *, tier: str = "hours", method: dict[str, Any] | None = None
) -> Case:
    """Noise with twins, wrong labels and canaries; forget a fraction of it."""
    train, test = noise(120, 0, kinds=10, copies=5), noise(60, 1, prefix="test")
    y = train.labels().clone()
    y[sorted(WRONG)] = (y[sorted(WRONG)] + 1) % 10
    y[HEADS] = torch.arange(10)  # one of every class
    train = Examples(train.x, y, train.ids)
    spec = parse_spec(
        {
            "deletion": deletion or {"id": "DR-1", "forget_fraction": 0.3},
            "method": method or {"name": "FineTune", "epochs": 1},
            "audit": {"tier": tier},
        },
        folder=Path(),
    )
    recipe = dataclasses.replace(RECIPE, epochs=12)
    data = Dataset(train, test, CLASSES, "noise")
    return Case(spec, data, recipe, train, np.arange(len(train)), HEADS, np.arange(0), None)


def planned(case: Case, folder: Path, watch: Any = None) -> Stress:
    fleet = Fleet(Sets(case.train, case.dataset.test), Store(folder), processes=1, watch=watch)
    plan = plan_stress(case, demand(case), fleet, case.original)
    assert plan is not None
    return plan


def judged(seen: StressEvidence) -> StressSets:
    return stress_sets(seen, classes=CLASSES, confidence=0.95, instruments=Instruments({"RMIA": RMIAOffline()}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stress")


@pytest.fixture(scope="module")
def seen(folder: Path) -> StressEvidence:
    return ask_stress(planned(case_of(), folder))


def rows_of(seen: StressEvidence) -> dict[str, set[int]]:
    """The rows of every set, by its name."""
    return {one.name: {int(name.split("/")[1]) for name in one.ids} for one in seen.sets}


def test_what_was_planted_is_found(seen: StressEvidence) -> None:
    rows = rows_of(seen)
    assert list(rows) == ["memorized", "mislabeled", "worst-by-loss", "class", *(f"random {i}" for i in range(1, 6))]
    assert {len(found) for name, found in rows.items() if name != "class"} == {12}  # a tenth, although 33 are asked for
    kept = set(demand(case_of()).retain.tolist()) - set(HEADS.tolist())
    assert rows["mislabeled"] >= WRONG & kept
    assert rows["worst-by-loss"] <= TWINS - WRONG  # by chance 4 of 12
    assert len(rows["memorized"] & TWINS) <= 4
    labels = case_of().train.labels().numpy()
    [label] = {int(labels[row]) for row in rows["class"]}
    assert rows["class"] == set(np.flatnonzero(labels == label).tolist()) & kept


def test_no_requested_example_and_no_canary_is_in_a_set_or_a_picture(seen: StressEvidence) -> None:
    """Of the requested ones not even an answer is kept; models retrained without a set were trained on them."""
    case = case_of()
    wanted = demand(case)
    never = set(wanted.requested.tolist()) | set(HEADS.tolist())
    assert wanted.requested.size == 33
    assert not set().union(*rows_of(seen).values()) & never
    assert {one.y.size - one.ids.size - one.retained for one in seen.sets} == {60}
    assert {one.ids.size + one.retained for one in seen.sets} == {120 - len(never)}
    assert seen.images is not None
    pixels = {image.tobytes() for image in seen.images}
    copies = {case.train.x.numpy()[row].tobytes() for row in set(range(120)) - never}  # twins look alike
    assert not pixels & ({case.train.x.numpy()[row].tobytes() for row in never} - copies)
    assert "no requested one and no canary is in any" in judged(seen).sentences[0]


def test_models_retrained_without_a_set_are_trained_on_what_is_requested(folder: Path) -> None:
    case, plan = case_of(), planned(case_of(), folder)
    assert not set(case.trained[plan.natural].tolist()) & set(demand(case).forget.tolist())
    assert set(demand(case).forget.tolist()) <= set(plan.arena.retrained(plan.natural[:12], seed=1).rows.tolist())


def test_the_numbers_are_those_of_the_arrays(seen: StressEvidence) -> None:
    """UA, RA and TA by hand, and the set with the largest gap is the one that is shown."""
    found = judged(seen)
    assert (found.method, found.pool, found.oracles, found.unlearnings) == ("FineTune", 16, 2, 2)
    for one, record, cell in zip(seen.sets, found.sets, found.cells, strict=True):
        n = one.ids.size
        for name, part, sign in (("UA", slice(0, n), -1), ("RA", slice(n, n + one.retained), 1)):
            share = 100 * one.oracles.right[:, part].mean()
            assert record.retrained[name].value == pytest.approx(100 - share if sign < 0 else share)
        assert {m.name for m in cell.measures} == {"UA", "RA", "TA", "margin shift", "RMIA AUC"}
        assert one.retained == 77 - len(set(one.ids.tolist()))  # no canary among the retained ones, none requested
    gaps = {cell.set: cell.average_gap.value for cell in found.cells if cell.set in seen.hardest}
    assert found.hardest_set == max(gaps, key=gaps.__getitem__)
    rows = [int(one.id.split("/")[1]) for one in found.hardest]
    case = case_of()
    assert seen.images is not None
    np.testing.assert_array_equal(seen.images, case.train.x.numpy()[rows])
    assert [one.label for one in found.hardest] == [CLASSES[y] for y in case.train.labels().numpy()[rows]]
    assert len(found.sentences) == 6
    assert "class, other than" in found.sentences[4]
    assert found.sentences[4].endswith("trained on. One class; nothing of its kind stands beside it.")
    assert {row.set for row in found.hardness} == {"memorized", "mislabeled", "worst-by-loss"}
    assert "prediction interval over their gaps" in found.sentences[-1]


def test_the_same_again_costs_nothing_and_survives_the_sidecar(seen: StressEvidence, folder: Path) -> None:
    told: list[Progress] = []
    again = ask_stress(planned(case_of(), folder, told.append))
    assert all(one.total == one.kept for one in told)
    back = StressEvidence.from_arrays(seen.to_arrays())
    assert back is not None
    for other in (again, back):
        arrays, same = seen.to_arrays(), other.to_arrays()
        assert arrays.keys() == same.keys()
        assert all(arrays[name].tobytes() == same[name].tobytes() for name in arrays)
    assert judged(back) == judged(seen)
    assert {array.dtype for name, array in seen.to_arrays().items() if "margins" in name} == {np.dtype(np.float32)}


def test_a_class_is_never_the_requested_one(folder: Path) -> None:
    plan = planned(case_of({"id": "DR-1", "forget_class": 4}), folder)
    assert 4 not in plan.classes
    assert 4 not in plan.arena.labels[plan.natural]
    natural = np.delete(case_of().train.labels().numpy(), HEADS)
    assert plan.size == np.count_nonzero(natural == 4) < 12
    assert plan.left_out == ()


def test_a_method_for_classes_is_asked_for_classes(folder: Path) -> None:
    case = case_of({"id": "DR-1", "forget_class": 4}, method={"name": "SVDProjection"})
    case = dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, epochs=2))
    plan = planned(case, folder)
    assert plan.left_out == (
        "memorized, mislabeled, worst-by-loss and random sets: SVDProjection forgets whole classes only.",
    )
    assert "80 retrainings" not in plan.cost
    seen = ask_stress(plan)
    assert seen.sets[0].name == "class"
    assert [one.kind for one in seen.sets] == ["found"] + ["random"] * 5
    assert 4 not in {one.forget_class for one in seen.sets}
    found = judged(seen)
    assert (found.hardest_set, found.hardest, seen.images) == ("", (), None)
    assert found.left_out == plan.left_out
    assert {row.set for row in found.hardness} == {"class"}


def test_what_is_refused_is_left_out_with_its_reason(
    folder: Path, seen: StressEvidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished audit is never lost to its other sets: not to searches, requests, points or instruments."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise UsageError("not this one")

    for name in ("pool_of", "search_pool", "ask", "check_judges"):
        with monkeypatch.context() as patch:
            patch.setattr(stress, name, refuse)
            found = ask_stress(planned(case_of(), folder))
        assert (found.sets, found.faults) == ((), ("all of them: not this one.",))
        assert found.done == found.planned
        assert judged(found).left_out == found.faults
    plan = planned(case_of(), folder)
    few = dataclasses.replace(plan, arena=dataclasses.replace(plan.arena, held_out=np.arange(1)))
    found = ask_stress(few)
    assert not found.sets
    assert len(found.faults) == 9
    assert "must be 12 of the set, 65 retained ones and held-out ones, at least one, one and two" in found.faults[0]
    assert found.done["found"] == found.planned["found"]
    monkeypatch.setattr(RMIAOffline, "score", refuse)
    told = judged(seen)
    assert (told.sets, told.hardest, told.left_out) == ((), (), ("all of them: not this one.",))
    assert told.sentences == ("No other set could be asked for.",)
    assert stress_flags(told) == ()


def test_two_held_out_points_are_enough(seen: StressEvidence) -> None:
    one = seen.sets[0]
    end = one.ids.size + one.retained + 2
    short = {
        name: Answers(answers.margins[:, :end], answers.right[:, :end])
        for name, answers in {"oracles": one.oracles, **one.unlearned}.items()
    }
    two = dataclasses.replace(one, y=one.y[:end], oracles=short.pop("oracles"), unlearned=short)
    assert [m.name for m in judged(dataclasses.replace(seen, sets=(two,), hardest={})).cells[0].measures][
        -1
    ] == "RMIA AUC"


def test_a_class_without_which_nothing_is_retained_is_not_asked_for(folder: Path, blobs: Any) -> None:
    train, test = blobs(60, classes=2), blobs(20, seed=1, prefix="test", classes=2)
    case = dataclasses.replace(
        case_of({"id": "DR-1", "forget_class": 0}),
        dataset=Dataset(train, test, CLASSES, "blobs"),
        train=train,
        trained=np.arange(60),
        heads=np.arange(0),
    )
    plan = planned(case, folder)
    assert plan.size == 6
    assert plan.left_out == ("a whole class: no other example is retained beside it.",)


def test_what_fails_is_left_out_with_its_reason(folder: Path) -> None:
    seen = ask_stress(planned(case_of(method={"name": "FineTune", "epochs": 1, "lr": 1e30}), folder))
    assert not seen.sets
    found = judged(seen)
    assert len(found.left_out) == 9
    assert all("NaN or infinite" in why for why in found.left_out)
    assert found.left_out[0].startswith("memorized: ")
    assert found.sentences == ("No other set could be asked for.",)
    assert stress_flags(found) == ()


def test_a_method_that_needs_unseen_examples_gets_those_of_the_request(folder: Path) -> None:
    case = case_of(method={"name": "SCRUB", "rewind": True})
    wanted, arena = demand(case), planned(case, folder).arena
    assert wanted.unseen is not None
    job = arena.unlearned(SCRUB(rewind=True), np.arange(12), seed=1)
    np.testing.assert_array_equal(job.unseen, wanted.unseen)
    assert not set(wanted.unseen.tolist()) & set(arena.held_out.tolist())


def test_other_tiers_pay_nothing(folder: Path) -> None:
    case = case_of(tier="minutes")
    fleet = Fleet(case.sets, Store(folder), processes=1)
    assert plan_stress(case, demand(case), fleet, case.original) is None


@pytest.mark.parametrize("x", [torch.rand(120, 1, 8, 8), torch.zeros(120, 2, 8, 8, dtype=torch.uint8)])
def test_inputs_that_are_no_images_of_bytes_are_not_shown(folder: Path, x: torch.Tensor) -> None:
    case = case_of()
    other = Examples(x, case.train.y, case.train.ids)
    arena = planned(case, folder).arena
    arena = dataclasses.replace(arena, fleet=Fleet(Sets(other, case.dataset.test), Store(folder), processes=1))
    found = {"memorized": Found("", "", np.arange(12), np.zeros(12), "")}
    assert stress._images(arena, found, stress_evidence(size=12).sets[:1], {"memorized": (1.0,)}) is None


def test_nothing_can_be_asked_of_a_few_examples_of_one_class(folder: Path, blobs: Any) -> None:
    train, test = blobs(9, classes=1), blobs(9, seed=1, prefix="test")
    case = dataclasses.replace(
        case_of(), dataset=Dataset(train, test, CLASSES, "blobs"), train=train, trained=np.arange(9), heads=np.arange(0)
    )
    plan = planned(case, folder)
    assert plan.left_out == (
        "memorized, mislabeled, worst-by-loss and random sets: 9 training examples, 6 of them retained, are too few.",
        "a whole class: no other example is retained beside it.",
    )
    assert plan.cost == "other sets: none can be asked for"
    assert ask_stress(plan).sets == ()


# ---- Clearly harder ------------------------------------------------------------------------------------------------


def test_a_set_that_leaks_is_flagged_and_named() -> None:
    found = judged(stress_evidence(0, leak={"memorized": 4.0}))
    worse = harder(found)
    assert list(worse) == ["memorized"]
    assert "margin shift" in worse["memorized"]
    [flag] = stress_flags(found)
    assert flag.name == "harder sets"
    assert "SalUn is clearly farther from retraining on other sets than on any of 5 random ones: memorized" in (
        flag.sentence
    )
    assert "Clearly farther from retraining than on every random set: memorized (" in found.sentences[-1]


def test_where_all_sets_leak_alike_none_is_clearly_harder() -> None:
    seen = stress_evidence(0)
    everywhere = {one.name: 4.0 for one in seen.sets}
    assert harder(judged(stress_evidence(0, leak=everywhere))) == {}


@pytest.mark.parametrize("trace", [0.0, 4.0])
def test_chance_seldom_makes_a_set_clearly_harder(monkeypatch: pytest.MonkeyPatch, trace: float) -> None:
    """Sets of one law, one original, and a method that leaves what that one remembers of each example: at most one
    audit in twenty says so. Intervals over models alone do not know how sets differ under one original."""

    def flagged() -> int:
        return sum(bool(harder(found)) for found in null)

    null = [
        stress_sets(stress_evidence(i, trace=trace), classes=CLASSES, confidence=0.95, instruments=Instruments())
        for i in range(40)
    ]
    assert flagged() <= 2
    monkeypatch.setattr(stress_evidence_module, "prediction_reach", lambda of, confidence: 0.0)
    assert flagged() > 2 if trace else flagged() <= 2


def test_small_sets_are_never_called_harder() -> None:
    """At one example in a set chance alone would do so too often."""
    found = judged(stress_evidence(0, size=4, leak={"memorized": 9.0}))
    assert harder(found) == {}
    assert stress_flags(found) == ()
    assert found.sentences[-1] == (
        "With fewer than 5 examples in a set, chance alone sets one apart: none is called clearly harder."
    )


def test_a_class_is_held_against_nothing() -> None:
    """Retrained models answer all of it wrong, so that a method which does nothing is farthest from them there."""
    found = judged(stress_evidence(0, leak={"class": 9.0}))
    assert harder(found) == {}
    assert "class" not in {row.set for row in found.hardness}
    [said] = [sentence for sentence in found.sentences if sentence.startswith("class ")]
    assert said.endswith("found as class. One class; nothing of its kind stands beside it.")
    alone = judged(stress_evidence(0, found=("class",), leak={"class": 9.0}))
    assert harder(alone) == {}
    assert alone.sentences[-1] == "There are too few random sets of their kind to hold these against."


def test_too_few_random_sets_hold_nothing_against_a_set() -> None:
    found = judged(stress_evidence(0, random=1, leak={"memorized": 9.0}))
    assert harder(found) == {}
    assert found.hardness == ()
    assert found.sentences[-1] == "There are too few random sets of their kind to hold these against."


def test_the_margin_shift_is_ranked_among_19_oracles_and_not_among_18() -> None:
    """By hand: the first unlearning by its distance from the mean of all."""
    one = stress_evidence(0, random=0, found=("memorized",), leak={"memorized": 0.1}).sets[0]
    rng = np.random.default_rng(0)
    margins = rng.normal(1.5, 1, (19, one.y.size)).astype(np.float32)

    def p_of(models: int) -> float | None:
        looked = dataclasses.replace(one, oracles=Answers(margins[:models], margins[:models] > 0))
        [cell] = measured([looked], classes=10, confidence=0.95, instruments=Instruments()).cells
        return {m.name: m.p for m in cell.measures}["margin shift"]

    assert p_of(18) is None
    means = np.concatenate([one.unlearned["SalUn"].margins[:1], margins])[:, :20].mean(axis=1, dtype=np.float64)
    far = np.abs(means - means.mean())
    assert p_of(19) == pytest.approx((1 + np.count_nonzero(far[1:] >= far[0])) / 20)


# ---- What is no evidence -------------------------------------------------------------------------------------------


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    one = stress_evidence(0, random=0, found=("memorized",)).sets[0]
    short = Answers(one.oracles.margins[:, 1:], one.oracles.right[:, 1:])
    single = Answers(one.oracles.margins[:1], one.oracles.right[:1])
    infinite = Answers(np.full_like(one.oracles.margins, np.inf), one.oracles.right)
    for changes, said in (
        (
            {"retained": 69},
            "90 points must be 20 of the set, 69 retained ones and held-out ones, at least one, one and",
        ),
        ({"oracles": short}, r"answers of oracles must be \[model, 90 points\], got \(5, 89\)"),
        ({"oracles": single}, "at least two oracles are needed, got 1"),
        ({"unlearned": {"SalUn": infinite}}, "margins of SalUn must be finite"),
    ):
        with pytest.raises(UsageError, match=said):
            dataclasses.replace(one, **changes)
    assert isinstance(one, Looked)
    with pytest.raises(UsageError, match="every set must have a name of its own, got memorized, memorized"):
        dataclasses.replace(stress_evidence(0), sets=(one, one))
    with pytest.raises(UsageError, match="scores of a set that is not there, 'nobody'"):
        dataclasses.replace(stress_evidence(0), hardest={"nobody": (1.0,)})


# ---- The whole way -------------------------------------------------------------------------------------------------

DATA = """
import numpy as np
import torch
from unlearnkit.types import Examples

def examples(n, seed, prefix):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.integers(0, 90, (n, 1, 8, 8))
    for row, label in enumerate(y):
        x[row, 0, 2 * label : 2 * label + 3] += 60
    ids = np.array([f"{prefix}/{row}" for row in range(n)])
    return Examples(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y), ids)

def blobs():
    return examples(90, 0, "train"), examples(30, 1, "test")
"""


def test_the_audit_registers_asks_judges_and_verifies(
    tmp_path: Path, write_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module("stress_data", DATA)
    monkeypatch.setitem(battery.ORACLES, "hours", 8)
    monkeypatch.setattr(gathering, "PROBED", 1)
    monkeypatch.setattr(controls, "SHUFFLES", 20)
    body: dict[str, Any] = {
        "data": {"source": "stress_data:blobs"},
        "model": {"architecture": "mlp"},
        "recipe": {"epochs": 1, "batch_size": 32},
        "deletion": {"id": "DR-1", "forget_fraction": 0.1},
        "method": {"name": "FineTune", "epochs": 1},
        "audit": {"tier": "hours", "tolerances": {"auc": 0.3}},
    }
    architecture = Architecture("mlp", 3, (1, 8, 8))  # the original is handed in: it is unlearned, the rest is trained
    save_model(tmp_path / "model.safetensors", build(architecture, seed=0), architecture)
    body["model"]["weights"] = "model.safetensors"
    spec = parse_spec(body, folder=tmp_path)
    said: list[str] = []
    case = prepare(spec)
    fleet = Fleet(case.sets, Store(tmp_path / "store"), processes=1)
    result, sidecar = audit(spec, fleet, command="unlearnkit audit", case=case, say=said.append)
    assert said == [
        "9 retrainings, 8 further originals and 8 unlearnings of them",
        "other sets: 16 trainings on random halves, then 18 retrainings and 18 unlearnings for 4 found and 5 random "
        "sets",
    ]
    [flag] = [flag for flag in result.flags if flag.name == "SWAP test left out"]
    assert flag.sentence == "It needs 20 requested examples that are no canaries, and here are 9."
    assert result.stress is not None
    assert [one.size for one in result.stress.sets] == [
        9,
        9,
        9,
        26,
        9,
        9,
        9,
        9,
        9,
    ]  # of 30 of the class 4 are requested
    assert result.registration is not None
    rules = result.registration.document["stress"]
    assert set(rules["rules"]) == {"memorized", "mislabeled", "worst-by-loss", "class"}
    assert len(rules["pool"]) == 16
    assert (rules["size"], rules["random"], rules["oracles"], rules["unlearnings"]) == (9, 5, 2, 2)
    # Of 90 retained examples 9 are requested and in no set: 2 of class 0, 4 of class 1, 3 of class 2.
    assert rules["points"] == {"examples": [9, 72, 30], "0": [28, 53, 30], "1": [26, 55, 30], "2": [27, 54, 30]}
    assert verify_file(save_audit(tmp_path / "out", result, sidecar)).passed
