"""audit() from a spec to a verdict on a tiny case: what is trained, kept, resumed, taken in, and refused."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from unlearnkit import jobs
from unlearnkit.audits.audit import audit, fleet_for, save_audit
from unlearnkit.audits.battery import BATTERY, ORACLES, PROBES
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.gathering import MOST_BESIDE, looks
from unlearnkit.audits.spec import Spec, parse_spec
from unlearnkit.audits.statistics.sampling import in_groups
from unlearnkit.audits.subjects import models_of
from unlearnkit.audits.verify import verify_file
from unlearnkit.compress import pruned, quantized
from unlearnkit.fleet import Progress
from unlearnkit.models import save_model
from unlearnkit.observing import observe
from unlearnkit.result import AuditResult, UsageError
from unlearnkit.store import Store
from unlearnkit.treatments import COMPRESSED, DRAWN_ANEW, treated


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models this small are made faster than a worker process starts."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
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


ASKED = 5  # oracles that the probes are put to here: fewer than in an audit, for the time it takes


@pytest.fixture(autouse=True)
def _few_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearnkit.audits.gathering.PROBED", ASKED)


class Told:
    """What the fleet told of its progress."""

    def __init__(self) -> None:
        self.last = Progress(0, 0, 0, 0, (), 0.0)
        self.names: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        self.names.update(progress.running)


def run(
    spec: Spec, store: Store, told: Told | None = None, say: Callable[[str], None] | None = None
) -> tuple[AuditResult, bytes]:
    case = prepare(spec)
    fleet = fleet_for(case, store, watch=told)
    return audit(spec, fleet, command="unlearnkit audit spec.toml", case=case, say=say)


@functools.cache
def usual(store: Store) -> tuple[AuditResult, bytes]:
    """The audit of `tiny()`, for tests that only read what it gave."""
    return run(tiny(), store)


def test_the_whole_way_once_and_nothing_twice(store: Store, tmp_path: Path) -> None:
    first = Told()
    result, sidecar = run(tiny(), store, first)
    looks = {"look at original", "look at unlearn with Retrain", *(f"look at oracle {j + 1}" for j in range(20))}
    looks |= {f"look at compressed {name}" for name in ("original", "unlearn with Retrain")}
    looks |= {"look at an untrained copy of original"}
    # Look and probes rest on these models; every other oracle is made and looked at in one go.
    asked = ["original", "unlearn with Retrain", *(f"oracle {j + 1}" for j in range(ASKED))]
    probes = {f"{probe.name} of {name}" for probe in PROBES["examples"] for name in asked}
    assert first.names == looks | set(asked) | probes
    total = len(looks | set(asked) | probes)
    assert (first.last.total, first.last.done, first.last.kept, first.last.failed) == (total, total, 0, 0)
    assert result.verdict.word in ("PASS", "INCONCLUSIVE")
    assert all(control.passed for control in result.controls)
    assert (result.battery, result.tier, result.organization) == (BATTERY, "minutes", "Example AG")
    assert result.request.sentence == "forget 168 of 1,407 training examples (30 coin canaries among them)"
    assert (result.request.kind, result.request.forget, result.request.canaries) == ("examples", 168, 30)
    assert result.oracles is not None
    assert result.oracles.count == len(result.oracles.seeds) == 19
    assert result.oracles.held_out_seed not in result.oracles.seeds
    assert result.oracles.missing == ()
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
    assert not second.names
    assert (second.last.total, second.last.kept) == (len(looks | probes),) * 2
    assert same == sidecar
    assert dataclasses.replace(again, environment=result.environment) == result


def test_the_evidence_is_what_the_models_say(store: Store) -> None:
    case = prepare(tiny())
    wanted = demand(case)
    result, sidecar = usual(store)
    evidence = Evidence.from_bytes(sidecar)
    assert evidence.oracles == 19
    assert [evidence.rows(group).size for group in Group] == [138, 30, len(wanted.twins), 30]
    model = fleet_for(case, store).read(case.original)
    rows = {Group.REQUESTED: wanted.requested, Group.HEADS: wanted.heads, Group.TAILS: wanted.tails}
    for group, which in rows.items():
        seen = observe(model, case.train.take(which)).margins[:, 0]
        np.testing.assert_allclose(evidence.margins["original"][evidence.rows(group)], seen, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(evidence.scores["Threshold/original"], evidence.margins["original"])
    # canaries are judged by the label that they carried in training, on both sides of the coin
    labels = case.train.labels().numpy()
    np.testing.assert_array_equal(evidence.label[evidence.rows(Group.TAILS)], labels[wanted.tails])
    forget = next(row for row in result.accuracy if (row.model, row.split) == ("original", "forget"))
    assert forget.correct == observe(model, case.train.take(wanted.requested)).right().sum()
    assert {name for name in load(sidecar) if name.startswith("roc/")} == {
        f"roc/{model}/{axis}" for model in ("original", "audited") for axis in ("fpr", "tpr")
    } | {"roc/oracles/fpr", "roc/oracles/tpr_low", "roc/oracles/tpr_high"}


def test_accuracy_by_group_is_fixed_beforehand_and_verified(store: Store, tmp_path: Path) -> None:
    """Digits are numbered: below and from 1,000."""
    spec = tiny(audit={"group_pattern": r"/(\d)"})
    result, sidecar = run(spec, store)
    case = prepare(spec)
    thousands = np.array([int(name.split("/")[1]) >= 1000 for name in case.dataset.test.ids])
    evidence = Evidence.from_bytes(sidecar)
    np.testing.assert_array_equal(evidence.answer_group, thousands)
    assert result.by_group is not None
    for group, at in zip(result.by_group.groups, (~thousands, thousands), strict=True):
        assert (group.name, group.n) == (str(int(at is thousands)), at.sum())
        assert group.audited == evidence.answers["audited"][at].mean()
    assert result.registration is not None
    assert result.registration.document["plan"]["groups"] == ["0", "1"]
    assert verify_file(save_audit(tmp_path, result, sidecar)).passed
    plain, other = usual(store)
    assert plain.by_group is None
    both = [[flag for flag in one.flags if flag.name != "registered after another look"] for one in (plain, result)]
    assert both[0] == both[1]
    without = {"registration", "by_group", "spec", "evidence", "environment", "flags"}
    for field in {f.name for f in dataclasses.fields(AuditResult)} - without:  # groups change nothing else
        assert getattr(plain, field) == getattr(result, field)
    assert set(load(sidecar)) - set(load(other)) == {"answer_group", "group_names"}


def test_small_groups_of_a_large_set_are_in_the_table_and_weigh_nothing_elsewhere(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearnkit.audits.gathering.in_groups", functools.partial(in_groups, most=90, least=30))
    spec = tiny(audit={"group_pattern": r"/(\d\d)"})  # 18 groups of about 20
    result, sidecar = run(spec, store)
    case = prepare(spec)
    named = np.array([name.split("/")[1][:2] for name in case.dataset.test.ids])
    shares, beside = in_groups(np.unique(named, return_inverse=True)[1], 90, 30)
    seen = np.concatenate([shares, beside])
    right = observe(fleet_for(case, store).read(case.original), case.dataset.test).right()
    assert result.by_group is not None
    assert [(group.name, group.n) for group in result.by_group.groups] == [
        (n, (named == n).sum()) for n in np.unique(named)
    ]
    evidence = Evidence.from_bytes(sidecar)
    np.testing.assert_array_equal(evidence.answers["original"], np.squeeze(right)[seen])
    np.testing.assert_array_equal(evidence.answer_label, case.dataset.test.labels().numpy()[seen])
    row = next(row for row in result.accuracy if (row.model, row.split) == ("original", "test"))
    assert (row.correct, row.n) == (right[shares].sum(), 90)
    assert verify_file(save_audit(tmp_path, result, sidecar)).passed


def test_what_is_seen_further_is_what_the_models_say(store: Store) -> None:
    case = prepare(tiny())
    wanted = demand(case)
    evidence = Evidence.from_bytes(usual(store)[1])
    model = fleet_for(case, store).read(case.original)
    canaries = case.train.take(np.concatenate([wanted.heads, wanted.tails]))
    for name, copy in (("4 bits", quantized(model, bits=4)), ("30 % pruned", pruned(model, share=0.3))):
        seen = observe(copy, canaries).margins[:, 0]
        np.testing.assert_allclose(evidence.treated[f"{name}/original"], seen, rtol=1e-5, atol=1e-5)
    assert {*evidence.treated} == {f"{name}/{model}" for name in COMPRESSED for model in ("original", "audited")}
    assert evidence.group[evidence.treated_points].tolist() == [Group.HEADS] * 30 + [Group.TAILS] * 30
    retained = np.flatnonzero(evidence.beside_retained)
    assert 0 < retained.size <= MOST_BESIDE
    kept = case.train.take(wanted.retain[:: -(-wanted.retain.size // MOST_BESIDE)])
    seen = observe(model, kept).margins[:, 0]
    np.testing.assert_allclose(evidence.beside["original"][retained], seen, rtol=1e-4, atol=1e-5)
    assert evidence.beside["oracles"].shape == (19, evidence.beside_retained.size)
    fresh = treated(model, DRAWN_ANEW)
    logits = observe(fresh, case.train.take(wanted.requested[evidence.logit_points])).outputs()[:, 0]
    np.testing.assert_allclose(evidence.logits["untrained copy"], logits, rtol=1e-5, atol=1e-5)
    assert {name: values.size for name, values in evidence.legacy.items()} == {
        "MIA efficacy (SVC)/original": 1,
        "MIA efficacy (SVC)/audited": 1,
        "MIA efficacy (SVC)/oracles": 19,
    }


def test_the_held_out_oracle_is_no_reference(store: Store) -> None:
    _, sidecar = usual(store)
    evidence = Evidence.from_bytes(sidecar)
    assert not (evidence.margins["oracles"] == evidence.margins["held_out"]).all(axis=1).any()
    assert len({row.tobytes() for row in evidence.margins["oracles"]}) == 19


def test_interrupted_it_goes_on_where_it_stopped(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = usual(store)[1]
    fresh, written = Store(tmp_path / "store"), []
    true = Store.write

    def stop(store: Store, key: str, data: bytes, record: dict[str, Any]) -> None:
        if len(written) == 60:  # models first, then what is asked of them: in the middle of the looks
            raise KeyboardInterrupt
        true(store, key, data, record)
        written.append(record["kind"])

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), fresh)
    resumed = Told()
    _, sidecar = run(tiny(), fresh, resumed)
    assert resumed.last.kept == written.count("observe") + written.count("probe") > 5
    assert resumed.last.done == resumed.last.total
    assert sidecar == expected


FAILING = """
from unlearnkit.models import build


def fit(recipe, examples, *, seed):
    if seed in {seeds}:
        raise RuntimeError("no luck")
    return build(recipe.architecture, seed=seed)
"""


@pytest.mark.parametrize(("failing", "left"), [([3], 19), ([5, 20], 18)])
def test_an_oracle_that_is_missing_makes_the_audit_invalid(
    write_module: Any, tmp_path: Path, failing: list[int], left: int
) -> None:
    """One of twenty references; then another one, and the model that is held out."""
    count = 20
    name = f"failing_{'_'.join(map(str, failing))}"
    seeds = prepare(tiny()).seeds("oracle", count + 1)
    write_module(name, FAILING.format(seeds=[seeds[j] for j in failing]))
    spec = tiny(recipe={"trainer": f"{name}:fit"}, audit={"oracles": count, "tolerances": {"auc": 0.2}})
    told = Told()
    result, sidecar = run(spec, Store(tmp_path / "store"), told)
    beside = 1 + len(PROBES["examples"])  # the training by itself, and the probes
    assert told.last.failed == sum(1 + beside * (j < ASKED) for j in failing)
    assert result.oracles is not None
    assert result.oracles.count == len(result.oracles.seeds) == left
    there = [seed for j, seed in enumerate(seeds) if j not in failing]
    assert (list(result.oracles.seeds), result.oracles.held_out_seed) == (there[:-1], there[-1])
    assert result.oracles.missing == tuple(
        f"oracle {j + 1}: recipe.trainer: '{name}:fit' raised RuntimeError: no luck ({name}.py, line 7)"
        for j in failing
    )
    [control] = [control for control in result.controls if control.name == "all oracles retrained"]
    assert not control.passed
    assert result.verdict.word == "INVALID"
    path = save_audit(tmp_path / "out", result, sidecar)
    assert verify_file(path).passed


def test_without_original_or_oracles_there_is_no_audit(write_module: Any, tmp_path: Path) -> None:
    case = prepare(tiny())
    oracles = case.seeds("oracle", 20)
    for name, seeds, sentence in (
        ("no_original", [case.original.seed], "'no_original:fit' raised RuntimeError: no luck"),
        (
            "no_oracles",
            oracles[1:],
            "oracles: 19 of 20 retrainings failed, the first: recipe.trainer: 'no_oracles:fit'",
        ),
    ):
        write_module(name, FAILING.format(seeds=seeds))
        with pytest.raises(UsageError, match=sentence):
            run(tiny(recipe={"trainer": f"{name}:fit"}), Store(tmp_path / name))


def test_the_tier_seconds_trains_no_oracle(store: Store, tmp_path: Path) -> None:
    told = Told()
    result, sidecar = run(tiny(audit={"tier": "seconds"}), store, told)
    assert verify_file(save_audit(tmp_path, result, sidecar)).passed
    assert not any("oracle" in name for name in told.names)
    assert result.oracles is None
    assert result.verdict.word in ("INCONCLUSIVE", "FAIL")
    assert [test.kind for test in result.tests] == ["coin"]
    assert "margins/oracles" not in load(sidecar)
    assert [row.name for row in result.comparisons] == [
        f"Canary coin test, {told}"
        for told in (
            "weights rounded to 8 bits",
            "weights rounded to 4 bits",
            *(f"{share}\u00a0% of the weights pruned" for share in (10, 30, 50)),
        )
    ]


def test_in_tier_hours_two_halves_trade_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ORACLES, "hours", 2)  # and as many unlearnings, for the time it takes
    spec = tiny(audit={"tier": "hours", "oracles": 2}, recipe={"epochs": 1}, canaries=None)
    said: list[str] = []
    result, sidecar = run(spec, Store(tmp_path / "store"), say=said.append)
    assert said[:2] == [
        "3 retrainings, 2 further originals and 2 unlearnings of them",
        "SWAP test: 6 trainings and as many unlearnings",
    ]
    assert "SWAP test left out" not in {flag.name for flag in result.flags}
    assert verify_file(save_audit(tmp_path, result, sidecar)).passed
    wanted, evidence = demand(prepare(spec)), Evidence.from_bytes(sidecar)
    assert evidence.swapped is not None
    assert evidence.swapped_forget is not None
    points = wanted.requested.size // 2 * 2
    assert evidence.swapped.shape == (3, 2, points)
    assert evidence.swapped_forget.sum(axis=1).tolist() == [points // 2] * 3
    [row] = [row for row in result.comparisons if row.name == "SWAP test"]
    # Retrain with the seeds that a pair shares makes one and the same model of both.
    np.testing.assert_array_equal(evidence.swapped[:, 0], evidence.swapped[:, 1])
    assert (row.value, row.oracles.value, row.p) == (0.0, 0.0, 1.0)
    assert "without limits: all pairs agree" in row.sentence
    assert result.registration is not None
    assert len(result.registration.document["models"]["SWAP test/pairs"]) == 6


def test_where_no_halves_can_trade_places_tier_hours_says_so(store: Store) -> None:
    for tier, deletion, why in (
        ("hours", {"forget_fraction": None, "forget_class": 3}, "this request is for a whole class."),
        ("hours", {"forget_fraction": 0.01}, "It needs 20 requested examples that are no canaries, and here are 1"),
        ("hours", {}, None),
        ("minutes", {"forget_fraction": 0.01}, None),
    ):
        case = prepare(tiny(audit={"tier": tier, "oracles": None}, deletion=deletion))
        wanted = demand(case)
        looked = looks(case, wanted, models_of(case, wanted, store))
        assert ("SWAP test/pairs" in looked.further) is (tier == "hours" and why is None)
        assert [note.name for note in looked.notes] == ["SWAP test left out"] * (why is not None)
        assert all(why in note.sentence for note in looked.notes if why is not None)


PLAIN = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, classes) / 8)

    def forward(self, x):
        return x.flatten(1) @ self.weight


def net(classes):
    return Plain(classes)
"""


def test_what_cannot_be_compressed_is_said_to_be_left_out(write_module: Any, tmp_path: Path) -> None:
    write_module("plain_net", PLAIN)
    spec = tiny(model={"architecture": "plain_net:net"}, audit={"tier": "seconds"})
    result, sidecar = run(spec, Store(tmp_path / "store"))
    [flag] = [flag for flag in result.flags if flag.name == "probe left out"]
    assert flag.sentence.startswith("treated weights: quantized: ")
    assert flag.sentence.endswith("has no convolution or linear layer to change")
    assert Evidence.from_bytes(sidecar).treated == {}
    assert verify_file(save_audit(tmp_path, result, sidecar)).passed


def test_a_whole_class(store: Store, tmp_path: Path) -> None:
    result, sidecar = run(tiny(deletion={"forget_fraction": None, "forget_class": 3}, method={"name": "none"}), store)
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
    assert verify_file(save_audit(tmp_path, result, sidecar)).passed


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
    usual(store)
    original = fleet_for(case, store).read(case.original)
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
    # the given models are looked at, as they are and compressed, and probed; the oracles are those from before
    assert told.last.done - told.last.kept == 2 * (2 + len(PROBES["examples"])) + 1  # the untrained copy
    assert result.method.name == "given"
    assert result.method.saw is None
    assert result.canaries is not None
    assert result.canaries.commitment == case.manifest.commitment
    first = Evidence.from_bytes(usual(store)[1])
    second = Evidence.from_bytes(sidecar)
    np.testing.assert_array_equal(first.margins["original"], second.margins["original"])
    np.testing.assert_array_equal(first.margins["oracles"], second.margins["oracles"])
    assert result.model.original_sha256 != result.model.audited_sha256
    assert verify_file(save_audit(tmp_path, result, sidecar)).passed


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
        ({"audit": {"group_pattern": "^(site-[a-z]+)/"}}, "fits no id; ids look like 'digits/"),
        ({"audit": {"group_file": "none.csv"}}, r"audit\.group_file: .*none\.csv cannot be read"),
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

    monkeypatch.setattr(jobs._Work, "train", never)
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
