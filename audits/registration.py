"""Pre-registration: what decides the verdict is written down, and its hash fixed, before the audit computes a score.

That an audit computed none before says little where another one of the same model did: then the rules could be chosen
by their outcome. Such a registration names the earlier ones, and its result carries a flag. Whoever empties the store,
or registers in another one, is not found out by this."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.battery import BATTERY
from unlearnkit.audits.designs import Plan
from unlearnkit.result import CanaryRecord, DataRecord, Flag, Registration, Request
from unlearnkit.store import Store, canonical, content_key

EARLIER = "earlier"  # key of the document: hashes of earlier registrations that name the same look
_NAMED = 3  # of these, in the flag


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

    What is registered already, as after an interruption, is returned as it stands. What is new gets the key `earlier`
    where the store holds the audited model's answers already: the hashes of all registrations that name the same look
    at it, sorted. Without such registrations (a fleet that made models ahead, say) there is no such key.
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
    others = _of_the_same_look(store, plain["models"].get("audited"))
    for digest, other in others.items():
        if {name: value for name, value in other.items() if name != EARLIER} == plain:
            return Registration(digest, other)
    if others and store.holding(plain["models"]["audited"]):
        plain[EARLIER] = list(others)
    digest = content_key(plain)
    store.note(f"registrations/{digest}.json", canonical(plain).encode())
    return Registration(digest, plain)


def _of_the_same_look(store: Store, look: Any) -> dict[str, dict[str, Any]]:
    """Documents in the store, by their hash and in its order, that name this look at the audited model."""
    found = {}
    for name, text in sorted(store.notes("registrations").items()):
        digest = name.removesuffix(".json")
        if look and hashlib.sha256(text).hexdigest() == digest:  # else damaged, or on its way
            document = json.loads(text)
            if document["models"].get("audited") == look:
                found[digest] = document
    return found


def late(registration: Registration | None) -> tuple[Flag, ...]:
    """The flag of a document that was registered after another look at the same model."""
    earlier = registration.document.get(EARLIER) if registration is not None else None
    if not isinstance(earlier, list) or not earlier:
        return ()
    named = ", ".join(f"{str(one)[:12]}…" for one in earlier[:_NAMED])
    more = f" and {len(earlier) - _NAMED:,} more" if len(earlier) > _NAMED else ""
    several = "1 earlier registration" if len(earlier) == 1 else f"{len(earlier):,} earlier registrations"
    return (
        Flag(
            "registered after another look",
            f"When these rules were registered, the store already held the audited model's answers and {several} for "
            f"them ({named}{more}): what other rules make of these answers could be known.",
        ),
    )


def grouped(groups: NDArray[np.int64] | None) -> str | None:
    """Hash of which example is in which group; None where there are no groups."""
    return None if groups is None or not groups.size else content_key(groups.tolist())
