"""Speed of whole audits and of their statistics; written to benchmarks/audit.md.

    OMP_NUM_THREADS=1 python benchmarks/audit.py

On a shared machine the ratio to a naive twin says more than the seconds; of each figure the best of several rounds.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unlearnkit.audits.audit import audit, fleet_for, save_audit
from unlearnkit.audits.battery import judge
from unlearnkit.audits.case import prepare
from unlearnkit.audits.simulate import simulate, standard_plan
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.statistics.roc import auc, auc_bootstrap
from unlearnkit.audits.subjects import original_job
from unlearnkit.models import save_model
from unlearnkit.reports.pdf import write_report
from unlearnkit.store import Store

HERE = Path(__file__).parent
ROUNDS = 5
SPEC: dict[str, Any] = {
    "data": {"source": "digits"},
    "model": {"architecture": "small-cnn"},
    "canaries": {"count": 200, "seed": 0},
    "deletion": {"id": "BENCHMARK", "forget_fraction": 0.1},
    "method": {"name": "FineTune"},
}


def seconds(task: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Best wall time of one call."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        found.append(time.perf_counter() - start)
    return min(found)


def whole_audit(tier: str, folder: Path) -> float:
    """From the weights of a trained original to the PDF: unlearning, retraining, looking, judging, typesetting."""
    case = prepare(parse_spec({**SPEC, "audit": {"tier": "seconds"}}, folder=folder), sealed=folder / "canaries.json")
    assert case.manifest is not None
    case.manifest.save(folder / "canaries.json")
    store = Store(folder / "trained")
    fleet = fleet_for(case, store)
    original = original_job(case, store)
    fleet.run([original])
    save_model(folder / "model.safetensors", fleet.read(original), case.recipe.architecture)
    given = {
        **SPEC,
        "model": {**SPEC["model"], "weights": "model.safetensors"},
        "canaries": {"manifest": "canaries.json"},
        "audit": {"tier": tier},
    }
    spec = parse_spec(given, folder=folder)

    def run() -> None:
        with tempfile.TemporaryDirectory() as out:
            made = prepare(spec)
            result, sidecar = audit(spec, fleet_for(made, Store(Path(out) / "store")), command="benchmark", case=made)
            write_report(save_audit(Path(out), result, sidecar), Path(out) / "report.pdf")

    return seconds(run, rounds=1)


def statistics(points: int = 5_000, models: int = 256) -> tuple[float, float]:
    """judge() alone, without and with logits and answers by class."""
    plan = standard_plan(tier="hours", classes=tuple("0123456789"))
    found = []
    for outputs in (False, True):
        made = simulate(0, requested=points, twins=1_000, canaries=500, oracles=models, outputs=outputs)
        found.append(seconds(lambda made=made: judge(made, plan), rounds=2))
    return found[0], found[1]


def without_canaries(points: int = 5_000) -> float:
    """judge() alone where no coin was tossed: requested against held-out, shuffled by class, on five copies too."""
    made = simulate(0, requested=points, twins=points, canaries=0, oracles=0, outputs=True)
    made = replace(made, label=np.arange(2 * points) % 10)
    plan = standard_plan(tier="seconds", classes=tuple("0123456789"))
    return seconds(lambda: judge(made, plan), rounds=2)


def bootstrap_auc(size: int = 5_000, resamples: int = 1_000) -> list[str]:
    """BCa interval of an AUC against one `auc` per resample, which gives the same law but no acceleration."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(0.5, 1.0, size), rng.normal(0.0, 1.0, size)
    lines = [f"| AUC, {size:,} + {size:,} scores, {resamples:,} resamples | ours | naive | ratio |", "| --- " * 4 + "|"]
    for name, (members, nonmembers) in (
        ("no ties", smooth),
        ("one decimal", (np.round(smooth[0], 1), np.round(smooth[1], 1))),
    ):

        def naive(members: np.ndarray = members, nonmembers: np.ndarray = nonmembers) -> None:
            for _ in range(resamples):
                auc(members[rng.integers(0, size, size)], nonmembers[rng.integers(0, size, size)])

        def fast(members: np.ndarray = members, nonmembers: np.ndarray = nonmembers) -> None:
            auc_bootstrap(members, nonmembers, resamples=resamples, seed=0)

        ours, theirs = seconds(fast), seconds(naive, rounds=1)
        lines.append(f"| {name} | {ours:.3f} s | {theirs:.2f} s | {theirs / ours:.0f} |")
    return lines


def main() -> None:
    """Write benchmarks/audit.md."""
    text = ["# Audits", "", "| what | figure | reach |", "| --- | --- | --- |"]
    for tier, reach, told in (
        ("seconds", "≤ 10 s", "tier `seconds`: a trained `small-cnn` on digits, FineTune, 100 + 100 canaries, PDF"),
        ("minutes", "≤ 300 s", "tier `minutes`: the same, 39 oracles and a held-out one trained"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            text.append(f"| {told} | {whole_audit(tier, Path(folder)):.1f} s | {reach} |")
    plain, full = statistics()
    about = "5,000 requested examples × 256 oracles, 500 + 500 canaries, one thread"
    text += [
        f"| statistics and controls alone (`judge`): {about} | {plain:.1f} s | ≤ 5 s |",
        f"| the same, and 200 whole outputs and answers by class of every model | {full:.1f} s | |",
        f"| `judge` without oracles and canaries: 5,000 requested and 5,000 held-out examples of ten classes, and five "
        f"compressed copies | {without_canaries():.1f} s | |",
        "",
        *bootstrap_auc(),
        "",
        f"Recorded by `OMP_NUM_THREADS=1 python benchmarks/audit.py`: {os.cpu_count()} CPU cores "
        f"({platform.machine()}), Python {platform.python_version()}, numpy {np.__version__}.",
        "",
    ]
    (HERE / "audit.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
