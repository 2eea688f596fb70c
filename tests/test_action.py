"""The GitHub Action and the pre-commit hook: their own shell, run as a runner would, with hostile inputs too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ledger_samples import repository, written

from unlearnkit.audits.ledger.entries import read

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    repository(folder, "DR-1")
    tools = folder / "bin"
    tools.mkdir()
    (tools / "unlearnkit").write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m unlearnkit.audits.cli "$@"\n'
    )
    (tools / "unlearnkit").chmod(0o755)
    return folder


def step(made: Path, folder: Path, **inputs: str) -> tuple[int, dict[str, str], str, str]:
    """Exit code, outputs, step summary and standard error of the checking step."""
    said = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()} | inputs
    [chosen] = [one for one in STEPS if one.get("id") == "check"]
    variables = {
        name: said[value.removeprefix("${{ inputs.").removesuffix(" }}")] for name, value in chosen["env"].items()
    }
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    for file in files.values():
        file.touch()
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", chosen["run"]],
        cwd=folder,
        env={
            **variables,
            **{name: str(file) for name, file in files.items()},
            "PATH": f"{made / 'bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    outputs = dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
    return ran.returncode, outputs, (folder / "summary").read_text(), ran.stderr


def test_every_input_reaches_the_shell_as_a_variable_only() -> None:
    """An expression inside `run` would be pasted into the shell before it is read."""
    for one in STEPS:
        assert one["shell"] == "bash"
        assert "${{" not in one["run"]
    used = {value.strip("${} ").removeprefix("inputs.") for one in STEPS for value in one["env"].values()}
    assert used == set(ACTION["inputs"])
    assert set(ACTION["outputs"]) == {"verdict", "report"}


@pytest.mark.parametrize(
    ("asked", "installed"),
    [("action", "/the/action"), ("unlearnkit==0.1.0", "unlearnkit==0.1.0"), ("$(touch pwned)", "$(touch pwned)")],
)
def test_what_is_installed_is_the_action_itself_unless_something_else_is_named(
    tmp_path: Path, asked: str, installed: str
) -> None:
    assert ACTION["inputs"]["install"]["default"] == "action"
    [chosen] = [one for one in STEPS if "INSTALL" in one["env"]]
    tool = tmp_path / "python"
    tool.write_text("""#!/bin/sh\nprintf '%s\\n' "$@"\n""")
    tool.chmod(0o755)
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", chosen["run"]],
        cwd=tmp_path,
        env={"INSTALL": asked, "GITHUB_ACTION_PATH": "/the/action", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == ["-m", "pip", "install", "--quiet", "--", installed]
    assert [one.name for one in tmp_path.iterdir()] == ["python"]
    assert not any("uses" in one or "curl" in one["run"] or "wget" in one["run"] for one in STEPS)


def test_a_good_model_passes_and_writes_its_reports(made: Path, tmp_path: Path) -> None:
    inputs = {"ledger": str(made / "deletions.jsonl"), "model": str(made / "good.safetensors"), "report": "my report"}
    inputs["head"] = read(made / "deletions.jsonl").head
    code, outputs, summary, err = step(made, tmp_path, **inputs)
    assert (code, err) == (0, "")
    assert outputs == {"verdict": "PASS", "report": "my report"}
    assert summary.startswith("### ✅ unlearnkit check: PASS")
    assert sorted(one.name for one in (tmp_path / "my report").iterdir()) == ["check.md", "check.sarif", "check.xml"]


def test_a_bad_model_fails_the_step(made: Path, tmp_path: Path) -> None:
    inputs = {"ledger": str(made / "deletions.jsonl"), "model": str(made / "bad.safetensors")}
    code, outputs, summary, _ = step(made, tmp_path, **inputs)
    assert code == 1
    assert outputs == {"verdict": "FAIL", "report": "unlearnkit-check"}
    assert summary.startswith("### ❌ unlearnkit check: FAIL")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"tier": "weeks"}, "unlearnkit: the input tier must be seconds or minutes"),
        ({"tier": "minutes"}, "unlearnkit: tier minutes needs the input spec"),
        ({"report": "a\nverdict=PASS"}, "unlearnkit: the input report must be one line"),
        ({"head": "a" * 64}, "no line has the hash kept as --head: lines were cut off, or all was written anew"),
        ({"ledger": "$(touch pwned)`touch pwned`;touch pwned"}, "no such ledger"),
    ],
)
def test_wrong_inputs_are_refused_and_never_run(made: Path, tmp_path: Path, inputs: dict[str, str], said: str) -> None:
    usual = {"ledger": str(made / "deletions.jsonl"), "model": str(made / "good.safetensors")}
    code, outputs, _, err = step(made, tmp_path, **usual | inputs)
    assert (code, outputs) == (2, {})
    assert said in err
    assert not (tmp_path / "pwned").exists()


def test_the_pre_commit_hook_verifies_ledgers(made: Path, tmp_path: Path) -> None:
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert (hook["language"], hook["files"]) == ("python", r"(^|/)deletions\.jsonl$")
    ledger = written(tmp_path / "deletions.jsonl", ("DR-1", "received"), ("DR-2", "received"))
    environment = {"PATH": f"{made / 'bin'}:{os.environ['PATH']}"}

    def run() -> subprocess.CompletedProcess[str]:
        command = [*hook["entry"].split(), ledger.name]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert run().returncode == 0
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[1:]))
    refused = run()
    assert refused.returncode == 1
    assert "line 1 ('DR-2'): entry 1 before 'DR-2' was dropped" in refused.stdout
