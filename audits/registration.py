"""Pre-registration: what decides the verdict is written down, and its hash fixed, before any score is computed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.battery import BATTERY
from unlearnkit.audits.designs import Plan
from unlearnkit.result import CanaryRecord, DataRecord, Registration, Request
from unlearnkit.store import Store, canonical, content_key


def json_plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists."""
    return json.loads(canonical(value))


def register(
    store: Store,
    plan: Plan,
    *,
    request: Request,
    data: DataRecord,
    canaries: CanaryRecord | None,
    models: dict[str, Any],
    groups: NDArray[np.int64] | None = None,
    stress: Mapping[str, Any] | None = None,
) -> Registration:
    """Write the document to the store, under its hash, and return both.

    models: the content keys of what will be looked at; they name recipe, method, rows and seeds before anything is
    trained. groups: the number of each held-out example's group, where the audit compares groups. stress: the rules
    by which other sets are found, where there are some.
    """
    document: dict[str, Any] = {
        "battery": BATTERY,
        "plan": dataclasses.asdict(plan),
        "request": dataclasses.asdict(request),
        "data": data.fingerprint,
        "canaries": None if canaries is None else canaries.commitment,
        "models": models,
        "groups": grouped(groups),
    }
    if stress is not None:
        document["stress"] = dict(stress)
    plain = json_plain(document)
    digest = content_key(plain)
    store.note(f"registrations/{digest}.json", canonical(plain).encode())
    return Registration(digest, plain)


def grouped(groups: NDArray[np.int64] | None) -> str | None:
    """Hash of which example is in which group; None where there are no groups."""
    return None if groups is None or not groups.size else content_key(groups.tolist())
