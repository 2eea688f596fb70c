"""The command line as a user meets it: every mistake one sentence and exit code 2, nothing lost, verdicts as codes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unlearnkit.attacks import ATTACKS, LABEL_ONLY, PROBES
from unlearnkit.audits import cli
from unlearnkit.audits.battery import PROBES as PROBES_OF
from unlearnkit.audits.terminal import check_folder
from unlearnkit.fleet import Progress
from unlearnkit.methods import METHODS
from unlearnkit.result import AuditResult

TINY = """
[model]
architecture = "mlp"
[recipe]
epochs = 2
[canaries]
count = 60
seed = 0
[deletion]
id = "DR-1"
forget_fraction = 0.1
[method]
name = "{method}"
[audit]
oracles = 19
"""


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command, spaces folded."""
    monkeypatch.setattr(sys, "argv", ["unlearnkit", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), " ".join(out.split()), " ".join(err.split())


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """Run a command that must be refused in one sentence; returns the sentence."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments: str, spec: str | None = None, names: str = "spec.toml: ") -> str:
        if spec is not None:
            (tmp_path / "spec.toml").write_text(spec)
            arguments = (*arguments, "spec.toml", "--out", "out")
        code, _, err = run(capsys, monkeypatch, *arguments)
        assert code == 2
        assert "Traceback" not in err
        sentences = [line for line in err.split("unlearnkit: ") if line]
        assert len(sentences) == 1
        assert spec is None or sentences[0].startswith(names)
        return sentences[0]

    return check


DELETE = '[deletion]\nid = "DR-1"\n{}\n[method]\nname = "FineTune"\n'


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("[recpie]\nepochs = 1", "unknown section [recpie]; did you mean 'recipe'?"),
        ("[recipe]\nepoch = 1", "recipe.epoch: unknown key; did you mean 'epochs'?"),
        ('[audit]\nseed = "zero"', "audit.seed: input should be a valid integer"),
        ("[audit.tolerances]\nauc = 5", "audit.tolerances.auc: must lie between 0 and 0.5"),
        ("[recipe]\nepochs = 0", "recipe.epochs: must be at least 1, got 0"),
        ("not toml", "not valid TOML"),
        ("", "a [deletion] section is needed"),
        (DELETE.format("forget_class = 17"), "class 17 does not occur in the training data; classes are 0 to 9"),
        (
            DELETE.format('forget_fraction = "10%"'),
            "deletion.forget_fraction: input should be a valid number, got '10%'; w",
        ),
        ('[deletion]\nforget_class = 1\n[method]\nname = "SalUn"\nlr = "0.1"', "got '0.1'; write 0.1 without quotes"),
        (DELETE.format("forget_fraction = 10"), "forget_fraction must lie between 0 and 1"),
        (DELETE.format("forget_class = 1\nforget_fraction = 0.1"), "give exactly one of"),
        (DELETE.format('forget_ids = "none.txt"'), "none.txt cannot be read"),
        ('[deletion]\nforget_class = 1\n[method]\nname = "SalUnn"', "did you mean 'SalUn'?"),
        ('[deletion]\nforget_class = 1\n[method]\nname = "SalUn"\nrl = 1', "did you mean 'lr'?"),
        ("[deletion]\nforget_class = 1", "a [method] section is needed"),
        ('[data]\nsource = "digit"\n' + DELETE.format("forget_class = 1"), "did you mean 'digits'?"),
        ('[data]\nsource = "npz:none.npz"\n' + DELETE.format("forget_class = 1"), "none.npz"),
        ('[model]\narchitecture = "smal-cnn"\n' + DELETE.format("forget_class = 1"), "did you mean 'small-cnn'?"),
        ('[audit]\ndevice = "cuda:99"\n' + DELETE.format("forget_class = 1"), "'cuda:99' was asked for"),
        ("[audit]\noracles = 5\n" + DELETE.format("forget_class = 1"), "needs at least 19 retrained models"),
        (
            DELETE.format("forget_fraction = 0.6"),
            "FineTune: the forget set must not be larger than the retain set, got 862 against 575 examples; a model "
            "that keeps so little is to be trained afresh, by Retrain",
        ),
        (
            DELETE.format("forget_fraction = 0.1").replace("FineTune", "ClassVectors"),
            "ClassVectors forgets whole classes only; ask for a class (forget_class), not for examples",
        ),
        ("[canaries]\ncount = 7\n" + DELETE.format("forget_class = 1"), "canaries.count: must be an even number"),
    ],
)
def test_a_wrong_spec_gives_one_sentence(refused, spec, said):
    assert said in refused("audit", spec=spec)


@pytest.mark.parametrize(("ids", "said"), [("digits/9999", "'digits/9999'"), ("", "forget_ids is empty")])
def test_forget_ids_must_name_training_examples(refused, tmp_path, ids, said):
    (tmp_path / "ids.txt").write_text(ids)
    assert said in refused("audit", spec=DELETE.format('forget_ids = "ids.txt"'))


def test_weights_are_refused_before_anything_is_trained(refused, tmp_path):
    spec = '[model]\nweights = "w.safetensors"\n' + DELETE.format("forget_class = 1")
    assert "no such weights file" in refused("audit", spec=spec, names="w.safetensors: ")
    save_file({"other": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert "do not fit 'small-cnn': keys" in refused("audit", spec=spec, names="w.safetensors: ")
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))
    assert "safetensors.torch.save_file" in refused("audit", spec=spec, names="w.safetensors: ")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("adit",), "No such command 'adit'"),
        (("audit",), "Missing argument"),
        (("audit", "none.toml"), "none.toml: no such spec file"),
        (("audit", "none.toml", "--tire", "x"), "No such option: --tire"),
        (("report", "none.json"), "none.json"),
        (("verify", "none.pdf"), "none.pdf: no such file"),
    ],
)
def test_a_wrong_command_gives_one_sentence(refused, arguments, said):
    assert said in refused(*arguments)


def test_an_unknown_tier_names_those_there_are(refused, tmp_path):
    (tmp_path / "spec.toml").write_text(DELETE.format("forget_class = 1"))
    assert "'seconds', 'minutes' or 'hours', got 'weeks'" in refused("audit", "spec.toml", "--tier", "weeks")


@pytest.mark.parametrize("command", ["audit", "train", "unlearn"])
def test_an_unknown_engine_names_the_nearest_before_anything_is_made(refused, tmp_path, command):
    said = refused(command, "--engine", "rai", spec=DELETE.format("forget_class = 1"), names="engine: ")
    assert "engine: must be one of local, ray, got 'rai'; did you mean 'ray'?" in said
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize("command", ["train", "unlearn", "audit", "worst-case", "demo"])
def test_an_output_folder_that_cannot_be_is_refused_before_training(refused, monkeypatch, tmp_path, command):
    monkeypatch.setattr("unlearnkit.audits.case.prepare", None)  # nobody gets that far
    (tmp_path / "spec.toml").write_text(DELETE.format("forget_class = 1"))
    asked = (command,) if command == "demo" else (command, "spec.toml")
    said = refused(*asked, "--out", "spec.toml")
    assert said == "spec.toml: is a file, and a folder is needed; name another place with --out"
    said = refused(*asked, "--out", "spec.toml/a/b")
    assert said == "spec.toml/a/b: spec.toml is a file, and a folder is needed; name another place with --out"
    assert refused(*asked, "--out", "") == "Invalid value for '--out': needs a name, got ''"
    said = refused(*asked, "--out", "a" * 300)
    assert said.endswith("a: nothing can be written there (file name too long); name another place with --out")

    def refuse(*, prefix: str, dir: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(dir / prefix))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", refuse)
        said = refused(*asked, "--out", "locked")
    assert said == "locked: nothing can be written there (permission denied); name another place with --out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locked", "spec.toml"]
    assert not list((tmp_path / "locked").iterdir())


def test_an_output_folder_may_be_checked_by_several_at_once_and_keeps_its_files(tmp_path: Path):
    (tmp_path / ".writable").write_text("somebody's own")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(check_folder, [tmp_path] * 400)) == [None] * 400  # a refusal would be raised here
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(".writable", "somebody's own")]


@pytest.mark.parametrize("command", ["report", "sign"])
def test_a_report_that_cannot_be_written_is_refused(refused, audited, monkeypatch, tmp_path, command):
    made = audited[0] / "out"
    monkeypatch.setattr("unlearnkit.audits.signing.read_identity", lambda *_, **__: None)
    asked = {
        "report": ("report", str(made / "audit.json")),
        "sign": ("sign", str(made / "report.pdf"), "--key", "key.pem", "--certificate", "certificate.pem"),
    }[command]
    (tmp_path / "dir.pdf").mkdir()
    assert refused(*asked, "-o", "dir.pdf").startswith("dir.pdf: is a folder, and a file is needed; name another place")
    (tmp_path / "file").touch()
    assert refused(*asked, "-o", "file/a.pdf") == (
        "file: is a file, and a folder is needed; name another place with --output"
    )
    assert refused(*asked, "-o", "") == "Invalid value for '--output' / '--out' / '-o': needs a name, got ''"


def test_debug_shows_the_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("UNLEARNKIT_DEBUG", "")  # restored after the test: --debug sets it
    code, _, err = run(capsys, monkeypatch, "--debug", "verify", str(tmp_path / "none.pdf"))
    assert code == 2
    assert "Traceback" in err


def test_version_and_lists(capsys, monkeypatch):
    assert re.fullmatch(r"unlearnkit \d+\.\d+\.\d+", run(capsys, monkeypatch, "--version")[1])
    monkeypatch.setenv("COLUMNS", "200")
    for command, names in (("methods", ("Retrain", "FineTune", "SalUn", "NegGradPlus")), ("attacks", ("Threshold",))):
        code, out, _ = run(capsys, monkeypatch, command)
        assert code == 0
        assert all(name in out for name in names)


def test_a_class_is_said_to_be_hidden_where_its_features_still_tell_it(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text(
        '[model]\narchitecture = "mlp"\n[recipe]\nepochs = 10\n[deletion]\nid = "DR-1"\nforget_class = 3\n'
        '[method]\nname = "ClassVectors"\n'
    )
    code, out, _ = run(capsys, monkeypatch, "unlearn", "spec.toml", "--out", "u")
    assert code == 0
    said = re.search(r"of class 3 the head still tells (\d+)%, the nearest class mean among the features (\d+)%", out)
    assert said is not None
    assert int(said[1]) <= 5
    assert int(said[2]) >= 85


def test_a_narrow_list_breaks_no_number_in_two(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, monkeypatch, "methods")
    assert code == 0
    words = out.split()
    for method in METHODS.values():
        assert method.__name__ in words
        for field in dataclasses.fields(method):
            assert f"{field.name}={getattr(field.default, 'name', field.default)}" in words


def test_attacks_are_listed_with_what_they_hold_or_ask_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["unlearnkit", "attacks"])
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    starts = [line.split()[0] for line in printed.splitlines() if line.strip()]
    names = [*ATTACKS, *LABEL_ONLY, *PROBES]
    assert [word for word in starts if word in set(names)] == names
    rows = {name: re.split(r"\n\s*\n", printed.split(f"\n {name} ")[1])[0] for name in names}
    assert [name for name in ATTACKS if "Comparison" in rows[name]] == ["MiaEfficacy", "BasicLogistic"]
    assert "references" in rows["LiRA"]
    assert "nothing more" in rows["Threshold"]
    assert "275 per example" in rows["BoundaryDistance"]
    assert ["a forgotten class" in rows[name] for name in PROBES] == [probe.class_wise for probe in PROBES.values()]


@pytest.mark.parametrize(
    "command",
    ["demo", "train", "unlearn", "audit", "worst-case", "report", "sign", "verify", "check", "methods", "attacks"],
)
def test_every_command_shows_an_example(capsys, monkeypatch, command):
    code, out, _ = run(capsys, monkeypatch, command, "--help")
    assert code == 0
    assert f"Example: unlearnkit {command}" in out


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """One tiny audit of the untouched original, through the real command in its own process."""
    folder = tmp_path_factory.mktemp("audited")
    (folder / "spec.toml").write_text(TINY.format(method="none"))
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "LOKY_MAX_CPU_COUNT": "2"}
    done = subprocess.run(
        command("audit", "spec.toml", "--out", "out"), cwd=folder, env=environment, capture_output=True, text=True
    )
    return folder, done


ASKED = 5  # oracles that the probes are put to here: fewer than in an audit, for the time it takes
FEWER = f"from unlearnkit.audits import cli, gathering; gathering.PROBED = {ASKED}; cli.main()"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", FEWER, *arguments]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Commands find the package, and make their models themselves: workers take longer to start than to train."""
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")


def test_an_audit_ends_with_its_verdicts_code_and_leaves_everything(audited):
    folder, done = audited
    result = json.loads((folder / "out" / "audit.json").read_text())
    codes = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INVALID": 4}
    assert done.returncode == codes[result["verdict"]["word"]]
    assert result["verdict"]["word"] in done.stdout
    assert (folder / "out" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert result["command"] == "unlearnkit audit spec.toml --out out"
    assert result["spec"]["recipe"]["epochs"] == 2


@pytest.mark.parametrize("word", ["PASS", "FAIL", "INCONCLUSIVE", "INVALID"])
def test_the_last_lines_say_why_nothing_was_decided_and_what_is_not_standard(audited, capsys, monkeypatch, word):
    folder, _ = audited
    monkeypatch.setattr(cli.console, "_width", 400)
    result = AuditResult.from_json((folder / "out" / "audit.json").read_bytes())
    verdict = dataclasses.replace(result.verdict, word=word, why=("Without retrained models no PASS can be given.",))
    cli._show(dataclasses.replace(result, verdict=verdict, nonstandard=("tolerance auc 0.4 instead of 0.05",)))
    out = capsys.readouterr().out
    assert ("  Without retrained models no PASS can be given.\n" in out) == (word in ("INCONCLUSIVE", "INVALID"))
    assert "NON-STANDARD: tolerance auc 0.4 instead of 0.05\n" in out


def test_a_fresh_report_verifies_and_an_altered_one_is_refused(audited, capsys, monkeypatch, tmp_path):
    folder, _ = audited
    code, out, _ = run(capsys, monkeypatch, "verify", str(folder / "out" / "report.pdf"))
    assert (code, "VERIFIED" in out) == (0, True)
    text = (folder / "out" / "audit.json").read_text()
    spot = re.search(r'"p_adjusted": 0\.(\d)', text)
    assert spot is not None
    digit = str((int(spot.group(1)) + 1) % 10)
    (tmp_path / "audit.json").write_text(text[: spot.start(1)] + digit + text[spot.end(1) :])
    (tmp_path / "evidence.safetensors").write_bytes((folder / "out" / "evidence.safetensors").read_bytes())
    code, out, _ = run(capsys, monkeypatch, "verify", str(tmp_path / "audit.json"))
    assert code == 1
    assert out.startswith(f"NO digest: {tmp_path / 'audit.json'}: the content does not match its own digest; the file ")
    assert out.endswith("REFUSED this file does not say what its evidence says, or its signature is broken")
    (tmp_path / "audit.json").write_text("{}")
    code, _, err = run(capsys, monkeypatch, "verify", str(tmp_path / "audit.json"))
    assert (code, "not an audit result of unlearnkit" in err) == (2, True)


def test_the_same_audit_is_added_to_a_ledger_once(audited, capsys, monkeypatch, tmp_path):
    ledger = str(tmp_path / "l")
    add = ("ledger", "add", ledger, str(audited[0] / "out" / "audit.json"), "--evidence-only")
    code, out, _ = run(capsys, monkeypatch, *add)
    assert (code, "line 1: DR-1 audited on 20" in out) == (0, True)
    code, said, _ = run(capsys, monkeypatch, "ledger", "add", ledger, "--id", "DR-1", "--state", "re-opened")
    head = said.split()[-1]
    text = Path(ledger).read_bytes()
    code, _, err = run(capsys, monkeypatch, *add)
    assert (code, "DR-1: this audit is line 1 already, and line 2 opened the deletion again" in err) == (2, True)
    assert (Path(ledger).read_bytes(), head in text.decode()) == (text, True)
    Path(ledger).write_bytes(text.splitlines(keepends=True)[0])
    code, out, _ = run(capsys, monkeypatch, *add)
    assert code == 0
    assert re.match(
        r"line 1: DR-1 audited on [\d-]+ with verdict INCONCLUSIVE, this audit is there already; nothing was added "
        r"head: [0-9a-f]{64}",
        out,
    )
    assert len(Path(ledger).read_bytes().splitlines()) == 1


def test_the_same_result_gives_the_same_report(audited, capsys, monkeypatch, tmp_path):
    folder, _ = audited
    again = tmp_path / "again.pdf"
    assert run(capsys, monkeypatch, "report", str(folder / "out" / "audit.json"), "-o", str(again))[0] == 0
    assert again.read_bytes() == (folder / "out" / "report.pdf").read_bytes()
    (tmp_path / "ours.toml").write_text('language = "de"')
    page, ours = tmp_path / "report.html", ("--organization", str(tmp_path / "ours.toml"))
    assert run(capsys, monkeypatch, "report", str(folder / "out" / "audit.json"), "-o", str(page), *ours)[0] == 0
    assert "Hat das Modell vergessen?" in page.read_text()
    said = str(folder / "out" / "audit.json"), "-o", str(page), *ours, "--language"
    assert run(capsys, monkeypatch, "report", *said, "en")[0] == 0
    assert "Did the model forget?" in page.read_text()
    code, _, err = run(capsys, monkeypatch, "report", *said, "fr")
    assert (code, err) == (2, "unlearnkit: --language: must be one of de, en, got 'fr'")


def test_train_unlearn_and_audit_what_somebody_else_unlearned(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text(TINY.format(method="FineTune"))
    code, out, _ = run(capsys, monkeypatch, "train", "spec.toml", "--out", "m", "--store", "store")
    assert code == 0
    manifest = json.loads(Path("m/canaries.json").read_text())
    assert manifest["commitment"] in out
    code, out, _ = run(capsys, monkeypatch, "unlearn", "spec.toml", "--out", "u", "--store", "store")
    assert code == 0
    assert "saw retain_inputs, retain_labels" in out
    Path("given.toml").write_text(
        TINY.format(method="FineTune")
        .replace('[method]\nname = "FineTune"\n', "")
        .replace("count = 60\nseed = 0", 'manifest = "m/canaries.json"')
        .replace('architecture = "mlp"', 'architecture = "mlp"\nweights = "m/model.safetensors"')
        .replace("oracles = 19", 'oracles = 19\nunlearned = "u/unlearned.safetensors"\ntier = "seconds"')
    )
    code, out, _ = run(capsys, monkeypatch, "audit", "given.toml", "--out", "a")
    assert code in (1, 3)
    result = json.loads(Path("a/audit.json").read_text())
    assert result["method"]["saw"] is None
    assert result["oracles"] is None
    assert result["canaries"]["commitment"] == manifest["commitment"]
    assert result["canaries"]["opened"] is True
    Path("bare.toml").write_text(Path("given.toml").read_text().replace('manifest = "m/canaries.json"', ""))
    code, _, err = run(capsys, monkeypatch, "audit", "bare.toml", "--out", "b")
    assert (code, "this model was trained with canaries" in err) == (2, True)
    assert result["model"]["original_sha256"] != result["model"]["audited_sha256"]


def test_secret_coins_are_sealed_before_training_and_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = TINY.format(method="none").replace("count = 60\nseed = 0", "count = 60")
    spec += 'tier = "seconds"\n'
    Path("spec.toml").write_text(spec)
    for out in ("one", "two", "one"):
        assert run(capsys, monkeypatch, "audit", "spec.toml", "--out", out)[0] in (1, 3)
    one, two = (json.loads(Path(out, "audit.json").read_text())["canaries"] for out in ("one", "two"))
    assert one["commitment"] == json.loads(Path("one/canaries.json").read_text())["commitment"]
    assert one["commitment"] != two["commitment"]
    assert one["opened"] is False
    # The model, its answers and those of its compressed copies: the second run found the same coins, and their model.
    assert len(kept(Path("one/store"))) == 3
    Path("spec.toml").write_text(spec.replace("count = 60", "count = 40"))
    code, _, err = run(capsys, monkeypatch, "audit", "spec.toml", "--out", "one")
    assert (code, "seals 60 canaries, but canaries.count asks for 40" in err) == (2, True)


def test_a_fault_of_the_program_is_no_verdict(capsys, monkeypatch, tmp_path):
    def broken(path: Path, **options: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("unlearnkit.audits.verify.verify_file", broken)
    (tmp_path / "x").write_text("{}")
    code, _, err = run(capsys, monkeypatch, "verify", str(tmp_path / "x"))
    assert code == 70
    assert "RuntimeError: broken" in err


def test_an_interrupted_audit_goes_on_where_it_stopped_and_ends_as_any_other(audited, tmp_path):
    """On one process, the one that nobody disturbed on two. What a kill leaves behind is tested with the fleet."""
    folder, _ = audited
    (tmp_path / "spec.toml").write_text(TINY.format(method="none"))
    started = subprocess.Popen(
        command("audit", "spec.toml", "--out", "out"), cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    store = tmp_path / "out" / "store"
    deadline = time.monotonic() + 120
    while len(kept(store)) < 4:
        assert started.poll() is None, "the audit ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert re.search(rb"interrupted; (\d+ new results? (is|are) kept|nothing new was finished yet), run", err), err
    assert b"Traceback" not in err
    assert not (tmp_path / "out" / "audit.json").exists()
    finished = {path: when for path, when in kept(store).items() if path.with_suffix(".json").exists()}
    assert len(finished) >= 3
    again = subprocess.run(command("audit", "spec.toml", "--out", "out"), cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode in (0, 1, 3)
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    first, second = (f / "out" / "evidence.safetensors" for f in (folder, tmp_path))
    assert first.read_bytes() == second.read_bytes()
    bodies = [json.loads((f / "out" / "audit.json").read_text()) for f in (folder, tmp_path)]
    for body in bodies:
        del body["environment"], body["digest"], body["oracles"]["seconds"]
    assert bodies[0] == bodies[1]


def kept(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors") if not path.name.startswith(".")}


def test_a_full_disk_loses_nothing(tmp_path):
    """A limit on file size stands in for the full disk: weights and answers fit, the evidence does not."""
    (tmp_path / "spec.toml").write_text(TINY.format(method="none"))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))

    full = subprocess.run(
        command("audit", "spec.toml", "--out", "out"), cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit
    )
    assert full.returncode == 2, full.stderr
    assert "free some space, then run again; finished models are kept" in " ".join(full.stderr.split())
    assert "Traceback" not in full.stderr
    before = kept(tmp_path / "out" / "store")
    # 21 models and what each answers; the probes of the original and of some oracles; the answers of the original's
    # compressed copies, and of an untrained one
    assert len(before) == 2 * 21 + len(PROBES_OF["examples"]) * (1 + ASKED) + 2
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.is_file()]
    assert not (tmp_path / "out" / "report.pdf").exists()
    again = subprocess.run(command("audit", "spec.toml", "--out", "out"), cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode in (0, 1, 3)
    assert kept(tmp_path / "out" / "store") == before


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ([], "interrupted; nothing new was finished yet, run the same command again to go on"),
        ([1], "interrupted; 1 new result is kept, run"),
        ([1, 2, 3, 0, 1], "interrupted; 4 new results are kept, run"),  # two stretches
    ],
)
def test_whoever_interrupts_learns_how_much_is_kept(capsys, monkeypatch, done, said):
    def stopped() -> None:
        with cli._progress("audit") as watch:
            for n in done:
                watch(Progress(9, n + 2, 2, 0, (), 1.0))
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", lambda **_: stopped())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_the_help_of_worst_case_names_where_its_keys_stand(capsys, monkeypatch):
    _, out, _ = run(capsys, monkeypatch, "worst-case", "--help")
    assert "stands in [worst_case] of the spec" in " ".join(out.split())


def test_stretches_of_an_audit_have_names(capsys):
    with cli._progress("audit") as watch:
        for step in ("this request", "other sets"):
            watch(Progress(20, 0, 0, 0, (), 1.0, step))
    assert capsys.readouterr().err.splitlines() == ["audit, this request: 0 of 20", "audit, other sets: 0 of 20"]


def test_where_there_is_no_terminal_every_long_stretch_has_lines_of_its_own(capsys):
    with cli._progress("audit") as watch:
        for total in (20, 3, 12):
            for done in range(total + 1):
                watch(Progress(total, done, 0, 0, (), 1.0))
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines.count("audit: 20 of 20") == lines.count("audit: 0 of 12") == lines.count("audit: 12 of 12") == 1
    assert not [line for line in lines if line.endswith("of 3")]
