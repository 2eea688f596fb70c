"""examples/ci does what its README says: the CI script passes, and fails once the class is fine-tuned back in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unlearnkit.audits.ledger.entries import read

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("team") / "ci"
    shutil.copytree(ROOT / "examples" / "ci", folder)
    tools = folder / "bin"
    tools.mkdir()
    for name, module in (("unlearnkit", "-m unlearnkit.audits.cli"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" {module} "$@"\n')
        (tools / name).chmod(0o755)
    return folder


def run(repository: Path, *command: str) -> tuple[int, str]:
    """Exit code and what a developer sees, spaces and the table's lines folded."""
    ran = subprocess.run(
        command,
        cwd=repository,
        env={**os.environ, "PATH": f"{repository / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return ran.returncode, " ".join(re.sub("[│┃]", " ", ran.stdout + ran.stderr).split())


def test_the_readme_names_the_scripts_in_their_order(repository: Path) -> None:
    [shell] = re.findall(r"^```sh\n(.*?)^```", (repository / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [line.partition("#")[0].split() for line in shell.splitlines()]
    assert commands == [["bash", "forget.sh"], ["bash", "ci.sh"], ["python", "remember.py"], ["bash", "ci.sh"]]


def test_ci_passes_and_fails_when_the_class_comes_back(repository: Path) -> None:
    code, told = run(repository, "bash", "forget.sh")
    assert code == 0, told
    [one] = read(repository / "deletions.jsonl").deletions()
    assert [entry.state for entry in one.lines] == ["received", "audited", "released"]
    assert one.lines[1].reference is not None
    assert one.lines[1].reference.missing == {}

    code, told = run(repository, "bash", "ci.sh")
    assert code == 0, told
    assert "WHOLE deletions.jsonl: 3 lines" in told
    assert "PASS 1 deletion checked: everything once forgotten is still forgotten" in told

    code, told = run(repository, "python", "remember.py")
    assert code == 0, told
    code, told = run(repository, "bash", "ci.sh")
    assert code == 1
    assert re.search(
        r"DR-2026-017 FAIL Right answers on forgotten examples: (9\d\.\d|100\.0) %, retrained models 0\.0 %\. "
        r"The model remembers them again\.",
        told,
    ), told
    assert told.endswith("FAIL 1 of 1 deletion fails.")
    assert "| DR-2026-017 | ❌ FAIL |" in (repository / "check.md").read_text()

    code, told = run(
        repository, "python", "-m", "pytest", "-p", "no:unlearnkit", "-p", "unlearnkit.audits.pytest_plugin"
    )
    assert code == 1
    assert "model.safetensors does not keep the deletion 'DR-2026-017'." in told
    assert "1 failed, 1 passed" in told
