"""Entries of ledgers as tests need them: small, valid, and of any deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearnkit.audits.ledger.entries import AuditRef, Entry, Points, Reading, Reference, Source, What, append, hashed
from unlearnkit.audits.ledger.rechecks import SHIPPED, content, margins_of, reading_of, statistics
from unlearnkit.data import load
from unlearnkit.models import Architecture, build, save_model

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


def repository(folder: Path, *names: str) -> Path:
    """A ledger, data and two models, made in no time: `good` is one more untrained network like the nineteen that play
    the oracles, `bad` answers everything with the class to be forgotten. The ledger holds a deletion for each name.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    for part in ("train", "test"):
        images = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
        np.save(folder / f"{part}.npy", images)
    arrays = {f"{part}_images": np.load(folder / f"{part}.npy") for part in ("train", "test")}
    np.savez(folder / "data.npz", **arrays, train_labels=labels[:, None], test_labels=labels[:, None])
    data = load(f"npz:{folder / 'data.npz'}")
    shape = Architecture("mlp", 3, (1, 8, 8))
    examples = data.train.take(np.flatnonzero(labels == 2))
    bad = build(shape, seed=99)
    save_model(folder / "good.safetensors", bad, shape)
    with torch.no_grad():
        bad.head.get_parameter("bias")[2] += 50.0
    save_model(folder / "bad.safetensors", bad, shape)
    oracles = np.stack([margins_of(build(shape, seed=seed), examples) for seed in range(19)])
    found = reference(
        classes=3,
        shape=(1, 8, 8),
        data=Source("npz:data.npz", None, 0.2, 0),
        tolerances={"recognition": 0.05, "class_margin": 3.0},
        points=(Points("forgotten", hashed(SALT, examples.ids.tolist()), content(SALT, examples)),),
        readings=(reading_of(SHIPPED, "forgotten", oracles, statistics(margins_of(bad, examples))),),
        missing={"relearned": "the entry was written without the store of the audit's oracles"},
    )
    for name in names:
        append(folder / "deletions.jsonl", step(name, "audited", what=what(forget_class=2), reference=found))
    return folder / "deletions.jsonl"
