"""The pytest plugin: one test per deletion, words that a developer can act on, and nothing at all when not asked."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from ledger_samples import repository, written

import unlearnkit.audits.ledger.check  # noqa: F401 - runs within this process forget what they import, torch must not be
from unlearnkit.audits.ledger.entries import read
from unlearnkit.audits.pytest_plugin import NotForgotten, assert_forgotten
from unlearnkit.data import split
from unlearnkit.models import Architecture, build

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
# The plugin by its module: the entry point is there only where the package is installed.
PLUGIN = ("-p", "no:unlearnkit", "-p", "unlearnkit.audits.pytest_plugin", "-p", "no:cacheprovider")
Run = Callable[..., pytest.RunResult]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    repository(folder, "DR-1", "DR-2")
    return folder


@pytest.fixture
def run(pytester: pytest.Pytester, made: Path) -> Run:
    """Run pytest in an empty folder, on the sample's ledger and model."""

    def go(model: str = "good", *more: str, ledger: Path | None = None) -> pytest.RunResult:
        asked = [f"--unlearnkit-ledger={ledger or made / 'deletions.jsonl'}"]
        asked += [f"--unlearnkit-model={made / f'{model}.safetensors'}"]
        return pytester.runpytest_inprocess(*PLUGIN, *asked, *more)

    return go


def test_the_entry_point_names_this_plugin() -> None:
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert entry == {"unlearnkit": "unlearnkit.audits.pytest_plugin"}


def test_one_test_for_each_deletion(run: Run, made: Path, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_own():\n    pass")
    found = run("good", "-v", f"--unlearnkit-head={read(made / 'deletions.jsonl').head}")
    found.assert_outcomes(passed=3)
    found.stdout.fnmatch_lines(
        ["*test_own*PASSED*", "*deletions.jsonl::DR-1 PASSED*", "*deletions.jsonl::DR-2 PASSED*"]
    )


def test_a_model_that_remembers_fails_with_a_message(run: Run) -> None:
    found = run("bad")
    found.assert_outcomes(failed=2)
    found.stdout.fnmatch_lines(
        [
            "*unlearnkit: DR-1*",
            "*bad.safetensors does not keep the deletion 'DR-1'.",
            "  FAIL: Right answers on forgotten examples: 100.0*The model remembers them again. (p = *",
            "Unlearn again and audit the result, or do not ship this model.",
        ]
    )
    assert "pytest_plugin.py" not in found.stdout.str()  # no lines of ours in front of the message


def test_figures_reach_the_junit_file(run: Run, pytester: pytest.Pytester) -> None:
    run("bad", "--junitxml=found.xml")
    cases = ElementTree.parse(pytester.path / "found.xml").findall(".//testcase")
    assert [case.get("name") for case in cases] == ["DR-1", "DR-2"]
    figures = {one.get("name"): one.get("value") for one in cases[0].iter("property")}
    assert figures["unlearnkit.state"] == "FAIL"
    assert figures["unlearnkit.as shipped.forgotten examples.right answers"] == "1"
    assert float(figures["unlearnkit.as shipped.forgotten examples.right answers.p"] or 1) < 0.05


def test_tests_are_chosen_by_name_and_by_mark(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_own():\n    pass")
    run("good", "-k", "DR-2").assert_outcomes(passed=1, deselected=2)
    run("good", "-m", "unlearnkit", "--strict-markers").assert_outcomes(passed=2, deselected=1)
    run("good", "-m", "not unlearnkit").assert_outcomes(passed=1, deselected=2)


def test_every_option_has_a_twin_in_the_ini_file(pytester: pytest.Pytester, made: Path) -> None:
    for name in ("deletions.jsonl", "data.npz", "bad.safetensors"):
        (pytester.path / name).symlink_to(made / name)
    (pytester.path / "below").mkdir()
    pytester.makeini(
        """
        [pytest]
        unlearnkit_ledger = deletions.jsonl
        unlearnkit_model = bad.safetensors
        unlearnkit_data = npz:data.npz
        unlearnkit_inconclusive = skip
        """
    )
    with pytest.MonkeyPatch.context() as patch:  # paths of an ini file start where it lies
        patch.chdir(pytester.path / "below")
        good = f"--unlearnkit-model={made / 'good.safetensors'}"
        pytester.runpytest_inprocess(*PLUGIN, good).assert_outcomes(passed=2)
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(failed=2)
    # the command line wins
    pytester.runpytest_inprocess(*PLUGIN, f"--unlearnkit-model={made / 'good.safetensors'}").assert_outcomes(passed=2)


def test_it_works_under_xdist(run: Run) -> None:
    run("bad", "-n", "1").assert_outcomes(failed=2)


def test_an_undecided_deletion_fails_unless_told_to_skip(run: Run, tmp_path: Path) -> None:
    """Nothing can be checked: the data are gone."""
    ledger = repository(tmp_path, "DR-1")
    labels = np.arange(3)[:, None]
    images = np.zeros((3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", train_images=images, test_images=images, train_labels=labels, test_labels=labels)
    found = run("good", ledger=ledger)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["Whether *good.safetensors keeps the deletion 'DR-1' is not decided."])
    found.stdout.fnmatch_lines(["  NOT CHECKED: Not checked: * of 20 forgotten examples are not in the data."])
    found = run("good", "--unlearnkit-inconclusive=skip", "-rs", ledger=ledger)
    found.assert_outcomes(skipped=1)
    found.stdout.fnmatch_lines(["*INCONCLUSIVE: Nothing could be checked.*"])


def test_an_open_request_is_skipped(run: Run, tmp_path: Path) -> None:
    found = run("good", "-rs", ledger=written(tmp_path / "l", ("DR-9", "received")))
    found.assert_outcomes(skipped=1)
    found.stdout.fnmatch_lines(["*NOT CHECKED: The ledger says 'received'*"])


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("<<<<<<< ours\n", (), "*line 1: a merge conflict is left here*"),
        ("", ("--unlearnkit-inconclusive=maybe",), "*--unlearnkit-inconclusive must be fail or skip, got 'maybe'*"),
        ("", (), "*l: is empty: it holds no deletion, so there is nothing to hold a model against*"),
        ("", ("--unlearnkit-head=" + "a" * 64,), "*l: no line has the hash kept as --head: lines were cut off, or*"),
        ("", ("--unlearnkit-head=",), "*head: must be the 64 hexadecimal digits*got ''"),
    ],
)
def test_wrong_use_is_one_sentence(run: Run, tmp_path: Path, text: str, more: tuple[str, ...], said: str) -> None:
    (tmp_path / "l").write_text(text)
    found = run("good", *more, ledger=tmp_path / "l")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines([said])
    assert "Traceback" not in found.stderr.str()


def test_a_ledger_needs_a_model_and_a_missing_model_is_said(pytester: pytest.Pytester, run: Run, made: Path) -> None:
    found = pytester.runpytest_inprocess(*PLUGIN, f"--unlearnkit-ledger={made / 'deletions.jsonl'}")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*--unlearnkit-ledger needs --unlearnkit-model: name the weights*"])
    found = run("none")
    found.assert_outcomes(failed=2)
    found.stdout.fnmatch_lines(["*none.safetensors: no such weights file; name the model that is about to ship*"])


def test_the_check_is_a_fixture(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_worst(unlearnkit_check):
            assert unlearnkit_check.word == "FAIL"
            assert unlearnkit_check.deletions[0].id == "DR-1"
        """
    )
    run("bad", "-k", "worst").assert_outcomes(passed=1, deselected=2)
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(skipped=1)


def test_assert_forgotten_says_what_came_back(blobs) -> None:
    train, test = blobs(60, seed=1), blobs(30, seed=2, prefix="test")
    splits = split(train, test, np.flatnonzero(train.y == 2), forget_class=2)
    shape = Architecture("mlp", 3, (1, 8, 8))
    oracles = [build(shape, seed=seed) for seed in range(19)]
    model = build(shape, seed=99)
    kept: dict[str, object] = {}
    assert_forgotten(model, splits, oracles=oracles, record_property=kept.__setitem__, treatments=["as shipped"])
    assert kept["unlearnkit.state"] == "PASS"
    with torch.no_grad():
        model.head.get_parameter("bias")[2] += 50.0
    with pytest.raises(NotForgotten, match=r"(?s)the model does not keep the deletion 'forget set'.*Mean margin on"):
        assert_forgotten(model, splits, oracles=oracles)


def test_unasked_it_costs_nothing_and_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time, pytest\n"
        "before = set(sys.modules)\n"
        "start = time.perf_counter()\n"
        "import unlearnkit.audits.pytest_plugin\n"
        "took = time.perf_counter() - start\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pydantic', 'rich', 'typer'} & (set(sys.modules) - before)\n"
        "print(round(took * 1000, 2), sorted(heavy))"
    )
    took = []
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        milliseconds, heavy = ran.stdout.split(maxsplit=1)
        assert heavy.strip() == "[]"
        took.append(float(milliseconds))
    assert min(took) <= 20
    (tmp_path / "test_own.py").write_text("import sys\n\ndef test_own():\n    assert 'torch' not in sys.modules\n")
    command = [sys.executable, "-m", "pytest", "-q", *PLUGIN, "-p", "no:jaxtyping", str(tmp_path)]
    ran = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
