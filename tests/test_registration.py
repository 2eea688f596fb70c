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
from unlearnkit.audits.registration import json_plain, register
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
