"""What a check costs: a ledger of twenty class deletions of `small-cnn` on the digits; written to benchmarks/check.md.

    python benchmarks/check.py                    # a minute of training first: 19 oracles for each of two classes

Two classes are requested ten times each, under ids of their own: twenty audited entries with every treatment and
relearning, each of which is looked up, measured and judged by itself.
Measured is the whole command as a CI step runs it: interpreter, imports, data, ledger, twenty deletions, three report
files; its wall clock, and the processor time it used, which other programs on the machine do not lengthen as much. And
what the pytest plugin costs where nothing is asked of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from unlearnkit.audits.audit import audit, fleet_for, save_audit
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.ledger.entries import append
from unlearnkit.audits.ledger.recorded import entry_of
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.subjects import models_of
from unlearnkit.models import save_model
from unlearnkit.store import Store

HERE = Path(__file__).parent
LIMIT, PLUGIN_LIMIT = 10.0, 20.0  # seconds, milliseconds
RUNS = 5
PLUGIN = (
    "import pytest, time; start = time.perf_counter(); import unlearnkit.audits.pytest_plugin; "
    "print(time.perf_counter() - start)"
)


def made(folder: Path, epochs: int, oracles: int) -> Path:
    """A ledger of twenty class deletions, and the original model."""
    store, ledger = Store(folder / "store"), folder / "deletions.jsonl"
    for label in range(2):
        body = {
            "recipe": {"epochs": epochs},
            "deletion": {"id": f"DR-{label}-0", "forget_class": label},
            "method": {"name": "Retrain"},
            "audit": {"oracles": oracles},
        }
        spec = parse_spec(body, folder=folder)
        case = prepare(spec)
        fleet = fleet_for(case, store)
        result, sidecar = audit(spec, fleet, command="benchmark", case=case)
        path = save_audit(folder / f"audit-{label}", result, sidecar)
        entry = entry_of(path, salt=f"{label:032x}", store=store)
        for name in range(10):
            append(ledger, type(entry)(**{**vars(entry), "id": f"DR-{label}-{name}"}))
        original = fleet.read(models_of(case, demand(case), store).original)
        save_model(folder / "model.safetensors", original, case.recipe.architecture)
        print(f"class {label}: audited", flush=True)
    return ledger


def timed(command: list[str]) -> tuple[float, float, int]:
    """Wall clock, processor time and exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    code = subprocess.run(command, capture_output=True, check=False).returncode
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, code


def main() -> None:
    """Make the ledger, time the command, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--oracles", type=int, default=19)
    parser.add_argument("--out", type=Path, default=HERE / "check.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = made(folder, asked.epochs, asked.oracles)
        command = [sys.executable, "-m", "unlearnkit.audits.cli", "check", str(ledger)]
        command += ["--model", str(folder / "model.safetensors"), "--junit", str(folder / "c.xml")]
        command += ["--summary", str(folder / "c.md"), "--sarif", str(folder / "c.sarif")]
        runs = [timed(command) for _ in range(RUNS)]
        size = ledger.stat().st_size
    assert {code for _, _, code in runs} == {1}  # the original remembers every class
    plugin = [
        1000 * float(subprocess.run([sys.executable, "-c", PLUGIN], capture_output=True, text=True, check=True).stdout)
        for _ in range(RUNS)
    ]
    walls, processors = [wall for wall, _, _ in runs], [processor for _, processor, _ in runs]
    rows = [
        "| work | best | median of 5 | processor time | reach |",
        "| --- | --- | --- | --- | --- |",
        f"| `unlearnkit check`, 20 class deletions, `small-cnn`, digits | {min(walls):.1f} s | "
        f"{statistics.median(walls):.1f} s | {min(processors):.1f} s | ≤ {LIMIT:g} s |",
        f"| pytest plugin, not asked | {min(plugin):.1f} ms | {statistics.median(plugin):.1f} ms | – | "
        f"≤ {PLUGIN_LIMIT:g} ms |",
    ]
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
    told = (
        f"The ledger has {size / 1024:.0f} KiB: {asked.oracles} oracles for each deletion, four treatments and "
        "relearning.\n\n"
        f"Recorded by `python benchmarks/check.py`: {machine}, load average {os.getloadavg()[0]:.1f} (of other work on "
        "the machine too) while it was measured."
    )
    asked.out.write_text("\n".join(["# The check", "", *rows, "", told]) + "\n")


if __name__ == "__main__":
    main()
