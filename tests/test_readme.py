"""The README is true: its example runs, its spec is read, its pictures and folders are there."""

from __future__ import annotations

import dataclasses
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
from unlearnkit.audits.spec import WorstCaseSpec, parse_spec
from unlearnkit.methods import METHODS, method_named

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_spec_is_read_and_names_a_method_with_its_parameters():
    text, _ = blocks("toml")
    spec = parse_spec(tomllib.loads(text), folder=ROOT)
    assert spec.method is not None
    assert method_named(spec.method.name, spec.method.params).params["lr"] == 0.013


def test_the_worst_case_section_names_every_key_with_its_default():
    _, text = blocks("toml")
    spec = parse_spec(tomllib.loads(text), folder=ROOT)
    assert spec.worst_case == WorstCaseSpec(methods=[{"name": "SalUn", "lr": 0.013}])
    named = set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE)) | set(re.findall(r"; (\w+) = ", text))
    assert named == {field.name for field in dataclasses.fields(WorstCaseSpec)}


def test_all_examples_run_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """In one process, as whoever copies them does: the model forgets, the fleet is attacked, the class is edited."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    code = "\n".join([*blocks("python"), "print(margins.shape, margins.dtype, Shake().noise)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, edited, area, last = done.stdout.splitlines()
    original, unlearned = (eval(line.partition(" ")[2]) for line in (first, second))
    assert original["forget"] == 1.0
    assert unlearned["forget"] < 0.1
    assert unlearned["retain"] > 0.95
    head, features = map(float, re.findall(r"=(?:np\.float64\()?([\d.]+)", edited)[:2])
    assert head < 0.1 < 0.5 < features
    assert 0.51 < float(area) < 0.7
    assert last == "(16, 1, 1797, 1) float32 0.1"


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
