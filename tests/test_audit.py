"""audit() from a spec to a verdict on a tiny case: what is trained, kept, resumed, taken in, and refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from unlearnkit import fleet
from unlearnkit.audits.audit import _sample, audit, save_audit
from unlearnkit.audits.battery import BATTERY
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.spec import Spec, parse_spec
from unlearnkit.audits.verify import verify_file
from unlearnkit.fleet import Job, read_model
from unlearnkit.models import save_model
from unlearnkit.observing import observe
from unlearnkit.result import AuditResult, UsageError
from unlearnkit.store import Store
from unlearnkit.types import Examples


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models this small are made faster than a worker process starts."""
    monkeypatch.setattr(fleet.joblib, "cpu_count", lambda: 1)
    return


def tiny(folder: Path = Path(), **sections: Any) -> Spec:
    base: dict[str, Any] = {
        "model": {"architecture": "mlp"},
        "recipe": {"epochs": 2, "batch_size": 128},
        "canaries": {"count": 60, "seed": 0},
        "deletion": {"id": "DR-1", "forget_fraction": 0.1},
        "method": {"name": "Retrain"},
        "audit": {"oracles": 19, "tolerances": {"auc": 0.2}},
        "report": {"organization": "Example AG"},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section if section is not None else None
        if base[name] is None:
            del base[name]
    return parse_spec(base, folder=folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all tests: equal trainings are made once."""
    return Store(tmp_path_factory.mktemp("store"))


class Told:
    """What the audit told of its jobs."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.kept: list[str] = []

    def __call__(self, job: Job, was_there: bool) -> None:
        (self.kept if was_there else self.made).append(job.name)


def run(spec: Spec, store: Store, told: Told | None = None) -> tuple[AuditResult, bytes]:
    return audit(spec, store, command="unlearnkit audit spec.toml", on_done=told)


def test_the_whole_way_once_and_nothing_twice(store: Store, tmp_path: Path) -> None:
    first = Told()
    result, sidecar = run(tiny(), store, first)
    assert len(first.made) == len(set(first.made)) == 1 + 20 + 1
    assert first.made[0] == "original"
    assert first.made[-1] == "unlearn with Retrain"
    assert not first.kept
    assert result.verdict.word in ("PASS", "INCONCLUSIVE")
    assert all(control.passed for control in result.controls)
    assert (result.battery, result.tier, result.organization) == (BATTERY, "minutes", "Example AG")
    assert result.request.sentence == "forget 168 of 1,407 training examples (30 coin canaries among them)"
    assert (result.request.kind, result.request.forget, result.request.canaries) == ("examples", 168, 30)
    assert result.oracles is not None
    assert result.oracles.count == len(result.oracles.seeds) == 19
    assert result.oracles.held_out_seed not in result.oracles.seeds
    assert result.canaries is not None
    assert (result.canaries.heads, result.canaries.tails) == (30, 30)
    assert result.method.name == "Retrain"
    assert result.method.seconds is not None
    assert result.evidence.sha256 == hashlib.sha256(sidecar).hexdigest()
    assert result.spec["deletion"]["id"] == "DR-1"
    assert AuditResult.from_json(result.to_json()) == result

    path = save_audit(tmp_path / "out", result, sidecar)
    assert verify_file(path).passed

    second = Told()
    again, same = run(tiny(), store, second)
    assert not second.made
    assert sorted(second.kept) == sorted(first.made)
    assert same == sidecar
    assert dataclasses.replace(again, environment=result.environment) == result


def test_the_evidence_is_what_the_models_say(store: Store) -> None:
    spec = tiny()
    case = prepare(spec)
    wanted = demand(case)
    result, sidecar = run(spec, store)
    evidence = Evidence.from_bytes(sidecar)
    assert evidence.oracles == 19
    assert [evidence.rows(group).size for group in Group] == [138, 30, len(wanted.twins), 30]
    model = read_model(store, case.original.key(case.train.fingerprint, "cpu"), case.recipe)
    rows = {Group.REQUESTED: wanted.requested, Group.HEADS: wanted.heads, Group.TAILS: wanted.tails}
    for group, which in rows.items():
        seen = observe(model, case.train.take(which)).margins[:, 0]
        np.testing.assert_allclose(evidence.margins["original"][evidence.rows(group)], seen, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(evidence.scores["Threshold/original"], evidence.margins["original"])
    # canaries are judged by the label that they carried in training, on both sides of the coin
    labels = case.train.labels().numpy()
    np.testing.assert_array_equal(evidence.label[evidence.rows(Group.TAILS)], labels[wanted.tails])
    forget = next(row for row in result.accuracy if (row.model, row.split) == ("original", "forget"))
    assert forget.correct == (evidence.margins["original"][evidence.rows(Group.REQUESTED)] > 0).sum()
    assert {name for name in load(sidecar) if name.startswith("roc/")} == {
        f"roc/{model}/{axis}" for model in ("original", "audited") for axis in ("fpr", "tpr")
    } | {"roc/oracles/fpr", "roc/oracles/tpr_low", "roc/oracles/tpr_high"}


def test_the_held_out_oracle_is_no_reference(store: Store) -> None:
    _, sidecar = run(tiny(), store)
    evidence = Evidence.from_bytes(sidecar)
    assert not (evidence.margins["oracles"] == evidence.margins["held_out"]).all(axis=1).any()
    assert len({row.tobytes() for row in evidence.margins["oracles"]}) == 19


def test_interrupted_it_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    expected = run(tiny(), store)[1]
    fresh = Store(tmp_path / "store")

    class Stop(Told):
        def __call__(self, job: Job, was_there: bool) -> None:
            super().__call__(job, was_there)
            if len(self.made) == 7:
                raise KeyboardInterrupt

    stopped, resumed = Stop(), Told()
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), fresh, stopped)
    _, sidecar = run(tiny(), fresh, resumed)
    assert sorted(resumed.kept) == sorted(stopped.made)
    assert len(resumed.made) == 22 - 7
    assert sidecar == expected


def test_the_tier_seconds_trains_no_oracle(store: Store) -> None:
    told = Told()
    result, sidecar = run(tiny(audit={"tier": "seconds"}), store, told)
    assert len(told.made) + len(told.kept) == 2
    assert result.oracles is None
    assert result.verdict.word in ("INCONCLUSIVE", "FAIL")
    assert [test.kind for test in result.tests] == ["coin"]
    assert "margins/oracles" not in load(sidecar)


def test_a_whole_class(store: Store) -> None:
    result, _ = run(tiny(deletion={"forget_fraction": None, "forget_class": 3}, method={"name": "none"}), store)
    assert result.request.kind == "class"
    assert (result.request.forget_class, result.request.class_name) == (3, "3")
    assert result.request.sentence.startswith("forget class '3': ")
    assert {test.name for test in result.tests} == {
        "Class recognition",
        "Oracle rank, class margin",
        "Threshold attack, requested",
    }
    assert result.verdict.word == "FAIL"
    assert result.verdict.headline == "The model still remembers what it was asked to forget."
    assert result.model.original_sha256 == result.model.audited_sha256
    assert result.method.sentence == "nothing: this is the untouched original"


def test_ids_from_a_file(store: Store, tmp_path: Path) -> None:
    ids = prepare(tiny(canaries=None)).train.ids[10:60].tolist()
    (tmp_path / "forget.txt").write_text("\n".join([*ids, "", f"  {ids[0]}  "]))
    spec = tiny(
        tmp_path,
        deletion={"forget_fraction": None, "forget_ids": "forget.txt"},
        canaries=None,
        audit={"tier": "seconds"},
    )
    result, _ = run(spec, store)
    assert (result.request.forget, result.request.canaries) == (50, 0)
    assert result.request.fingerprint == hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    assert result.canaries is None


def test_weights_manifest_and_a_result_from_elsewhere(store: Store, tmp_path: Path) -> None:
    """The original with its sealed canaries, and a model that somebody else unlearned: no method is run."""
    case = prepare(tiny())
    run(tiny(), store)
    original = read_model(store, case.original.key(case.train.fingerprint, "cpu"), case.recipe)
    assert case.manifest is not None
    case.manifest.save(tmp_path / "canaries.json")
    save_model(tmp_path / "model.safetensors", original, case.recipe.architecture)
    with torch.no_grad():
        original.head.weight.mul_(0.5)
    save_model(tmp_path / "unlearned.safetensors", original, case.recipe.architecture)
    given = tiny(
        tmp_path,
        model={"weights": "model.safetensors"},
        canaries={"count": 0, "manifest": "canaries.json"},
        audit={"unlearned": "unlearned.safetensors"},
        method=None,
    )
    told = Told()
    result, sidecar = run(given, store, told)
    assert not told.made  # the oracles are those of the other audit
    assert result.method.name == "given"
    assert result.method.saw is None
    assert result.canaries is not None
    assert result.canaries.commitment == case.manifest.commitment
    first = Evidence.from_bytes(run(tiny(), store)[1])
    second = Evidence.from_bytes(sidecar)
    np.testing.assert_array_equal(first.margins["original"], second.margins["original"])
    np.testing.assert_array_equal(first.margins["oracles"], second.margins["oracles"])
    assert result.model.original_sha256 != result.model.audited_sha256


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"canaries": {"count": 0, "manifest": "none.json"}}, r"none\.json: no such canary manifest"),
        ({"model": {"weights": "none.safetensors"}, "canaries": None}, r"none\.safetensors: no such weights file"),
        ({"model": {"weights": "other.safetensors"}, "canaries": None}, "the weights do not fit 'mlp': keys "),
        ({"audit": {"unlearned": "other.safetensors"}, "method": None}, "the weights do not fit 'mlp': keys "),
        ({"audit": {"oracles": 18}}, "audit.oracles: tier 'minutes' needs at least 19 retrained models"),
        ({"deletion": {"forget_fraction": None, "forget_ids": "ids.txt"}}, "1 of 2 forget ids are not in the training"),
        ({"deletion": {"forget_fraction": None, "forget_ids": "empty.txt"}}, "forget_ids is empty"),
        ({"deletion": {"forget_fraction": None, "forget_ids": "heads.txt"}}, "only canaries would be forgotten"),
        ({"deletion": {"forget_fraction": None, "forget_class": 11}}, "class 11 does not occur in the training data"),
        ({"audit": {"device": "cuda:99"}}, "device"),
        ({"method": {"name": "FineTun"}}, "did you mean 'FineTune'"),
        ({"method": {"epoch": 3, "name": "FineTune"}}, "did you mean 'epochs'"),
    ],
)
def test_mistakes_show_before_anything_is_trained(
    tmp_path: Path, sections: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = prepare(tiny())
    assert case.manifest is not None
    (tmp_path / "ids.txt").write_text(f"{case.train.ids[3]}\nsomebody\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "heads.txt").write_text("\n".join(case.train.ids[case.heads]))
    from unlearnkit.models import Architecture, build

    small = Architecture("mlp", 7, case.dataset.shape)
    save_model(tmp_path / "other.safetensors", build(small, seed=0), small)

    def never(*_arguments: object, **_more: object) -> None:
        raise AssertionError("a model was trained before the mistake was told")

    monkeypatch.setattr(fleet, "fit", never)
    with pytest.raises(UsageError, match=message):
        run(tiny(tmp_path, **sections), Store(tmp_path / "store"))


CLASSLESS = """
import torch, numpy as np
from unlearnkit.types import Examples


def data():
    def part(name, labels):
        y = torch.tensor(labels)
        x = torch.linspace(0, 1, len(y) * 16).view(len(y), 1, 4, 4)
        return Examples(x, y, np.array([f"{name}/{i}" for i in range(len(y))]))

    return part("train", [0, 1, 2] * 20), part("test", [0, 1] * 10)
"""


def test_a_class_without_held_out_examples(write_module: Any, tmp_path: Path) -> None:
    write_module("classless", CLASSLESS)
    spec = tiny(data={"source": "classless:data"}, canaries=None, deletion={"forget_fraction": None, "forget_class": 2})
    with pytest.raises(UsageError, match="the test set holds no example of the classes to be forgotten"):
        run(spec, Store(tmp_path / "store"))
    everything = tiny(
        data={"source": "classless:data"}, canaries=None, deletion={"forget_fraction": 0.999}, audit={"tier": "seconds"}
    )
    with pytest.raises(UsageError, match="would be forgotten; keep some"):
        run(everything, Store(tmp_path / "store"))


def test_saving_is_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    result, sidecar = run(tiny(audit={"tier": "seconds"}), store)
    path = save_audit(tmp_path, result, sidecar)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audit.json", "evidence.safetensors"]
    assert json.loads(path.read_text())["evidence"]["file"] == "evidence.safetensors"


def test_a_sample_of_a_large_set_is_spread_evenly() -> None:
    n = 12_000
    large = Examples(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), np.arange(n).astype(str))
    rows = _sample(large, None).ids.astype(int)
    assert len(rows) == 4000
    assert set(np.diff(rows)) == {3}
    assert _sample(large, np.arange(5, 100)).ids.astype(int).tolist() == list(range(5, 100))
