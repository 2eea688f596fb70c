"""What a spec is made into: twins of the same class shares, and sentences for what cannot be asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from audit_samples import ATTACK, evidence, plan
from torch import nn

from unlearnkit.audits.battery import judge
from unlearnkit.audits.case import _matched, demand, lend, prepare
from unlearnkit.audits.gathering import looks
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.subjects import models_of
from unlearnkit.audits.verdict import state_of
from unlearnkit.jobs import UnlearnJob
from unlearnkit.methods import METHODS
from unlearnkit.models import build, save_model
from unlearnkit.result import Interval, UsageError
from unlearnkit.store import Store
from unlearnkit.types import Access, Method, Need


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


@dataclasses.dataclass(frozen=True)
class Borrows(Method):
    """Asks for held-out examples of its own."""

    needs: ClassVar[Need] = Need.UNSEEN | Need.FORGET

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return model


def test_what_is_lent_to_a_method_is_no_held_out_example_any_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(METHODS, "Borrows", Borrows)
    body = {"deletion": {"forget_fraction": 0.1}, "method": {"name": "Borrows"}}
    case = prepare(parse_spec(body, folder=Path()))
    wanted = demand(case)
    assert wanted.unseen is not None
    labels = case.dataset.test.labels().numpy()
    assert sorted([*wanted.unseen, *wanted.held_out]) == list(range(labels.size))
    for c in range(10):
        assert (labels[wanted.unseen] == c).sum() == (labels == c).sum() // 5
    assert set(wanted.twins) <= set(wanted.held_out)
    models = models_of(case, wanted, Store("memory://lent"))
    assert isinstance(models.audited, UnlearnJob)
    np.testing.assert_array_equal(models.audited.unseen, wanted.unseen)
    looked = looks(case, wanted, models)
    seen = looked.jobs["audited"][0].points.test
    assert not np.isin(seen, wanted.unseen).any()
    np.testing.assert_array_equal(labels[seen], looked.y[-seen.size :])
    again = demand(case)
    assert again.unseen is not None
    assert again.unseen.tolist() == wanted.unseen.tolist()
    other = demand(prepare(parse_spec(body | {"audit": {"seed": 1}}, folder=Path())))
    assert other.unseen is not None
    assert other.unseen.tolist() != wanted.unseen.tolist()


def test_where_a_class_is_forgotten_its_held_out_examples_are_in_no_group(tmp_path: Path):
    (tmp_path / "groups.csv").write_text("id,group\n" + "".join(f"digits/{i:04d},{i % 2}\n" for i in range(0, 1797)))
    body = {
        "deletion": {"forget_class": 3},
        "method": {"name": "FineTune"},
        "audit": {"group_file": "groups.csv"},
    }
    case = prepare(parse_spec(body, folder=tmp_path))
    wanted = demand(case)
    groups = looks(case, wanted, models_of(case, wanted, Store("memory://groups"))).groups
    labels = case.dataset.test.labels().numpy()
    parity = np.array([int(name[-1]) % 2 for name in case.dataset.test.ids])
    assert (groups.names, groups.notes) == (("0", "1"), ())
    np.testing.assert_array_equal(groups.number, np.where(labels == 3, -1, parity))


@pytest.mark.parametrize("sites", [{"a": 5_400, "b": 5_400}, {"a": 5_397, "b": 5_400, "c": 3}])
def test_every_group_of_a_large_held_out_set_is_looked_at(sites: dict[str, int]):
    """Sites that alternate, as every second example is taken, and one of three examples."""
    body = {
        "deletion": {"forget_fraction": 0.1},
        "method": {"name": "FineTune"},
        "audit": {"group_pattern": "^([abc])/"},
    }
    case = prepare(parse_spec(body, folder=Path()))
    each = np.tile(["a", "b"], 5_400)
    each[: 2 * sites.get("c", 0) : 2] = "c"
    test = case.dataset.test.take(np.arange(each.size) % len(case.dataset.test))
    test = dataclasses.replace(test, ids=np.array([f"{site}/{i}" for i, site in enumerate(each)]))
    case = dataclasses.replace(case, dataset=dataclasses.replace(case.dataset, test=test))
    wanted = demand(case)
    assert np.unique(each[wanted.held_out], return_counts=True)[1].tolist() == list(sites.values())
    looked = looks(case, wanted, models_of(case, wanted, Store("memory://sites")))
    assert looked.groups.names == tuple(sites)
    assert looked.groups.notes == ()
    points = looked.jobs["audited"][0].points
    rows = points.test[looked.part["answered"] - points.train.size]
    assert np.array(list(sites))[looked.groups.number].tolist() == each[rows].tolist()
    kept = {"a": sites["a"] // 3, "b": 1_800, "c": 3}  # every third one, and all of three
    assert np.unique(each[rows], return_counts=True)[1].tolist() == [kept[site] for site in sites]


def test_other_methods_leave_the_test_set_whole():
    body = {"deletion": {"forget_fraction": 0.1}, "method": {"name": "FineTune"}}
    case = prepare(parse_spec(body, folder=Path()))
    wanted = demand(case)
    assert wanted.unseen is None
    assert wanted.held_out.tolist() == list(range(len(case.dataset.test)))


def test_a_test_set_too_small_to_lend_from_is_refused():
    with pytest.raises(UsageError, match="needs held-out examples of its own, a fifth of the test set, which is too"):
        lend(np.repeat([0, 1], 4), 0)
    held_out, lent = lend(np.repeat([0, 1], [4, 5]), 0)
    assert (held_out.size, lent.size) == (8, 1)


def test_no_failure_while_the_interval_reaches_into_the_tolerance():
    leak = Interval(0.045, 0.123, 0.2)
    common = {
        "tolerance": 0.05,
        "mde": 0.1,
        "p": 0.01,
        "p_adjusted": 0.01,
        "p_tolerance_adjusted": 0.03,
        "significance": 0.05,
    }
    assert state_of(leak, **common) == "INCONCLUSIVE"
    assert state_of(dataclasses.replace(leak, low=0.055), **common) == "FAIL"
    assert state_of(Interval(-0.2, -0.123, -0.055), **common) == "FAIL"


@pytest.mark.parametrize(("right", "flagged"), [(30, True), (99, False)])
def test_an_original_that_another_recipe_made_is_flagged(right: int, flagged: bool):
    made = evidence(0)
    correct = {f"{name}/retain": np.array([right]) for name in ("original", "audited", "held_out")}
    correct["oracles/retain"] = np.full(made.oracles, 100)
    made = dataclasses.replace(made, correct=correct, sizes={"retain": 100})
    assert ("original unlike the oracles" in {flag.name for flag in judge(made, plan()).flags}) == flagged


@pytest.mark.parametrize("where", ["model.weights", "audit.unlearned"])
@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, None),
        ({"recipe": {"epochs": 3, "compiled": True}}, None),  # the same models, made in another time
        ({"recipe": {"epochs": 4}}, "was trained by another recipe than the models that it would be held against"),
        ({"data": {"seed": 7}}, "was trained on other examples than this spec trains on"),
        ({"data": {"test_fraction": 0.5}}, "was trained on other examples than this spec trains on"),
        ({"canaries": {"count": 40, "seed": 1}}, "was trained on other examples than this spec trains on"),
    ],
)
def test_a_model_of_another_recipe_or_of_other_data_is_no_target(
    tmp_path: Path, where: str, changed: dict[str, Any], refused: str | None
):
    """Files of `unlearnkit train` and `unlearn` say what they were made from; files from elsewhere need not."""
    body: dict[str, Any] = {"model": {"architecture": "mlp"}, "recipe": {"epochs": 3}}
    case = prepare(parse_spec(body, folder=tmp_path))
    model = build(case.recipe.architecture, seed=0)
    save_model(tmp_path / "ours.safetensors", model, case.recipe.architecture, **case.origin)
    save_model(tmp_path / "theirs.safetensors", model, case.recipe.architecture)
    other = {"model": {"architecture": "mlp"}, "audit": {}, **body, **changed}
    if "canaries" in changed:
        prepare(parse_spec(body | changed, folder=tmp_path), sealed=tmp_path / "canaries.json")
        other["canaries"] = {"manifest": "canaries.json"}
    section, key = where.split(".")
    for name in ("theirs", "ours"):
        spec = parse_spec({**other, section: {**other[section], key: f"{name}.safetensors"}}, folder=tmp_path)
        if refused is None or name == "theirs":
            prepare(spec)
            continue
        with pytest.raises(UsageError, match=refused) as caught:
            prepare(spec)
        assert str(caught.value).startswith(f"{where}: ")


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
