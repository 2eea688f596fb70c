"""The examples of docs/bring-your-own.md: run as a user would, at tiny size, without a change to the tool."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unlearnkit.audits import cli
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.verify import verify_file
from unlearnkit.reports.letterhead import LETTERHEAD, Letterhead
from unlearnkit.reports.pdf import attachments
from unlearnkit.result import AuditResult

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "bring_your_own"
GUIDE = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AuditResult]:
    """Run a script, then its spec; returns the result."""
    shutil.copytree(EXAMPLES, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # workers take longer to start than to train
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    before = set(sys.modules)

    def run(name: str, *arguments: str, change: dict[str, str] | None = None) -> AuditResult:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            runpy.run_path(f"{name}.py", run_name="__main__")
        spec = Path(f"{name}.toml")
        for old, new in (change or {}).items():
            assert old in spec.read_text()
            spec.write_text(spec.read_text().replace(old, new))
        monkeypatch.setattr(sys, "argv", ["unlearnkit", "audit", str(spec), "--tier", "seconds", "--out", "out"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, 1, 3)
        assert Path("out/report.pdf").read_bytes().startswith(b"%PDF")
        assert verify_file(Path("out/audit.json")).passed  # nothing that the spec names is imported again
        return AuditResult.from_json(Path("out/audit.json").read_bytes())

    yield run  # type: ignore[misc]
    for module in {"plain_pytorch", "torchvision_model", "third_party"} & (set(sys.modules) - before):
        del sys.modules[module]


def test_a_plain_training_script(example: Callable[..., AuditResult]) -> None:
    result = example("plain_pytorch", "--epochs", "6", change={"epochs = 10": "epochs = 6"})
    assert result.request.id == "DR-2026-021"
    assert result.model.recipe["trainer"] == "plain_pytorch:train"
    assert (result.data.train, result.data.test) == (1437, 360)
    right = {(a.model, a.split): a.rate.value for a in result.accuracy}
    assert right["original", "forget"] > 0.7 > 0.1 > right["audited", "forget"]  # retrained by the script's own loop


def test_a_torchvision_model(example: Callable[..., AuditResult]) -> None:
    few = {"torchvision_model:data": "torchvision_model:few", "epochs = 10": "epochs = 1"}
    result = example("torchvision_model", "--few", "--epochs", "1", change=few)
    assert result.model.architecture == "torchvision:shufflenet_v2_x0_5"
    assert result.data.shape == (3, 32, 32)
    assert result.method.name == "FineTune"


def test_a_checkpoint_that_somebody_else_unlearned(example: Callable[..., AuditResult]) -> None:
    Path("ours.toml").write_text('organization = "Muster AG"\nlanguage = "de"\n')
    headed = {"[audit]": '[report]\nletterhead = "ours.toml"\n[audit]'}
    result = example("third_party", change=headed)
    letterhead = attachments(Path("out/report.pdf"))[LETTERHEAD]
    assert Letterhead.from_json(letterhead) == Letterhead("Muster AG", language="de")
    assert result.request.forget == 100
    assert result.method.saw is None
    assert result.model.original_sha256 != result.model.audited_sha256
    assert "DR-2026-023" in result.request.id


def test_the_guide_is_true() -> None:
    for target in re.findall(r"\]\(\.\./([^)]+)\)", GUIDE):
        assert (ROOT / target).exists(), target
    assert {path.name for path in EXAMPLES.glob("*.*")} == set(re.findall(r"bring_your_own/([\w.]+)\)", GUIDE))
    for spec in EXAMPLES.glob("*.toml"):
        parse_spec(tomllib.loads(spec.read_text(encoding="utf-8")), folder=EXAMPLES)
    [letterhead] = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    body = {**tomllib.loads(letterhead), "logo": ""}
    assert Letterhead(**{**body, "logo": b""}).table()["title"] == "Hat unser Modell vergessen?"
