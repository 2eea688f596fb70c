"""The demo: one original with committed canaries, two deletions, and three models audited for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearnkit.audits.audit import audit, fleet_for, save_audit
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.gathering import looks
from unlearnkit.audits.spec import Spec, parse_spec
from unlearnkit.audits.subjects import models_of
from unlearnkit.fleet import Watch
from unlearnkit.reports.pdf import write_report
from unlearnkit.result import AuditResult
from unlearnkit.store import Store

# 100 + 100 canaries resolve an AUC of about 0.61, so this demo cannot ask for the standard tolerance of 0.55.
BASE: dict[str, Any] = {
    "data": {"source": "digits"},
    "model": {"architecture": "small-cnn"},
    "canaries": {"count": 200, "seed": 0},
    "audit": {"tier": "minutes", "oracles": 19, "tolerances": {"auc": 0.15}},
    "report": {"organization": "Example Health AG · Model governance"},
}
DELETIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "tenth": ("a tenth of the examples", {"id": "DR-2026-017", "forget_fraction": 0.1}),
    "class": ("the class 3", {"id": "DR-2026-018", "forget_class": 3}),
}
SUBJECTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "original": ("nothing (untouched)", {"name": "none"}, "FAIL"),
    "finetune": ("FineTune", {"name": "FineTune"}, "FAIL"),
    "retrain": ("Retrain", {"name": "Retrain"}, "PASS"),
}


@dataclass(frozen=True)
class Audited:
    """One audit of the demo."""

    asked: str
    done: str
    expected: str
    result: AuditResult
    report: Path


def specs() -> dict[tuple[str, str], Spec]:
    """Deletion and subject -> the spec that `unlearnkit audit` would read from a file."""
    return {
        (deletion, subject): parse_spec(
            {**BASE, "deletion": DELETIONS[deletion][1], "method": SUBJECTS[subject][1]}, folder=Path()
        )
        for deletion in DELETIONS
        for subject in SUBJECTS
    }


def run_demo(out: Path, *, fresh: bool, watch: Watch) -> list[Audited]:
    """Train everything in one fleet, then audit and write six reports."""
    store = Store(out / "store")
    every = specs()
    case = prepare(every["tenth", "original"])
    cases = {key: replace(case, spec=spec) for key, spec in every.items()}
    # One fleet for everything: both cores stay busy from the first model to the last.
    wanted = {key: demand(this) for key, this in cases.items()}
    models = {key: models_of(this, wanted[key], store) for key, this in cases.items()}
    looked = [looks(this, wanted[key], models[key]) for key, this in cases.items()]
    jobs = [job for one in looked for group in one.asked.values() for job in group]
    fleet = fleet_for(case, store, fresh=fresh, watch=watch)
    fleet.run(jobs)
    fleet.watch = None  # the audits find everything made
    told: list[Audited] = []
    for (deletion, subject), spec in every.items():
        result, sidecar = audit(spec, fleet, command="unlearnkit demo", case=cases[deletion, subject])
        folder = out / f"{deletion}-{subject}"
        write_report(save_audit(folder, result, sidecar), folder / "report.pdf")
        asked, (done, _, expected) = DELETIONS[deletion][0], SUBJECTS[subject]
        told.append(Audited(asked, done, expected, result, folder / "report.pdf"))
    return told


__all__ = ["Audited", "run_demo", "specs"]
