"""`unlearnkit ledger` and `unlearnkit check` as a user meets them: exit codes, one sentence for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from ledger_samples import repository, step, written
from test_cli import run

from unlearnkit.audits.ledger.check import Check, Checked, Row
from unlearnkit.audits.ledger.entries import append, read


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    repository(folder, "DR-1", "DR-2")
    return folder


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(capsys, monkeypatch, *map(str, arguments))


def test_a_deletion_from_request_to_release(cli, made: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("patient/1\npatient/2\n")
    code, out, _ = cli("ledger", "add", "l", "--id", "DR-1", "--state", "received", "--forget-ids", "ids.txt")
    assert (code, out.startswith("line 1: DR-1 received on 20")) == (0, True)
    weights = made / "good.safetensors"
    more = ("--model", weights, "--date", "2026-11-21", "--note", "by hand")
    code, out, _ = cli("ledger", "add", "l", "--id", "DR-1", "--state", "unlearned", *more)
    assert (code, out.startswith("line 2: DR-1 unlearned on 2026-11-21 head: ")) == (0, True)
    book = read(tmp_path / "l")
    assert book.entries[0].what is not None
    assert (book.entries[0].what.kind, book.entries[0].what.count, len(book.entries[0].what.ids)) == ("examples", 2, 2)
    assert b"patient" not in (tmp_path / "l").read_bytes()
    assert book.entries[1].note == "by hand"
    assert out.endswith(book.head)
    append(tmp_path / "l", step("DR-1", "audited"))
    assert cli("ledger", "add", "l", "--id", "DR-1", "--state", "released", "--model", weights)[0] == 0
    code, out, _ = cli("ledger", "list", "l")
    assert code == 0
    assert "DR-1" in out
    assert "released" in out
    assert "PASS" in out
    assert out.endswith("1 deletion")
    code, out, _ = cli("ledger", "add", "l", "--id", "DR-1", "--state", "released", "--model", weights)
    assert (code, ", this step is there already; nothing was added" in out) == (0, True)
    code, out, _ = cli("ledger", "show", "l", "DR-1")
    assert code == 0
    assert out.count('"id": "DR-1"') == 4


def test_a_ledger_is_verified_and_faults_are_named(cli, tmp_path: Path) -> None:
    path = written(tmp_path / "l", ("DR-1", "received"), ("DR-2", "received"), ("DR-1", "unlearned"))
    head = read(path).head
    code, out, _ = cli("ledger", "verify", "l")
    assert (code, out) == (0, f"WHOLE l: 3 lines head: {head}")
    append(path, step("DR-2", "unlearned"))
    assert cli("ledger", "verify", "l", "--head", head)[1].startswith(
        "WHOLE l: 4 lines, 1 since the head that you kept"
    )
    (tmp_path / "e").touch()
    code, out, err = cli("ledger", "verify", "l", "e")  # as `check` says it
    assert (code, "e: is empty: it holds no deletion" in err) == (2, True)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))  # whole as a chain; only the head can tell
    assert cli("ledger", "verify", "l")[0] == 0
    code, out, _ = cli("ledger", "verify", "l", "--head", head)
    assert code == 1
    assert "NO l: no line has the hash kept as --head: lines were cut off, or all was written anew" in out
    code, _, err = cli("ledger", "verify", "l", "--head", head[:6])
    assert (code, f"prints as head, got '{head[:6]}'" in err) == (2, True)
    path.write_text("".join([lines[0], *lines[2:]]))
    written(tmp_path / "m", ("DR-7", "received"))
    code, out, _ = cli("ledger", "verify", "m", "l")
    assert code == 1
    assert out.startswith("WHOLE m: 1 line ")
    assert "NO l: line 2 ('DR-1'): entry 2 before 'DR-1' was dropped" in out
    assert out.endswith("REFUSED this is not the ledger that was written")


def test_hostile_ids_reach_no_terminal_as_commands(cli, tmp_path: Path) -> None:
    name = "[red]x[/red]\x1b[31m\n::error::"
    append(tmp_path / "l", step(name, "received", note="\x1b]0;title\x07"))
    for command in (("list", "l"), ("show", "l", name), ("verify", "l")):
        code, out, err = cli("ledger", *command)
        assert code == 0
        assert not {"\x1b", "\x07"} & set(out + err)
    assert "[red]x[/red]\\x1b[31m" in cli("ledger", "list", "l")[1]
    code, _, err = cli("ledger", "list", "\x1b[31mnone")
    assert (code, "\x1b" in err) == (2, False)
    assert "\\x1b[31mnone: no such ledger" in err
    (tmp_path / "keys").write_text('{"\\u001b[31mx": 1, ' + (tmp_path / "l").read_text()[1:])
    code, out, err = cli("ledger", "verify", "keys")
    assert code == 1
    assert "\x1b" not in out + err
    code, _, err = cli("ledger", "add", "l", "--id", name, "--state", "released")
    assert code == 2
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "none"), "none: no such ledger; 'unlearnkit ledger add' begins one"),
        (("show", "l", "DR-11"), "l: knows no deletion 'DR-11'; did you mean 'DR-1'?"),
        (("verify", "l", "l", "--head", "abc"), "ledger verify: --head belongs to one ledger, got 2"),
        (("add", "l"), "ledger add: name an AUDIT.json, or the deletion with --id and the step with --state"),
        (("add", "l", "--id", "DR-1"), "ledger add: name an AUDIT.json, or the deletion"),
        (
            ("add", "l", "--id", "DR-1", "--state", "audited"),
            "--state must be received, unlearned, released, re-opened",
        ),
        (("add", "l", "--id", "DR-1", "--state", "released"), "DR-1: 'released' may not stand after 'received'"),
        (("add", "l", "--id", "DR-9", "--state", "received"), "the first line of a deletion must say what is to be"),
        (("add", "l", "--id", "DR-9", "--state", "received", "--forget-ids", "none.txt"), "none.txt"),
        (
            ("add", "l", "--id", "D", "--state", "received", "--forget-class", "1", "--forget-ids", "l"),
            "give --forget-class or --forget-ids, not both",
        ),
        (("add", "l", "--id", "DR-1", "--state", "unlearned", "--model", "none"), "none: no such weights file"),
        (("add", "l", "--id", "DR-1", "--state", "unlearned", "--date", "soon"), "date: must be a day such as"),
        (("add", "l", "none.json"), "none.json: no such file"),
        (("add", "l/m", "none.json"), "l: is a file, and a folder is needed; name another place for the ledger"),
        (("add", ".", "--id", "D", "--state", "received", "--forget-class", "1"), ".: is a folder, and a file is need"),
        (("add", "l", "none.json", "--id", "DR-1"), "ledger add: --id is what the audit says; leave it out"),
    ],
)
def test_every_mistake_is_one_sentence(cli, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    data = written(tmp_path / "l", ("DR-1", "received")).read_bytes()
    code, _, err = cli("ledger", *arguments)
    assert code == 2
    assert err.startswith("unlearnkit: ")
    assert said in err
    assert "Traceback" not in err
    assert (tmp_path / "l").read_bytes() == data


def test_check_ends_with_the_code_of_its_verdict_and_writes_what_was_asked(cli, made: Path, tmp_path: Path) -> None:
    asked = ("check", made / "deletions.jsonl", "--model")
    code, out, _ = cli(*asked, made / "good.safetensors")
    assert code == 0
    assert "PASS 2 deletions checked: everything once forgotten is still forgotten" in out
    files = ("--junit", "c.xml", "--summary", "c.md", "--sarif", "c.sarif")
    code, out, _ = cli(*asked, made / "bad.safetensors", *files)
    assert code == 1
    assert "FAIL 2 of 2 deletions fail." in out
    assert "The model remembers them again." in " ".join(out.replace("│", " ").split())
    assert ElementTree.parse(tmp_path / "c.xml").getroot()[0].get("failures") == "2"
    results = json.loads((tmp_path / "c.sarif").read_text())["runs"][0]["results"]
    assert [one["locations"][0]["physicalLocation"]["region"]["startLine"] for one in results] == [1, 2]
    assert (tmp_path / "c.md").read_text().startswith("### ❌ unlearnkit check: FAIL")


def test_check_is_inconclusive_or_invalid_by_its_own_code(cli, made: Path, tmp_path: Path) -> None:
    model = made / "good.safetensors"
    assert cli("check", written(tmp_path / "open", ("DR-9", "received")), "--model", model)[0] == 3
    with np.load(made / "data.npz") as held:
        arrays = dict(held)
    arrays["train_images"] = arrays["train_images"][::-1]
    np.savez(tmp_path / "other.npz", **arrays)
    code, out, _ = cli("check", made / "deletions.jsonl", "--model", model, "--data", "npz:other.npz")
    assert code == 4
    assert "INVALID 2 of 2 deletions cannot be checked with these data." in out


def test_what_the_table_leaves_out_is_counted(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearnkit.audits.cli_ledger.console._width", 200)
    for failures, more in ((4, ""), (5, "… and 1 more; --summary FILE lists all"), (9, "… and 5 more; --summary FILE")):
        rows = tuple(Row("DR-1", "8 bits", "g", "s", "FAIL", f"Number {i} is off.") for i in range(failures))
        found = Check("m", "FAIL", "1 of 1 deletion fails.", (Checked("DR-1", 1, "FAIL", rows[0].sentence, rows),))
        monkeypatch.setattr("unlearnkit.audits.ledger.check.check_files", lambda *_, found=found, **__: found)
        code, out, _ = cli("check", "l", "--model", "m")
        assert code == 1
        assert [f"Number {i} is off." in out for i in range(failures)] == [i < 4 for i in range(failures)]
        assert more in out
        assert ("more" in out) == bool(more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none", "--model", "m"), "none: no such ledger"),
        (
            ("{empty}", "--model", "{model}"),
            "empty: is empty: it holds no deletion, so there is nothing to",
        ),
        (("{ledger}", "--model", "{model}", "--head", "0" * 63 + "1"), "no line has the hash kept as --head: lines we"),
        (("{ledger}", "--model", "{model}", "--head", ""), "head: must be the 64 hexadecimal digits that 'ledger add'"),
        (("{ledger}", "--model", "none", "--junit", ""), "Invalid value for '--junit': needs a name, got ''"),
        (("{ledger}", "--model", "none", "--sarif", "{empty}/x"), "is a file, and a folder is needed; name another pl"),
        (("{ledger}", "--model", "none"), "none: no such weights file; name the model that is about to ship"),
        (("{ledger}",), "Missing option '--model'"),
        (("{ledger}", "--model", "{model}", "--data", "digit"), "did you mean 'digits'?"),
        (("{ledger}", "--model", "{model}", "--canaries", "none.json"), "none.json: no such canary manifest"),
        (("{ledger}", "--model", "{model}", "--architecture", "mpl"), "did you mean 'mlp'?"),
    ],
)
def test_a_wrong_check_is_one_sentence(cli, made: Path, arguments: tuple[str, ...], said: str) -> None:
    (made / "empty").touch()
    places = {"ledger": made / "deletions.jsonl", "model": made / "good.safetensors", "empty": made / "empty"}
    filled = [one.format(**places) for one in arguments]
    code, _, err = cli("check", *filled)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
