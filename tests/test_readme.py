"""The README is true: its example runs, its spec is read, its pictures and folders are there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from unlearnkit import types
from unlearnkit.attacks import ATTACKS, LABEL_ONLY, PROBES
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


def test_the_fleet_example_runs_and_is_attacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    [attacked] = (block for block in blocks("python") if "leave_one_out" in block)
    code = f"{blocks('python')[1]}\nprint(margins.shape, margins.dtype)\n{attacked}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shape, area = done.stdout.splitlines()
    assert shape == "(16, 1, 1797, 1) float32"
    assert 0.51 < float(area) < 0.7


def test_a_new_attack_is_as_short_as_it_says():
    [block] = (block for block in blocks("python") if "(Attack)" in block)
    names: dict[str, Any] = {**vars(types), "ClassVar": ClassVar, "NDArray": NDArray}
    exec(f"from __future__ import annotations\n{block}", names)
    views = np.array([[2.0, 2.0], [1.0, 3.0]])
    target = types.Observation(np.array(["a", "b"]), np.zeros(2, dtype=np.int64), views)
    assert names["Steady"]().score(target).values.tolist() == [0.0, -1.0]


def test_the_attacks_it_lists_are_those_there_are():
    section = README.partition("## Attacks\n")[2]
    assert re.findall(r"^\| ([A-Z]\w+) \|", section, re.MULTILINE) == list(ATTACKS)
    comparison = re.findall(r"^\| (\w+) \|.*comparison only", section, re.MULTILINE)
    assert comparison == [name for name, attack in ATTACKS.items() if not attack.weight]
    assert [name for name in (*LABEL_ONLY, *PROBES) if not re.search(rf"\b{name}\b", section)] == []


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
