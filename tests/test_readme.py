"""The README is true: its example runs, its spec is read, its pictures and folders are there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unlearnkit.audits.spec import parse_spec
from unlearnkit.methods import METHODS, method_named

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_spec_is_read_and_names_a_method_with_its_parameters():
    [text] = blocks("toml")
    spec = parse_spec(tomllib.loads(text), folder=ROOT)
    assert spec.method is not None
    assert method_named(spec.method.name, spec.method.params).params["lr"] == 0.013


def test_the_example_runs_and_forgets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", blocks("python")[0]], capture_output=True, text=True, check=True)
    original, unlearned = (eval(line.partition(" ")[2]) for line in done.stdout.splitlines())
    assert original["forget"] == 1.0
    assert unlearned["forget"] < 0.1
    assert unlearned["retain"] > 0.95


def test_the_fleet_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    code = f"{blocks('python')[1]}\nprint(margins.shape, margins.dtype)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(16, 1, 1797, 1) float32"]


def test_every_file_and_folder_it_names_is_there():
    named = set(re.findall(r"\]\(([\w./-]+)\)", README)) | set(re.findall(r"^\| `([\w/]+/)`", README, re.MULTILINE))
    assert {"docs/report-page-one.png", "attacks/", "benchmarks/"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_methods_in_the_changelog_are_those_there_are():
    listed = re.search(rf"{len(METHODS)} methods\s+\(([^)]*)\)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert listed is not None
    assert sorted(re.split(r",\s+", listed.group(1))) == sorted(METHODS)
