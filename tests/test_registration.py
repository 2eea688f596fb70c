"""Registration: the document says what decides, its hash names it, and every change gives another hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_samples import plan
from sample_result import sample

from unlearnkit.audits.designs import Tolerances
from unlearnkit.audits.registration import json_plain, late, register
from unlearnkit.result import Registration
from unlearnkit.store import Store, content_key

MODELS = {"original": ["a" * 64], "audited": ["b" * 64], "oracles": ["c" * 64, "d" * 64], "ensemble": []}


def registered(folder: Path, **changes: Any) -> Registration:
    result = sample().result
    parts: dict[str, Any] = {"request": result.request, "data": result.data, "canaries": result.canaries}
    fixed = changes.pop("plan", plan(oracles=39, classes=("cat", "dog")))
    return register(Store(folder), fixed, **(parts | {"models": MODELS} | changes))


def test_the_document_lies_in_the_store_under_its_hash(tmp_path: Path) -> None:
    found = registered(tmp_path)
    [path] = (tmp_path / "registrations").iterdir()
    assert path.name == f"{found.sha256}.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == found.sha256 == content_key(found.document)
    assert json.loads(path.read_bytes()) == found.document


def test_the_document_fixes_what_decides(tmp_path: Path) -> None:
    result = sample().result
    assert result.canaries is not None
    document = registered(tmp_path).document
    assert sorted(document) == ["battery", "canaries", "data", "groups", "models", "plan", "request"]
    assert document["battery"] == "1"
    assert document["models"] == MODELS
    assert document["data"] == result.data.fingerprint
    assert document["canaries"] == result.canaries.commitment
    assert document["request"]["fingerprint"] == result.request.fingerprint
    assert document["plan"] == json_plain(dataclasses.asdict(plan(oracles=39, classes=("cat", "dog"))))
    assert document["plan"]["classes"] == ["cat", "dog"]  # as it comes back from a file
    assert registered(tmp_path, canaries=None).document["canaries"] is None
    assert document["groups"] is None
    assert registered(tmp_path, groups=np.array([0, 1, 1])).document["groups"] == content_key([0, 1, 1])


def test_the_same_is_registered_once_and_every_change_anew(tmp_path: Path) -> None:
    result = sample().result
    first = registered(tmp_path)
    assert registered(tmp_path) == first
    hashes = {first.sha256} | {
        registered(tmp_path, **changes).sha256
        for changes in (
            {"plan": plan(oracles=39, classes=("cat", "dog"), tolerances=Tolerances(auc=0.051))},
            {"plan": plan(oracles=39, classes=("cat", "dog"), claim="exact")},
            {"plan": plan(oracles=39, classes=("cat", "dog"), seed=1)},
            {"models": {**MODELS, "oracles": ["c" * 64]}},
            {"request": dataclasses.replace(result.request, fingerprint="0" * 64)},
            {"data": dataclasses.replace(result.data, fingerprint="0" * 64)},
            {"canaries": None},
        )
    }
    assert len(hashes) == 8
    assert len(list((tmp_path / "registrations").iterdir())) == 8


def test_what_is_no_number_is_not_registered(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        registered(tmp_path, plan=plan(power=float("nan")))
    assert not (tmp_path / "registrations").exists()


def looked(folder: Path, key: str) -> None:
    """The store holds the answers under this key."""
    Store(folder).write(key, b"answers", {})


def wider(auc: float) -> dict[str, Any]:
    return {"plan": plan(oracles=39, classes=("cat", "dog"), tolerances=Tolerances(auc=auc))}


def test_what_is_registered_after_another_look_names_the_earlier_ones(tmp_path: Path) -> None:
    first = registered(tmp_path)
    looked(tmp_path, "b" * 64)
    second, third = registered(tmp_path, **wider(0.45)), registered(tmp_path, **wider(0.2))
    assert "earlier" not in first.document
    assert second.document["earlier"] == [first.sha256]
    assert third.document["earlier"] == sorted([first.sha256, second.sha256])
    assert late(first) == late(None) == ()
    [flag] = late(second)
    assert flag.name == "registered after another look"
    assert f"and 1 earlier registration for them ({first.sha256[:12]}…): " in flag.sentence
    assert "and 2 earlier registrations for them (" in late(third)[0].sentence
    for found in (second, third):  # the hash is that of the document with what it names
        assert content_key(found.document) == found.sha256
        assert content_key({**found.document, "earlier": []}) != found.sha256
        without = {name: value for name, value in found.document.items() if name != "earlier"}
        assert content_key(without) != found.sha256


def test_what_was_registered_comes_back_as_it_was(tmp_path: Path) -> None:
    """Interrupted, flagged or not, and whatever was registered since: the same bytes."""
    first = registered(tmp_path)
    assert registered(tmp_path) == first  # before the look
    looked(tmp_path, "b" * 64)
    assert registered(tmp_path) == first
    second = registered(tmp_path, **wider(0.45))
    third = registered(tmp_path, **wider(0.2))
    assert [registered(tmp_path, **changes) for changes in ({}, wider(0.45), wider(0.2))] == [first, second, third]
    assert len(list((tmp_path / "registrations").iterdir())) == 3
    twin = tmp_path / "twin"  # the same store state elsewhere
    registered(twin)
    looked(twin, "b" * 64)
    assert registered(twin, **wider(0.45)) == second


@pytest.mark.parametrize(
    ("models", "there"),
    [
        (MODELS, None),  # nobody has looked
        (MODELS, "a" * 64),  # at the original alone
        ({**MODELS, "audited": ["e" * 64]}, "e" * 64),  # another request, whose models were made ahead
        ({**MODELS, "original": ["b" * 64], "audited": ["e" * 64]}, "e" * 64),
    ],
)
def test_other_looks_are_no_earlier_ones(tmp_path: Path, models: dict[str, Any], there: str | None) -> None:
    registered(tmp_path)
    if there is not None:
        looked(tmp_path, there)
    found = registered(tmp_path, models=models, **wider(0.45))
    assert "earlier" not in found.document
    assert late(found) == ()


def test_a_damaged_registration_is_none(tmp_path: Path) -> None:
    first = registered(tmp_path)
    looked(tmp_path, "b" * 64)
    (tmp_path / f"registrations/{first.sha256}.json").write_bytes(b"{}")
    assert "earlier" not in registered(tmp_path, **wider(0.45)).document


@pytest.mark.parametrize("value", [None, 3, "x", [], {}])
def test_an_earlier_of_another_form_is_no_flag(value: Any) -> None:
    assert late(Registration("a" * 64, {"earlier": value})) == ()


def test_many_earlier_ones_are_counted() -> None:
    [flag] = late(Registration("a" * 64, {"earlier": [f"{i:064x}" for i in range(5)]}))
    assert "5 earlier registrations" in flag.sentence
    assert "… and 2 more): " in flag.sentence
