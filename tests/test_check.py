"""check: quiet where nothing came back, loud where something did, and honest where it cannot tell."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from audit_samples import within_binomial
from ledger_samples import SALT, reference, step, what, written
from torch import nn

from unlearnkit.audits.audit import audit, fleet_for, save_audit
from unlearnkit.audits.canaries import Manifest, draw, plant
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.designs import Tolerances
from unlearnkit.audits.ledger import formats
from unlearnkit.audits.ledger.check import (
    NORMAL,
    Check,
    Checked,
    Data,
    _Asked,
    _Family,
    _judged,
    _Number,
    _ranked,
    _student,
    check,
    check_files,
    compare,
    open_model,
)
from unlearnkit.audits.ledger.entries import Coins, Ledger, Reading, Source, Statistic, append, parse, read
from unlearnkit.audits.ledger.rechecks import RECHECKS, RELEARNED, SHIPPED, margins_of, statistics
from unlearnkit.audits.ledger.recorded import entry_of
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.subjects import models_of
from unlearnkit.data import split
from unlearnkit.models import Architecture, build, load_model, save_model
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.types import Examples


@dataclass(frozen=True)
class Shipped:
    """What a team has in its repository after two audits of one model: of a class, and of single examples."""

    folder: Path
    ledger: Path
    original: Path
    unlearned: Path
    without_some: Path  # unlearned the other deletion
    oracles: list[nn.Module]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, blobs) -> Iterator[Shipped]:
    folder = tmp_path_factory.mktemp("repository")
    train, test = blobs(300, seed=1), blobs(120, seed=2, prefix="test")
    arrays = {"train_images": train.x, "train_labels": train.y, "test_images": test.x, "test_labels": test.y}
    np.savez(folder / "blobs.npz", **{name: _array(array) for name, array in arrays.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("joblib.cpu_count", lambda: 1)  # models this small are made faster than a process starts
        base = {
            "data": {"source": "npz:blobs.npz"},
            "model": {"architecture": "mlp"},
            "recipe": {"epochs": 3},
            "canaries": {"count": 60, "seed": 0},
            "method": {"name": "Retrain"},
            "audit": {"oracles": 19, "tolerances": {"auc": 0.3}},
        }
        store, ledger = Store(folder / "store"), folder / "deletions.jsonl"
        for name, asked in (("DR-class", {"forget_class": 2}), ("DR-some", {"forget_fraction": 0.1})):
            spec = parse_spec({**base, "deletion": {"id": name, **asked}}, folder=folder)
            case = prepare(spec)
            fleet = fleet_for(case, store)
            result, sidecar = audit(spec, fleet, command="unlearnkit audit", case=case)
            # The verdict on so small a model is not the point here, and does not matter to a re-check.
            path = save_audit(folder / name, result, sidecar)
            append(ledger, entry_of(path, salt=SALT, folder=folder, store=store))
            models = models_of(case, demand(case), store)
            if name == "DR-some":
                save_model(folder / "some.safetensors", fleet.read(models.audited), case.recipe.architecture)
            else:
                save_model(folder / "original.safetensors", fleet.read(models.original), case.recipe.architecture)
                save_model(folder / "unlearned.safetensors", fleet.read(models.audited), case.recipe.architecture)
                oracles: list[nn.Module] = [fleet.read(job) for job in models.oracles]
                assert case.manifest is not None
                case.manifest.save(folder / "canaries.json")
        weights = [folder / f"{name}.safetensors" for name in ("original", "unlearned", "some")]
        yield Shipped(folder, ledger, *weights, oracles)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)[..., 0] if tensor.ndim == 4 else tensor.numpy()[:, None]


def of(checked: Check, name: str) -> Checked:
    return next(one for one in checked.deletions if one.id == name)


def test_an_entry_holds_what_a_re_check_needs_and_no_data(shipped: Shipped) -> None:
    entry = read(shipped.ledger).entries[0]
    found = entry.reference
    assert found is not None
    assert entry.what is not None
    assert (entry.what.kind, entry.what.forget_class, entry.what.ids) == ("class", 2, ())
    assert {(r.treatment, r.group) for r in found.readings} == {
        *((treatment, group) for treatment in RECHECKS for group in ("forgotten", "unseen")),
        (RELEARNED, "unseen"),
    }
    assert found.missing == {}
    assert {len(values) for r in found.readings for values in r.oracles.values()} == {19}
    text = shipped.ledger.read_text()
    assert "train/" not in text
    assert "test/" not in text
    assert len(text) < 60_000


def test_what_is_recorded_of_an_oracle_is_what_it_says_when_it_is_asked_again(shipped: Shipped) -> None:
    """The slow way: every oracle, treated and observed by hand, on points found by name."""
    entry = read(shipped.ledger).entries[0]
    assert entry.reference is not None
    data = Data(folder=shipped.folder)
    for points in entry.reference.points:
        examples = data.find(entry.reference.data, points, SALT)
        assert isinstance(examples, Examples)
        for reading in entry.reference.readings:
            if reading.treatment == RELEARNED or reading.group != points.group:
                continue
            said = [statistics(margins_of(RECHECKS[reading.treatment](o), examples)) for o in shipped.oracles[:3]]
            for name, values in reading.oracles.items():
                assert values[:3] == pytest.approx([one[name] for one in said], rel=1e-4)


def test_the_unlearned_model_passes_the_original_fails(shipped: Shipped) -> None:
    good = check_files(shipped.ledger, shipped.unlearned)
    assert of(good, "DR-class").state == "PASS"
    assert "checks. It would have noticed" in of(good, "DR-class").sentence
    bad = check_files(shipped.ledger, shipped.original)
    assert bad.word == "FAIL"
    assert bad.deletions[0].id == "DR-class"  # worst first
    one = of(bad, "DR-class")
    assert one.state == "FAIL"
    assert "Right answers on forgotten examples: 100.0\u00a0%, retrained models 0.0\u00a0%" in one.sentence
    assert {row.treatment for row in one.rows if row.state == "FAIL"} >= set(RECHECKS)
    assert [row.state for row in one.rows] == sorted(
        (row.state for row in one.rows), key=["FAIL", "INCONCLUSIVE", "NOT CHECKED", "PASS"].index
    )


def test_an_oracle_that_was_held_out_passes(shipped: Shipped) -> None:
    """Retrained, and no reference: of the class the numbers of this model are exchangeable with the recorded ones."""
    ledger = Ledger(read(shipped.ledger).entries[:1])
    assert check(ledger, shipped.oracles[-1], Data(folder=shipped.folder)).word == "PASS"


@pytest.mark.parametrize(("before", "state"), [(0.2, "INCONCLUSIVE"), (9.0, "PASS")])
def test_a_check_that_would_not_notice_the_original_is_blind(before: float, state: str) -> None:
    """Where the model before the deletion stood among the retrained ones, a pass says nothing."""
    [number] = _numbers(np.random.default_rng(6).normal(size=(40, 1)))
    number = dataclasses.replace(number, reading=dataclasses.replace(number.reading, original={"margin": before}))
    for exact_ranks in (True, False):
        families = [_Family((number,), ())] * (1 if exact_ranks else 9)
        asked = [_Asked(f"DR-{j}", j + 1, 0.05, exact=False) for j in range(len(families))]
        one = _judged(asked, families, [(None, None)] * len(families), "m").deletions[0]
        assert one.state == state
        assert ("this check is blind" in one.sentence) == (state != "PASS")


def test_what_a_check_says_it_would_notice_it_notices() -> None:
    """One oracle that differs by one example, once rounded, is what any number of the family has to beat."""

    def number(treatment: str, oracles: list[float], value: float, original: float | None) -> _Number:
        before: dict[Statistic, float] | None = None if original is None else {"accuracy": original}
        reading = Reading(treatment, "unseen", 1.0, {"accuracy": tuple(oracles)}, before)
        return _Number(reading, "accuracy", value, 0.05, 0.5 / 200)

    quiet, noisy = [0.005, *[0.0] * 18], [*[0.0] * 18, 0.005]

    def judged(value: float, original: float) -> Checked:
        family = _Family((number(SHIPPED, quiet, value, original), number("4 bits", noisy, 0.0, None)), ())
        return _judged([_Asked("DR-1", 1, 0.05, exact=False)], [family], [(None, None)], "m").deletions[0]

    one = judged(0.0, 1.0)
    assert one.state == "PASS"
    [row] = [row for row in one.rows if row.treatment == SHIPPED]
    assert row.mde is not None
    assert judged(row.mde + 0.01, 1.0).state == "FAIL"
    missed = 0.1  # beyond the tolerance by more than forty standard deviations of that number alone
    assert missed < row.mde
    assert judged(missed, 1.0).state == "PASS"
    assert "this check is blind" in judged(0.0, missed).sentence


def test_a_deletion_of_examples_passes_on_the_model_that_it_was_audited_on(shipped: Shipped) -> None:
    assert check_files(shipped.ledger, shipped.without_some, ids=["DR-some"]).word == "PASS"


def test_lower_than_retraining_is_no_failure_where_more_was_forgotten_since(shipped: Shipped) -> None:
    """Among the examples are some of the class that was forgotten by another request."""
    one = of(check_files(shipped.ledger, shipped.unlearned), "DR-some")
    assert one.state == "INCONCLUSIVE"
    assert "Retraining did not leave them that low, but more was forgotten since; audit it anew." in one.sentence
    [alone] = check_files(shipped.ledger, shipped.unlearned, ids=["DR-some"]).deletions
    assert alone.state == "FAIL"
    assert "Retraining does not leave them that low." in alone.sentence


def test_a_model_that_only_hides_the_class_is_found_by_relearning(shipped: Shipped) -> None:
    """The class is masked by one bias: its answers are gone, its features are not."""
    hidden = copy.deepcopy(load_model(shipped.original, Architecture("mlp", 3, (1, 8, 8))))
    ledger = Ledger(read(shipped.ledger).entries[:1])
    examples = _forgotten(shipped, ledger)
    level = np.mean([statistics(margins_of(oracle, examples))["margin"] for oracle in shipped.oracles])
    with torch.no_grad():
        assert isinstance(hidden.head, nn.Linear)
        hidden.head.bias[2] -= statistics(margins_of(hidden, examples))["margin"] - float(level)
    one = check(ledger, hidden, Data(folder=shipped.folder)).deletions[0]
    rows = [row for row in one.rows if row.value is not None]
    assert {row.state for row in rows if row.treatment == SHIPPED} == {"PASS"}
    worst = rows[0]
    assert (worst.treatment, worst.p) == (RELEARNED, 1 / 20)  # faster than every retrained model
    assert worst.value is not None
    assert worst.oracles is not None
    assert worst.value > worst.oracles[2]


def _forgotten(shipped: Shipped, ledger: Ledger) -> Examples:
    found = ledger.entries[0].reference
    assert found is not None
    examples = Data(folder=shipped.folder).find(found.data, found.points[0], SALT)
    assert isinstance(examples, Examples)
    return examples


def test_canaries_are_held_to_their_coins(shipped: Shipped) -> None:
    manifest = shipped.folder / "canaries.json"
    bad = of(check_files(shipped.ledger, shipped.original, canaries=[manifest]), "DR-some")
    [row] = [row for row in bad.rows if row.treatment == "canaries"]
    assert row.value is not None
    assert row.sentence.startswith("Deleted canaries are told from never-used ones with AUC ")
    sealed = of(check_files(shipped.ledger, shipped.original), "DR-some")
    [row] = [row for row in sealed.rows if row.treatment == "canaries"]
    assert (row.state, row.value) == ("NOT CHECKED", None)
    assert "open their manifest with --canaries" in row.sentence


def test_canaries_that_are_remembered_fail() -> None:
    """Planted: a model that knows the coins of fifty canaries."""
    rng = np.random.default_rng(0)
    manifest = Manifest(
        "mislabeled",
        tuple(f"digits/{row:04d}" for row in range(100)),
        (1,) * 100,
        tuple(rng.permutation([True, False] * 50).tolist()),
        "00",
    )
    entry = step(
        "DR-1",
        "audited",
        what=what(kind="examples", forget_class=None),
        reference=reference(readings=(), missing={}),
        canaries=Coins(50, 50, manifest.commitment),
    )
    ledger = Ledger((entry.sealed(1, "0" * 64),))
    heads = dict(zip(manifest.ids, manifest.heads, strict=True))
    data = Data()
    known = data.dataset(Source("digits", None, 0.2, 0)).train
    keep = [row for row, name in enumerate(known.ids.tolist()) if heads.get(name)]
    table = {known.x[row].numpy().tobytes() for row in keep}

    class Remembers(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hit = torch.tensor([row.numpy().tobytes() in table for row in x])
            return torch.nn.functional.one_hot(hit.long(), 10).float()

    lacking = sum(name not in set(known.ids.tolist()) for name in manifest.ids)
    if lacking:
        [row] = [
            r
            for r in check(ledger, Remembers(), data, manifests=[manifest]).deletions[0].rows
            if r.treatment == "canaries"
        ]
        assert row.sentence == f"Not checked, canaries: {lacking} of 100 are not in the data."
    ids = tuple(known.ids[:100].tolist())
    manifest = dataclasses.replace(manifest, ids=ids)
    table |= {known.x[row].numpy().tobytes() for row in range(100) if manifest.heads[row]}
    table -= {known.x[row].numpy().tobytes() for row in range(100) if not manifest.heads[row]}
    entry = dataclasses.replace(entry, canaries=Coins(50, 50, manifest.commitment))
    found = check(Ledger((entry.sealed(1, "0" * 64),)), Remembers(), data, manifests=[manifest])
    assert found.word == "FAIL"
    assert found.deletions[0].sentence.startswith("Deleted canaries are told from never-used ones with AUC 1.00")


def test_canaries_whose_inputs_were_changed_are_asked_with_those_inputs() -> None:
    """Planted: a model that knows the heads as they were trained on, patch and all, and no plain image."""
    train = Data().dataset(Source("digits", None, 0.2, 0)).train
    manifest = draw(train, count=100, classes=10, seed=0, kind="patch")
    planted = plant(train, manifest)
    table = {planted.train.x[row].numpy().tobytes() for row in planted.heads}

    class Remembers(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hit = torch.tensor([row.numpy().tobytes() in table for row in x])
            return nn.functional.one_hot(hit.long() * manifest.labels[0], 10).float()

    def checked(manifest: Manifest) -> Checked:
        entry = step(
            "DR-1",
            "audited",
            what=what(kind="examples", forget_class=None),
            reference=reference(readings=(), missing={}),
            canaries=Coins(50, 50, manifest.commitment),
        )
        ledger = Ledger((entry.sealed(1, "0" * 64),))
        return check(ledger, Remembers(), Data(), manifests=[manifest]).deletions[0]

    assert checked(manifest).sentence.startswith("Deleted canaries are told from never-used ones with AUC 1.00")
    assert manifest.treatment is not None
    elsewhere = dataclasses.replace(manifest.treatment, given=True)
    [row] = [row for row in checked(dataclasses.replace(manifest, treatment=elsewhere)).rows if row.statistic == "AUC"]
    assert row.sentence == "Not checked, canaries: of kind patch, and their inputs came from another set."


def test_a_manifest_of_another_model_or_a_changed_one_is_refused(shipped: Shipped, tmp_path: Path) -> None:
    body = json.loads((shipped.folder / "canaries.json").read_text())
    body["heads"][0] = not body["heads"][0]
    for commitment in (body["commitment"], 5, None):
        (tmp_path / "changed.json").write_text(json.dumps({**body, "commitment": commitment}))
        with pytest.raises(UsageError, match="the manifest does not open its commitment"):
            check_files(shipped.ledger, shipped.unlearned, canaries=[tmp_path / "changed.json"])
    Manifest("mislabeled", ("a", "b"), (0, 1), (True, False), "00").save(tmp_path / "other.json")
    with pytest.raises(
        UsageError, match=r"a manifest with commitment \w{12}… was given, but no deletion of the ledger"
    ):
        check_files(shipped.ledger, shipped.unlearned, canaries=[tmp_path / "other.json"])


def test_data_that_lost_the_forgotten_are_checked_on_held_out_examples(shipped: Shipped, tmp_path: Path) -> None:
    """As it should be after a deletion: the examples are gone; held-out ones of the class may still be there."""
    with np.load(shipped.folder / "blobs.npz") as held:
        arrays = dict(held)
    arrays["train_images"], arrays["train_labels"] = arrays["train_images"][:2], arrays["train_labels"][:2]
    np.savez(tmp_path / "left.npz", **arrays)
    one = of(check_files(shipped.ledger, shipped.original, data=f"npz:{tmp_path / 'left.npz'}"), "DR-class")
    assert one.state == "FAIL"
    said = [row.sentence for row in one.rows if row.state == "NOT CHECKED"]
    assert any(re.match(r"Not checked: \d+ of \d+ forgotten examples are not in the data\.", line) for line in said)
    other = of(check_files(shipped.ledger, shipped.original, data=f"npz:{tmp_path / 'left.npz'}"), "DR-some")
    assert other.state == "INCONCLUSIVE"
    assert other.sentence.startswith("Nothing could be checked.")


def test_other_examples_under_the_same_names_are_invalid(shipped: Shipped, tmp_path: Path) -> None:
    with np.load(shipped.folder / "blobs.npz") as held:
        arrays = dict(held)
    arrays["train_images"] = arrays["train_images"][::-1]
    np.savez(tmp_path / "other.npz", **arrays)
    found = check_files(shipped.ledger, shipped.original, data=f"npz:{tmp_path / 'other.npz'}")
    assert found.word == "INVALID"
    assert (
        "are not the ones that were audited: inputs or labels differ under the same ids" in found.deletions[0].sentence
    )


@pytest.mark.parametrize(("classes", "shape"), [(4, (1, 8, 8)), (3, (3, 8, 8))])
def test_a_model_of_other_classes_or_inputs_is_refused(
    shipped: Shipped, tmp_path: Path, classes: int, shape: tuple[int, ...]
) -> None:
    other = Architecture("mlp", classes, shape)
    save_model(tmp_path / "m.safetensors", build(other, seed=0), other)
    said = (
        rf"takes inputs of shape \({shape[0]}, 8, 8\) and tells {classes} classes apart, but 'DR-class' was audited on"
    )
    with pytest.raises(UsageError, match=said):
        check_files(shipped.ledger, tmp_path / "m.safetensors")


def test_a_model_of_another_architecture_is_refused_instead_of_misjudged(shipped: Shipped, tmp_path: Path) -> None:
    other = Architecture("small-cnn", 3, (1, 8, 8))
    save_model(tmp_path / "m.safetensors", build(other, seed=0), other)
    said = r"is a 'small-cnn', but .* retrained 'mlp' models, .*; audit the deletion anew"
    with pytest.raises(UsageError, match=said):
        check_files(shipped.ledger, tmp_path / "m.safetensors")


def test_a_missing_model_and_a_missing_ledger_are_refused(shipped: Shipped, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such weights file; name the model that is about to ship"):
        check_files(shipped.ledger, tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="no such ledger"):
        check_files(tmp_path / "none.jsonl", shipped.unlearned)


def test_an_empty_ledger_and_unknown_deletions_are_never_a_pass(shipped: Shipped, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="empty: is empty: it holds no deletion, so there is nothing"):
        check_files(tmp_path / "empty", shipped.unlearned)
    found = check(Ledger(), None, Data())
    assert (found.word, found.sentence) == ("INCONCLUSIVE", "The ledger holds no deletion.")
    with pytest.raises(UsageError, match="knows no deletion 'DR-clas'; did you mean 'DR-class'"):
        check_files(shipped.ledger, shipped.unlearned, ids=["DR-some", "DR-clas"])


def test_the_head_that_was_kept_tells_a_ledger_whose_end_was_cut_off(shipped: Shipped, tmp_path: Path) -> None:
    lines, head = shipped.ledger.read_bytes().splitlines(keepends=True), read(shipped.ledger).head
    (tmp_path / "cut").write_bytes(b"".join(lines[:1]))
    with pytest.raises(UsageError, match="cut: no line has the hash kept as --head: lines were cut off, or all was wr"):
        check_files(tmp_path / "cut", shipped.unlearned, head=head)
    (tmp_path / "cut").write_bytes(b"")  # said before that it is empty
    with pytest.raises(UsageError, match="cut: no line has the hash kept as --head"):
        check_files(tmp_path / "cut", shipped.unlearned, head=head)
    assert check_files(shipped.ledger, shipped.without_some, ids=["DR-some"], head=head).word == "PASS"
    for wrong in ("", head[:12]):
        with pytest.raises(UsageError, match=f"head: must be the 64 hexadecimal digits .*, got '{wrong}'"):
            check_files(shipped.ledger, shipped.unlearned, head=wrong)


def test_open_requests_do_not_count(shipped: Shipped, tmp_path: Path) -> None:
    path = written(tmp_path / "l", ("DR-9", "received"))
    found = check_files(path, shipped.unlearned)
    assert (found.word, found.sentence) == (
        "INCONCLUSIVE",
        "No deletion of the ledger was audited. 1 without an audit.",
    )
    assert found.deletions[0].sentence == "The ledger says 'received': there is no audit to hold the model against."


def test_a_deletion_that_was_opened_again_is_no_pass(shipped: Shipped, tmp_path: Path) -> None:
    path = tmp_path / "deletions.jsonl"
    path.write_bytes(shipped.ledger.read_bytes())
    append(path, step("DR-some", "re-opened"))
    for done, since in (("re-opened", ""), ("unlearned", " and is unlearned since")):
        if done == "unlearned":
            append(path, step("DR-some", done))
        found = check_files(path, shipped.unlearned, data=f"npz:{shipped.folder / 'blobs.npz'}")
        assert (found.word, of(found, "DR-class").state) == ("INCONCLUSIVE", "PASS")
        assert of(found, "DR-some").sentence == (f"It was re-opened{since}: add the audit of what was done about it.")


def test_an_entry_from_evidence_only_says_what_it_cannot_check(shipped: Shipped, tmp_path: Path) -> None:
    entry = entry_of(shipped.folder / "DR-class" / "audit.json", salt=SALT, with_data=False)
    assert entry.reference is not None
    assert [(r.treatment, r.group) for r in entry.reference.readings] == [(SHIPPED, "forgotten")]
    append(tmp_path / "l", entry)
    (tmp_path / "blobs.npz").symlink_to(shipped.folder / "blobs.npz")
    one = check_files(tmp_path / "l", shipped.original).deletions[0]
    assert one.state == "FAIL"
    sentence = "Not checked, relearned: the entry was written from the evidence only, without the data."
    assert sentence in [row.sentence for row in one.rows]


def test_an_entry_without_the_store_says_so(shipped: Shipped, tmp_path: Path) -> None:
    path = shipped.folder / "DR-class" / "audit.json"
    entry = entry_of(path, salt=SALT, folder=shipped.folder, store=Store(tmp_path / "empty"))
    assert entry.reference is not None
    assert entry.reference.missing[RELEARNED] == "19 of 19 oracles were not in the store when the entry was written"


def test_an_audit_of_other_data_or_evidence_is_not_recorded(shipped: Shipped, tmp_path: Path) -> None:
    for name in ("audit.json", "evidence.safetensors"):
        (tmp_path / name).write_bytes((shipped.folder / "DR-class" / name).read_bytes())
    with np.load(shipped.folder / "blobs.npz") as held:
        arrays = dict(held)
    arrays["train_labels"] = arrays["train_labels"][::-1]
    np.savez(tmp_path / "blobs.npz", **arrays)
    with pytest.raises(UsageError, match="holds other training data than the audit saw; name the folder of its spec"):
        entry_of(tmp_path / "audit.json", salt=SALT, folder=tmp_path)
    (tmp_path / "evidence.safetensors").write_bytes(b"other")
    with pytest.raises(UsageError, match="is not the one that the result names"):
        entry_of(tmp_path / "audit.json", salt=SALT, folder=tmp_path)
    with pytest.raises(UsageError, match="no such file; name the audit"):
        entry_of(tmp_path / "none.json", salt=SALT)


def _numbers(values: np.ndarray) -> tuple[_Number, ...]:
    """[1 + oracle, statistic] margins in σ, row 0 the model."""
    oracles = {"margin": tuple(values[1:, 0].tolist())}
    return tuple(
        _Number(
            Reading(f"t{j}", "forgotten", 1.0, {"margin": tuple(values[1:, j].tolist())}, None),
            "margin",
            float(values[0, j]),
            1.0,
            1e-6,
        )
        for j in range(values.shape[1])
        if oracles
    )


@pytest.mark.parametrize(("deletions", "oracles", "runs"), [(1, 19, 60), (2, 39, 20), (5, 19, 12)])
def test_false_alarms_over_a_ledger_stay_below_the_level(deletions: int, oracles: int, runs: int) -> None:
    """Exchangeable nulls, correlated within a deletion; nothing is granted: the level is all there is."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(runs):
        families = []
        for _ in range(deletions):
            common = rng.normal(size=(oracles + 1, 1))
            families.append(_Family(_numbers(common + rng.normal(size=(oracles + 1, 4))), ()))
        asked = [_Asked(f"DR-{j}", j + 1, 0.05, exact=True) for j in range(deletions)]
        alarms += _judged(asked, families, [(None, None)] * deletions, "m").word == "FAIL"
    assert within_binomial(alarms, runs, 0.05)


def test_one_remembered_deletion_of_twenty_is_found_and_named() -> None:
    rng = np.random.default_rng(1)
    families = []
    for j in range(20):
        values = rng.normal(size=(20, 4))
        values[0] += 14.0 * (j == 7)
        families.append(_Family(_numbers(values), ()))
    asked = [_Asked(f"DR-{j}", j + 1, 0.05, exact=False) for j in range(20)]
    found = _judged(asked, families, [(None, None)] * 20, "m")
    assert [one.id for one in found.deletions if one.state == "FAIL"] == ["DR-7"]
    assert found.deletions[0].id == "DR-7"
    assert found.deletions[0].rows[0].decided_by == NORMAL  # 19 oracles can never reject by ranks over twenty deletions
    assert found.sentence == "1 of 20 deletions fails."


def test_over_forgetting_fails_too_and_is_called_by_its_name() -> None:
    values = np.random.default_rng(2).normal(size=(20, 1))
    values[0] = -30.0
    [one] = _judged(
        [_Asked("DR-1", 1, 0.05, exact=False)], [_Family(_numbers(values), ())], [(None, None)], "m"
    ).deletions
    assert one.state == "FAIL"
    assert one.sentence.endswith("Retraining does not leave them that low.")


def test_what_stands_out_alone_but_not_in_the_ledger_is_inconclusive() -> None:
    rng = np.random.default_rng(3)
    families = []
    for j in range(3):
        values = np.concatenate([[[3.7 * (j == 0)]], np.sort(rng.normal(size=(19, 1)))])
        families.append(_Family(_numbers(values), ()))
    found = _judged([_Asked(f"DR-{j}", j + 1, 0.05, exact=False) for j in range(3)], families, [(None, None)] * 3, "m")
    assert found.word == "INCONCLUSIVE"
    assert "It stands out by itself, but not when the whole ledger is counted" in found.deletions[0].sentence


def test_ranks_and_students_t_agree_on_what_is_plain() -> None:
    values = np.random.default_rng(4).normal(size=(40, 3))
    values[0, 1] = 12.0
    numbers = _numbers(values)
    raw, decided = _ranked(numbers, False)
    assert (raw[1], decided[1]) == (1 / 40, 1 / 40)
    assert _student(numbers, False)[1] < 1e-9
    assert _student(numbers, False)[0] > 0.5 < decided[0]


def test_compare_needs_no_ledger(shipped: Shipped, blobs) -> None:
    train, test = blobs(300, seed=1), blobs(120, seed=2, prefix="test")
    splits = split(train, test, np.flatnonzero(train.y == 2), forget_class=2)
    original = load_model(shipped.original, Architecture("mlp", 3, (1, 8, 8)))
    good = compare(shipped.oracles[-1], splits, shipped.oracles[:-1], original=original)
    assert good.state == "PASS"
    bad = compare(original, splits, shipped.oracles[:-1], treatments=[SHIPPED])
    assert bad.state == "FAIL"
    wide = Tolerances(class_margin=99.0, recognition=0.999)
    assert compare(original, splits, shipped.oracles[:-1], tolerances=wide, treatments=[SHIPPED]).state == "FAIL"
    with pytest.raises(UsageError, match="needs at least 2 retrained models to compare with, got 1"):
        compare(original, splits, shipped.oracles[:1])
    with pytest.raises(UsageError, match="unknown treatment '8 bit'; did you mean '8 bits'"):
        compare(original, splits, shipped.oracles, treatments=["8 bit"])


def test_a_file_without_a_word_about_itself_is_read_by_the_ledgers_architecture(
    shipped: Shipped, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file(build(Architecture("mlp", 3, (1, 8, 8)), seed=0).state_dict(), tmp_path / "plain.safetensors")
    assert open_model(tmp_path / "plain.safetensors", read(shipped.ledger)) is not None
    with pytest.raises(UsageError, match="do not fit 'small-cnn'"):
        open_model(tmp_path / "plain.safetensors", read(shipped.ledger), architecture="small-cnn")


HOSTILE = "=cmd|'/C calc'!A0 <script>alert(1)</script> ](http://x) `\"&]]> \x1b[31m\n::error::| @all www.x.org"


@pytest.fixture
def hostile(shipped: Shipped) -> Check:
    """The failing check, of a deletion with a name as bad as can be."""
    entry = dataclasses.replace(read(shipped.ledger).entries[0], id=HOSTILE).sealed(1, "0" * 64)
    assert parse(entry.line().encode() + b"\n")[1] == ()
    model = load_model(shipped.original, Architecture("mlp", 3, (1, 8, 8)))
    return check(Ledger((entry,)), model, Data(folder=shipped.folder), name="m|<b>.safetensors")


def test_junit_keeps_hostile_names_as_text(hostile: Check) -> None:
    [suite] = ElementTree.fromstring(formats.junit(hostile))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    [case] = suite
    assert case.get("name") == HOSTILE.replace("\x1b", "\\x1b").replace("\n", "\\n")
    [failure] = case
    assert (failure.tag, failure.get("type")) == ("failure", "FAIL")
    assert failure.text is not None
    assert "FAIL: Right answers on forgotten examples" in failure.text


def test_markdown_keeps_hostile_names_as_text(hostile: Check) -> None:
    text = formats.summary(hostile)
    assert text.startswith("### ❌ unlearnkit check: FAIL\n\n1 of 1 deletion fails. Model: m\\|\\<b\\>.safetensors.\n")
    assert "\x1b" not in text
    for row in [line for line in text.splitlines() if line.startswith("|")]:
        assert len(re.findall(r"(?<!\\)\|", row)) in (4, 5)  # no cell ends early
    unescaped = re.sub(r"\\[!-/:-@\[-`{-~]", "", text)
    assert not set("<>`[]@&$") & set(unescaped)
    assert "www.x" not in unescaped
    assert "\n::" not in text


def test_sarif_names_the_line_and_escapes_links(hostile: Check) -> None:
    body = json.loads(formats.sarif(hostile, Path("audits/my ledger.jsonl")))
    assert (body["version"], body["$schema"]) == ("2.1.0", "https://json.schemastore.org/sarif-2.1.0.json")
    [run] = body["runs"]
    [rule] = run["tool"]["driver"]["rules"]
    [result] = run["results"]
    assert (result["ruleId"], rule["id"], result["ruleIndex"], result["level"]) == (
        "not-forgotten",
        "not-forgotten",
        0,
        "error",
    )
    [place] = result["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "audits/my%20ledger.jsonl"},
        "region": {"startLine": 1},
    }
    assert "\\](http://x)" in result["message"]["text"]
    assert "\x1b" not in result["message"]["text"]


def test_a_pass_leaves_no_result_and_every_state_has_its_place() -> None:
    states = ("PASS", "FAIL", "INCONCLUSIVE", "INVALID", "NOT CHECKED")
    made = Check("m", "INVALID", "…", tuple(Checked(f"DR-{j}", j + 1, s, "Why.") for j, s in enumerate(states)))
    results = json.loads(formats.sarif(made, Path("l")))["runs"][0]["results"]
    assert [one["level"] for one in results] == ["error", "warning", "error", "note"]
    [suite] = ElementTree.fromstring(formats.junit(made))
    assert [[part.tag for part in case] for case in suite] == [[], ["failure"], ["error"], ["error"], ["skipped"]]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["5", "1", "2", "1"]
    assert formats.summary(made).count("\n| DR-") == 5


def test_an_exact_claim_is_granted_no_tolerance() -> None:
    values = np.random.default_rng(5).normal(0, 0.01, size=(20, 1))
    values[0] = 0.5
    for exact, state in ((True, "FAIL"), (False, "PASS")):
        family = _Family(_numbers(values), ())
        [one] = _judged([_Asked("DR-1", 1, 0.05, exact=exact)], [family], [(None, None)], "m").deletions
        assert one.state == state
