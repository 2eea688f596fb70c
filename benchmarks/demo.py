"""Time and memory of `unlearnkit demo` in an empty folder, written to benchmarks/demo.md.

    python benchmarks/demo.py

Memory is the proportional set size of the command and of all its worker processes together, looked at ten times a
second (Linux only). One plain training, in a process of its own on one thread, is timed in the same run: on a shared
machine the ratio says more than the seconds.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ONE = """
import time, unlearnkit as uk
digits = uk.load("digits")
recipe = uk.Recipe(uk.Architecture("small-cnn", 10, (1, 8, 8)))
uk.fit(recipe, digits.train, seed=0)
start = time.perf_counter()
uk.fit(recipe, digits.train, seed=1)
print(time.perf_counter() - start)
"""


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def memory(pid: int) -> int:
    """Proportional set size of the tree, in bytes."""
    total = 0
    for member in tree(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between two looks
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    """Run, measure, record."""
    one = float(subprocess.run([sys.executable, "-c", ONE], capture_output=True, text=True, check=True).stdout)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        demo = subprocess.Popen(
            [sys.executable, "-m", "unlearnkit.audits.cli", "demo", "--out", f"{folder}/demo"],
            stdout=subprocess.PIPE,
            text=True,
        )
        peak = 0
        while demo.poll() is None:
            with contextlib.suppress(FileNotFoundError):  # it ended between the question and the answer
                peak = max(peak, memory(demo.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        if demo.returncode:
            raise SystemExit(f"the demo ended with exit code {demo.returncode}")
        models = len(list(Path(folder).rglob("*.safetensors"))) - 6
    text = f"""# The demo

Recorded by `python benchmarks/demo.py` on {os.cpu_count()} CPU cores ({platform.machine()}, Python \
{platform.python_version()}); installation not counted. The machine was shared: read the ratio.

| what | figure |
| --- | --- |
| wall time of `unlearnkit demo`, empty folder, six PDFs included | {seconds:.1f} s |
| models made | {models} |
| one plain training, one thread, same run | {one:.2f} s |
| wall time as a multiple of one training | {seconds / one:.1f} |
| peak memory, all processes together | {peak / 2**30:.2f} GiB |
"""
    (HERE / "demo.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
