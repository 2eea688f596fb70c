"""The demo: one original with committed canaries, two deletions, and three models audited for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearnkit.audits.audit import OnDone, audit, oracle_jobs, save_audit
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.spec import Spec, parse_spec
from unlearnkit.fleet import run_jobs
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


def run_demo(out: Path, *, fresh: bool, start: Callable[[int], OnDone]) -> list[Audited]:
    """Train everything in one fleet, then audit and write six reports."""
    store = Store(out / "store")
    every = specs()
    case = prepare(every["tenth", "original"])
    cases = {key: replace(case, spec=spec) for key, spec in every.items()}
    # One fleet for all retrainings: both cores stay busy from the first model to the last.
    wanted = {deletion: demand(cases[deletion, "original"]) for deletion in DELETIONS}
    jobs = [case.original, *(job for d in DELETIONS for job in oracle_jobs(cases[d, "original"], wanted[d]))]
    on_done = start(len(jobs) + 4)
    run_jobs(jobs, case.train, store, fresh=fresh, on_done=on_done)
    told: list[Audited] = []
    for (deletion, subject), spec in every.items():
        this = cases[deletion, subject]
        result, sidecar = audit(spec, store, command="unlearnkit demo", case=this, on_done=_new(on_done))
        folder = out / f"{deletion}-{subject}"
        write_report(save_audit(folder, result, sidecar), folder / "report.pdf")
        asked, (done, _, expected) = DELETIONS[deletion][0], SUBJECTS[subject]
        told.append(Audited(asked, done, expected, result, folder / "report.pdf"))
    return told


def _new(on_done: OnDone) -> OnDone:
    """Count only models that were not made before; the fleet has told of the others already."""

    def told(job: Any, was_there: bool) -> None:
        if not was_there:
            on_done(job, False)

    return told


__all__ = ["Audited", "run_demo", "specs"]
