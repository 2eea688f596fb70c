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
from unlearnkit.audits import audit as audits
from unlearnkit.audits import battery, controls, stress
from unlearnkit.audits.arena import Found
from unlearnkit.audits.audit import audit, save_audit
from unlearnkit.audits.case import Case, demand, prepare
from unlearnkit.audits.certificate import Scale
from unlearnkit.audits.gaps import Answers, Instruments, Looked
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.stress import Stress, ask_stress, plan_stress
from unlearnkit.audits.stress_evidence import StressEvidence, harder, stress_flags, stress_sets
from unlearnkit.audits.verify import verify_file
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
    assert rows["mislabeled"] >= WRONG
    assert rows["worst-by-loss"] <= TWINS - WRONG  # by chance 4 of 12
    assert len(rows["memorized"] & TWINS) <= 4
    labels = case_of().train.labels().numpy()
    [label] = {int(labels[row]) for row in rows["class"]}
    assert rows["class"] == set(np.flatnonzero(labels == label).tolist()) - set(HEADS.tolist())


def test_canaries_are_never_in_a_set(seen: StressEvidence) -> None:
    assert not set().union(*rows_of(seen).values()) & set(HEADS.tolist())


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
        assert one.retained == 110 - len(set(one.ids.tolist()))  # no canary among the retained ones
    gaps = {cell.set: cell.average_gap.value for cell in found.cells if cell.set in seen.hardest}
    assert found.hardest_set == max(gaps, key=gaps.__getitem__)
    rows = [int(one.id.split("/")[1]) for one in found.hardest]
    case = case_of()
    assert seen.images is not None
    np.testing.assert_array_equal(seen.images, case.train.x.numpy()[rows])
    assert [one.label for one in found.hardest] == [CLASSES[y] for y in case.train.labels().numpy()[rows]]
    assert len(found.sentences) == 6
    assert "class, other than" in found.sentences[4]


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
        "memorized, mislabeled, worst-by-loss and random sets: 9 training examples are too few.",
        "a whole class: FineTune: the forget set must not be larger than the retain set, got 9 against 0 examples; a "
        "model that keeps so little is to be trained afresh, by Retrain.",
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


def test_chance_seldom_makes_a_set_clearly_harder() -> None:
    """Sets of one law: at most one audit in twenty says so of any of four sets and four measures."""
    flagged = sum(
        bool(harder(stress_sets(stress_evidence(i), classes=CLASSES, confidence=0.95, instruments=Instruments())))
        for i in range(40)
    )
    assert flagged <= 2


def test_too_few_random_sets_hold_nothing_against_a_set() -> None:
    found = judged(stress_evidence(0, random=1, leak={"memorized": 9.0}))
    assert harder(found) == {}
    assert found.hardness == ()
    assert found.sentences[-1] == "There are too few random sets to hold these against."


# ---- What is no evidence -------------------------------------------------------------------------------------------


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    one = stress_evidence(0, random=0, found=("memorized",)).sets[0]
    short = Answers(one.oracles.margins[:, 1:], one.oracles.right[:, 1:])
    single = Answers(one.oracles.margins[:1], one.oracles.right[:1])
    infinite = Answers(np.full_like(one.oracles.margins, np.inf), one.oracles.right)
    for changes, said in (
        ({"retained": 70}, "set 'memorized': 90 points must be 20 of the set, 70 retained ones and held-out ones"),
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
    monkeypatch.setattr(audits, "PROBED", 1)
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
    assert [one.size for one in result.stress.sets] == [9, 9, 9, 30, 9, 9, 9, 9, 9]
    assert result.registration is not None
    rules = result.registration.document["stress"]
    assert set(rules["rules"]) == {"memorized", "mislabeled", "worst-by-loss", "class"}
    assert len(rules["pool"]) == 16
    assert (rules["size"], rules["random"], rules["oracles"], rules["unlearnings"]) == (9, 5, 2, 2)
    assert rules["points"] == {"examples": [9, 81, 30], **{label: [30, 60, 30] for label in "012"}}
    assert verify_file(save_audit(tmp_path / "out", result, sidecar)).passed
