"""Entries of ledgers as tests need them: small, valid, and of any deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlearnkit.audits.ledger import AuditRef, Entry, Points, Reading, Reference, Source, What, append

SALT = "0" * 32


def what(**changes: Any) -> What:
    return What(
        **{"kind": "class", "forget_class": 3, "class_name": "3", "count": 9, "salt": SALT, "ids": ()} | changes
    )


def audit_ref(verdict: Any = "PASS", **changes: Any) -> AuditRef:
    usual: dict[str, Any] = {"sha256": "a" * 64, "evidence_sha256": "b" * 64, "battery": "1", "tier": "minutes"}
    usual |= {"claim": "approximate", "significance": 0.05, "power": 0.8, "seed": 0}
    return AuditRef(verdict=verdict, **usual | changes)


def reference(**changes: Any) -> Reference:
    oracles: Any = {"accuracy": (0.0, 0.1), "margin": (-2.0, -1.5), "upper": (-1.0, -0.5)}
    usual: dict[str, Any] = {
        "architecture": "mlp",
        "private": False,
        "classes": 10,
        "shape": (1, 8, 8),
        "data": Source("digits", None, 0.2, 0),
        "tolerances": {"recognition": 0.05},
        "points": (Points("forgotten", ("c" * 32,), None),),
        "readings": (Reading("as shipped", "forgotten", 0.5, oracles, None),),
        "relearning": None,
        "missing": {},
    }
    return Reference(**usual | changes)


def step(name: str, state: Any, **changes: Any) -> Entry:
    """A step that may be appended, with what it must hold."""
    usual: dict[str, Any] = {"date": "2026-11-21"}
    if state in ("received", "audited"):
        usual["what"] = what()
    if state == "audited":
        usual |= {"audit": audit_ref(), "reference": reference()}
    return Entry(name, state, **usual | changes)


def written(path: Path, *steps: tuple[str, str]) -> Path:
    """A ledger of these steps."""
    for name, state in steps:
        append(path, step(name, state))
    return path
