"""The house: who may import whom, what starts without torch, and that every module says what it is."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from conftest import ROOMS, ROOT, shaped

import unlearnkit
from unlearnkit.observing import margin

PARTS = ("audits/ledger", "audits/statistics", "audits/worst_case")
GROUND = (
    "compress",
    "data",
    "editing",
    "engines",
    "fleet",
    "hardest",
    "jobs",
    "masks",
    "methods",
    "models",
    "observing",
    "provenance",
    "relearning",
    "result",
    "stacked",
    "store",
    "train",
    "treatments",
    "types",
    "unlearning",
)
# The files of `audits` that may look into the rooms beside: the two faces, the battery, and what makes whole reports.
SEE_ALL = ("cli.py", "pytest_plugin.py", "battery.py", "demo.py", "verify.py")
# Arrays in, typed numbers out: these import numpy and scipy only.
STATISTICS = ("statistics/", "worst_case/simplex.py", "worst_case/pool_search.py")
PRINTS = ("audits/cli.py",)


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in the file, `from a import b` as a.b, with its level of dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module or ''}.{alias.name}".strip("."), node.level) for alias in node.names)


def room_of(module: str) -> str:
    """ "unlearnkit.audits.battery" -> "audits", "unlearnkit.types.Examples" -> "ground", "numpy.typing" -> ""."""
    parts = module.split(".")
    if parts[0] != "unlearnkit":
        return ""
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "ground"


def dotted(name: str) -> str:
    """ "statistics/" -> "statistics", "worst_case/simplex.py" -> "worst_case.simplex"."""
    return name.removesuffix(".py").strip("/").replace("/", ".")


def within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(f"{allowed}.")


def complaints(path: str, source: str) -> list[str]:
    """What is wrong with a file, named by its path from the root."""
    tree = ast.parse(source)
    room, _, file = path.partition("/")
    found = []
    if not ast.get_docstring(tree) and room != "tests":
        found.append("starts without a docstring")
    for module, level in imports(tree):
        if level:
            found.append(f"relative import of {module}")
        if module.split(".")[0] in ROOMS and not level:
            found.append(f"bare import of {module}")
        target = room_of(module)
        if room == "unlearnkit" and target in ROOMS:
            found.append(f"the ground floor imports {module}")
        if room in ("attacks", "reports") and target not in ("", "ground", room):
            found.append(f"{room} imports {module}")
        if room == "audits" and target in ("attacks", "reports") and file not in SEE_ALL:
            found.append(f"audits/{file} imports {module}")
        if room == "audits" and file.startswith(STATISTICS):
            own = ("unlearnkit.result", *(f"unlearnkit.audits.{dotted(name)}" for name in STATISTICS))
            standard = module.split(".")[0] in (*sys.stdlib_module_names, "numpy", "scipy")
            if not standard and not any(within(module, name) for name in own):
                found.append(f"statistics import {module}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            if node.type is None or (broad and all(isinstance(step, ast.Pass) for step in node.body)):
                found.append(f"line {node.lineno} catches everything and says nothing")
        call = node.func if isinstance(node, ast.Call) else None
        if isinstance(call, ast.Name) and call.id == "print" and room in (*ROOMS, "unlearnkit") and path not in PRINTS:
            found.append(f"line {node.lineno} prints")
    return found


def files() -> list[str]:
    folders = [*ROOMS, *PARTS, "unlearnkit", "unlearnkit/methods", "tests", "benchmarks", "docs"]
    paths = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


@pytest.mark.parametrize("path", files())
def test_every_file_keeps_the_rules(path: str):
    assert complaints(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_no_file_is_overlooked():
    found = files()
    assert {f"unlearnkit/{name}.py" for name in GROUND if name != "methods"} < set(found)
    assert all(any(file.startswith(f"audits/{name}") for file in found) for name in STATISTICS)
    nested = {path.parent for room in (*ROOMS, "tests") for path in (ROOT / room).glob("**/*.py")}
    assert {path.relative_to(ROOT).as_posix() for path in nested} == {*ROOMS, *PARTS, "tests"}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {f"unlearnkit.{path.replace('/', '.')}" for path in (*ROOMS, *PARTS)}
    assert {*packages} == {"unlearnkit", "unlearnkit.methods", *rooms}
    assert {path.name for path in (ROOT / "unlearnkit").iterdir() if path.is_dir() and path.name[0] not in "_."} == {
        *ROOMS,
        "methods",
    }


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "attacks/a.py",
            "from unlearnkit.audits.statistics.roc import auc",
            "attacks imports unlearnkit.audits.statistics.roc.auc",
        ),
        ("attacks/a.py", "from unlearnkit import reports", "attacks imports unlearnkit.reports"),
        ("reports/a.py", "import unlearnkit.attacks.signals", "reports imports unlearnkit.attacks.signals"),
        (
            "reports/a.py",
            "def f():\n    from unlearnkit.audits.statistics import roc",
            "reports imports unlearnkit.audits.statistics.roc",
        ),
        ("audits/statistics/roc.py", "import torch", "statistics import torch"),
        (
            "audits/statistics/coin.py",
            "from unlearnkit.types import Scores",
            "statistics import unlearnkit.types.Scores",
        ),
        (
            "audits/statistics/coin.py",
            "from unlearnkit.audits.battery import x",
            "statistics import unlearnkit.audits.battery.x",
        ),
        ("audits/audit.py", "import unlearnkit.attacks", "audits/audit.py imports unlearnkit.attacks"),
        (
            "audits/a.py",
            "if TYPE_CHECKING:\n    from unlearnkit.reports import pdf",
            "audits/a.py imports unlearnkit.rep",
        ),
        ("unlearnkit/a.py", "from unlearnkit.attacks import x", "the ground floor imports unlearnkit.attacks.x"),
        ("unlearnkit/methods/a.py", "from unlearnkit import audits", "the ground floor imports unlearnkit.audits"),
        ("unlearnkit/a.py", "from . import types", "relative import of types"),
        ("audits/cli.py", "from ..reports import pdf", "relative import of reports.pdf"),
        ("tests/test_a.py", "import attacks", "bare import of attacks"),
        ("tests/test_a.py", "from audits.battery import judge", "bare import of audits.battery.judge"),
        ("unlearnkit/a.py", "try:\n    pass\nexcept:\n    raise", "line 3 catches everything"),
        ("unlearnkit/a.py", "try:\n    pass\nexcept Exception:\n    pass", "line 3 catches everything"),
        ("audits/a.py", "print(1)", "line 1 prints"),
        ("audits/a.py", "x = 1", "starts without a docstring"),
    ],
)
def test_the_rules_can_be_broken(path: str, source: str, complaint: str):
    assert any(complaint in found for found in complaints(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("attacks/a.py", "from unlearnkit.attacks.signals import margin\nfrom unlearnkit.types import Scores"),
        ("audits/battery.py", "from unlearnkit.attacks import Threshold"),
        ("audits/cli.py", "from unlearnkit.reports.pdf import render\nprint(1)"),
        (
            "audits/statistics/rank.py",
            "import math\nimport numpy.typing\nfrom scipy import stats\nfrom unlearnkit.audits.statistics.roc import x",
        ),
        ("unlearnkit/a.py", "import reporting\nfrom auditsomething import x"),
    ],
)
def test_the_rules_let_through_what_is_allowed(path: str, source: str):
    assert complaints(path, f'"""A file."""\n{source}') == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_are_linked_into_the_package(room: str):
    link = ROOT / "unlearnkit" / room
    if not link.is_symlink() and sys.platform == "win32":
        pytest.skip("this checkout has no symbolic links")
    assert link.readlink() == Path("..") / room
    assert (link / "__init__.py").is_file()


def test_what_needs_no_torch_starts_without_it():
    modules = ["unlearnkit", "unlearnkit.audits.pytest_plugin", "unlearnkit.result", "unlearnkit.store"]
    modules += [
        "unlearnkit.audits.ledger.entries",
        "unlearnkit.audits.ledger.formats",
        "unlearnkit.audits.cli",
        "unlearnkit.reports.pdf",
    ]
    code = f"import sys\nfor name in {modules!r}:\n    __import__(name)\n    print(name, 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [f"{name} False" for name in modules]


def test_every_public_name_resolves():
    assert sorted(unlearnkit.__all__) == unlearnkit.__all__
    assert sorted(name for names in unlearnkit._HOME.values() for name in names) == unlearnkit.__all__
    # in a fresh process, where nothing has been imported yet
    code = "import unlearnkit as u\nassert all(getattr(u, name).__name__ == name for name in u.__all__)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="module 'unlearnkit' has no attribute 'forget'"):
        unlearnkit.forget  # noqa: B018


def test_no_verb_bears_the_name_of_a_module():
    """Importing a module puts it on the package under its own name, and would hide a verb of that name."""
    modules = {path.stem for path in (ROOT / "unlearnkit").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(unlearnkit.__all__)


@pytest.mark.parametrize("module", shaped())
def test_shapes_in_annotations_are_checked_while_the_tests_run(module: str) -> None:
    assert type(importlib.import_module(module).__spec__.loader).__module__.startswith("jaxtyping")


def test_a_wrong_shape_is_noticed() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="logits"):
        margin(np.zeros((2, 3), dtype=np.int64), np.zeros(2, dtype=np.int64))
