"""The ledger: a chain that names what was changed, dropped or reordered, and loses nothing, whoever writes or dies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledger_samples import SALT, audit_ref, reference, step, what, written

from unlearnkit.audits.ledger import entries as ledger
from unlearnkit.audits.ledger.entries import (
    Entry,
    Ledger,
    Points,
    Relearning,
    append,
    hashed,
    in_words,
    parse,
    read,
    shown,
    since,
)
from unlearnkit.result import UsageError
from unlearnkit.store import canonical

ROOT = Path(__file__).parents[1]
LIFE = [("DR-1", "received"), ("DR-2", "received"), ("DR-1", "audited"), ("DR-1", "released"), ("DR-2", "unlearned")]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return written(tmp_path / "deletions.jsonl", *LIFE)


def told(data: bytes) -> list[str]:
    return [in_words(fault) for fault in parse(data)[1]]


def test_a_ledger_tells_every_deletion_from_its_first_line_to_its_last(whole: Path) -> None:
    book = read(whole)
    assert [(entry.id, entry.state, entry.number) for entry in book.entries] == [
        (name, state, row) for row, (name, state) in enumerate(LIFE, 1)
    ]
    first, second = book.deletions()
    assert (first.id, first.state, second.id, second.state) == ("DR-1", "released", "DR-2", "unlearned")
    assert first.audited == book.entries[2]
    assert second.audited is None
    assert first.what == what()
    assert book.deletion("DR-3") is None
    assert book.head == book.entries[-1].hash == json.loads(whole.read_text().splitlines()[-1])["hash"]
    assert all(one.previous == before.hash for before, one in zip(book.entries, book.entries[1:], strict=False))


def test_an_audit_holds_until_the_deletion_is_opened_again(tmp_path: Path) -> None:
    path = written(tmp_path / "l", ("DR-1", "audited"), ("DR-1", "released"))
    assert read(path).deletions()[0].audited is not None
    append(path, step("DR-1", "re-opened"))
    assert read(path).deletions()[0].audited is None


def test_an_audit_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    path = written(tmp_path / "l", ("DR-1", "received"))
    bare = step("DR-1", "audited", reference=reference(readings=()))
    first, fuller = append(path, bare), append(path, step("DR-1", "audited"))  # with what was not at hand before
    assert (first.number, fuller.number) == (2, 3)
    append(path, step("DR-1", "released"))
    data = path.read_bytes()
    for again in (step("DR-1", "audited", date="2026-12-24", what=what(salt="1" * 32)), bare):
        assert append(path, again) == fuller
    assert path.read_bytes() == data
    other = append(path, step("DR-1", "audited", audit=audit_ref(sha256="e" * 64)))
    assert other.number == 5
    assert append(path, step("DR-1", "audited")).number == 6  # the deletion rests on another one


def test_a_release_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    path = written(tmp_path / "l", ("DR-1", "audited"), ("DR-1", "released"))
    data = path.read_bytes()
    assert append(path, step("DR-1", "released", date="2026-12-24")).number == 2
    assert path.read_bytes() == data
    other = step("DR-1", "released", model_sha256="e" * 64)
    noted = step("DR-1", "released", note="to the mirror")
    plain = step("DR-1", "released")  # something came after the first one
    assert [append(path, one).number for one in (other, other, noted, noted, plain)] == [3, 3, 4, 4, 5]


def test_an_audit_from_before_does_not_close_what_was_opened_again(tmp_path: Path) -> None:
    path = written(tmp_path / "l", ("DR-1", "audited"), ("DR-1", "re-opened"))
    sentence = (
        "DR-1: this audit is line 1 already, and line 2 opened the deletion again; add the audit of what was done"
    )
    for further in (None, "unlearned"):
        if further:
            append(path, step("DR-1", further))
        data = path.read_bytes()
        with pytest.raises(UsageError, match=sentence):
            append(path, step("DR-1", "audited"))
        assert path.read_bytes() == data
    assert append(path, step("DR-1", "audited", audit=audit_ref(sha256="e" * 64))).number == 4


def test_the_head_before_the_first_line_is_one_too(whole: Path) -> None:
    entries = read(whole).entries
    assert since(entries, Ledger().head) == len(entries)
    assert since(entries, entries[0].hash) == len(entries) - 1
    assert since((), Ledger().head) == since(entries, entries[-1].hash) == 0
    assert since((), entries[0].hash) is None


def test_an_empty_file_is_a_ledger_of_nothing() -> None:
    assert parse(b"") == ((), ())
    assert Ledger().head == "0" * 64


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"PASS"', b'"FAIL"'), *lines[3:]],
            "line 3 ('DR-1'): was changed after it was written",
        ),
        (lambda lines: [lines[0], *lines[2:]], "line 2 ('DR-1'): entry 2 before 'DR-1' was dropped"),
        (lambda lines: lines[2:], "line 1 ('DR-1'): entries 1 to 2 before 'DR-1' were dropped"),
        (
            lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
            "line 2 ('DR-1'): entry 3 stands where entry 2 belongs; the lines were reordered",
        ),
        (lambda lines: [*lines, lines[2]], "line 6 ('DR-1'): entry 3 stands after entry 5; it was repeated or moved"),
        (
            lambda lines: [*lines[:2], b"<<<<<<< ours", *lines[2:]],
            "line 3: a merge conflict is left here; take one side whole, then add",
        ),
        (lambda lines: [*lines[:2], b"", *lines[2:]], "line 3: not readable as JSON"),
        (lambda lines: [*lines, b"[1, 2]"], "line 6: not an entry of a ledger (it has no integer 'schema')"),
        (
            lambda lines: [*lines, lines[-1].replace(b'"schema":1', b'"schema":2')],
            "line 6 ('DR-2'): an entry of schema 2, this version reads schema 1; use the unlearnkit that wrote it or a",
        ),
        (
            lambda lines: [*lines, lines[-1].replace(b'"note":""', b'"nota":""')],
            "line 6 ('DR-2'): not a valid entry: n",
        ),
        (lambda lines: [*lines, lines[-1].replace(b'":', b'": ', 1)], "line 6 ('DR-2'): was changed after it was writ"),
        (lambda lines: [*lines, b'{"note":"",' + lines[-1][1:]], "line 6 ('DR-2'): was changed after it was written"),
    ],
)
def test_what_was_done_to_a_ledger_is_named(whole: Path, change: Any, sentence: str) -> None:
    data = b"".join(line + b"\n" for line in change(whole.read_bytes().splitlines()))
    assert told(data)[0].startswith(sentence)
    whole.write_bytes(data)
    with pytest.raises(UsageError, match=r"deletions\.jsonl: line \d"):
        read(whole)
    with pytest.raises(UsageError, match=r"deletions\.jsonl: line \d"):  # and nothing is added to it
        append(whole, step("DR-9", "received"))
    assert whole.read_bytes() == data


def test_a_forged_line_is_found_by_the_line_after_it(whole: Path) -> None:
    """Whoever seals a changed line anew must seal all that follow, and the head that was kept elsewhere shows it."""
    lines = whole.read_text().splitlines()
    entries = list(read(whole).entries)
    lines[1] = dataclasses.replace(entries[1], note="forged").sealed(2, entries[0].hash).line()
    assert told("".join(f"{line}\n" for line in lines).encode()) == [
        "line 3 ('DR-1'): does not carry the hash of the line before; that line was exchanged"
    ]


def test_the_last_line_cut_off_is_named_at_every_length(whole: Path) -> None:
    data = whole.read_bytes()
    start = data[:-1].rindex(b"\n") + 1
    for end in range(start + 1, len(data) - 1, 7):
        [fault] = told(data[:end])
        assert fault.startswith("line 5")
        assert "the last line is cut off; restore it" in fault
    assert told(data[:-1]) == ["line 5 ('DR-2'): its end of line is missing; add an empty line's end to the file"]
    assert told(data[:start]) == []  # this only the head can tell


@pytest.mark.parametrize(
    ("before", "state", "sentence"),
    [
        ([], "released", "'released' may not stand as the first line of a deletion; 'received' or 'unlearned' or"),
        (["received"], "released", "'released' may not stand after 'received'; 'unlearned' or 'audited' may"),
        (["received"], "received", "'received' may not stand after 'received'"),
        (["audited"], "unlearned", "'unlearned' may not stand after 'audited'; 'audited' or 'released' or 're-opened'"),
        (["audited", "released", "re-opened"], "released", "'released' may not stand after 're-opened'"),
    ],
)
def test_an_illegal_step_is_refused_in_one_sentence(
    tmp_path: Path, before: list[str], state: str, sentence: str
) -> None:
    path = written(tmp_path / "l", *(("DR-1", one) for one in before))
    data = path.read_bytes() if path.exists() else None
    with pytest.raises(UsageError, match=sentence):
        append(path, step("DR-1", state))
    assert (path.read_bytes() if path.exists() else None) == data


def test_only_what_passed_its_audit_is_released(tmp_path: Path) -> None:
    path = tmp_path / "l"
    append(path, step("DR-1", "audited", audit=audit_ref("FAIL", sha256="f" * 64)))
    with pytest.raises(UsageError, match="DR-1: its last audit says FAIL; only what passed is released"):
        append(path, step("DR-1", "released"))
    append(path, step("DR-1", "audited"))
    append(path, step("DR-1", "released"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"id": " "}, "id: must have 1 to 200 characters"),
        ({"id": "x" * 201}, "id: must have 1 to 200 characters, got 201"),
        ({"id": "\ud800"}, "id: must be text that can be written as UTF-8"),
        ({"date": "yesterday"}, "date: must be a day such as 2026-11-21, got 'yesterday'"),
        ({"date": "20261121"}, "date: must be written as 2026-11-21"),
        ({"model_sha256": "abc"}, "model_sha256: must be 64 hexadecimal digits"),
        ({"what": what(salt="xyz")}, "what.salt: must be 32 hexadecimal digits"),
        ({"what": what(forget_class=None)}, "what: a class deletion names its class"),
        ({"what": None}, "the first line of a deletion must say what is to be forgotten"),
        ({"audit": None}, "'audited' must name an audit"),
        ({"reference": reference(points=())}, "every reading must be on one"),
        ({"reference": reference(points=(Points("forgotten", (), None),))}, "every group needs a point"),
        ({"reference": reference(tolerances={"auc": -1.0})}, "tolerances must lie between 0 and 1000"),
        (
            {"reference": reference(relearning=Relearning("forgotten", 1, 5, 0.1, 4, 0))},
            "relearning must show some points of its group, and keep some",
        ),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        append(tmp_path / "l", step(changes.pop("id", "DR-1"), "audited", **changes))
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize(
    ("readings", "sentence"),
    [
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"oracles": {"accuracy": (0.1,)}}, "at least 2"),
        ({"oracles": {"accuracy": (0.1, 0.2), "margin": (0.1, 0.2, 0.3)}}, "of the same oracles"),
        ({"oracles": {}}, "a reading needs statistics"),
        ({"original": {"accuracy": 1.0}}, "the same ones of the original"),
    ],
)
def test_statistics_that_nothing_can_be_ranked_among_are_refused(
    tmp_path: Path, readings: dict[str, Any], sentence: str
) -> None:
    [usual] = reference().readings
    wrong = reference(readings=(dataclasses.replace(usual, **readings),))
    with pytest.raises(UsageError, match=sentence):
        append(tmp_path / "l", step("DR-1", "audited", reference=wrong))


def test_a_ledger_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such ledger; 'unlearnkit ledger add' begins one"):
        read(tmp_path / "none")
    with pytest.raises(UsageError, match="is a folder; name the ledger in it"):
        read(tmp_path)


def test_ids_are_salted_and_never_in_the_file(tmp_path: Path) -> None:
    names = ["patient/0001", "patient/0002"]
    salts = SALT, "f" * 32
    one, other = (hashed(salt, names) for salt in salts)
    assert len({*one, *other}) == 4
    assert one == tuple(hashlib.sha256(bytes(16) + n.encode()).hexdigest()[:32] for n in names)
    append(tmp_path / "l", step("DR-1", "received", what=what(kind="examples", forget_class=None, ids=one)))
    assert b"patient" not in (tmp_path / "l").read_bytes()


def test_permissions_and_links_of_the_file_stay(tmp_path: Path) -> None:
    path = written(tmp_path / "real", ("DR-1", "received"))
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    append(link, step("DR-2", "received"))
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert len(read(path).entries) == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "real"]  # no lock is left


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from ledger_samples import step
from unlearnkit.audits.ledger.entries import append
for row in range({count}):
    append(Path(sys.argv[1]), step(f"{{sys.argv[2]}}-{{row}}", "received"))
    print(row, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(ROOT / "tests"), count=count)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "l"
    running = [writer(path, f"P{j}", 8) for j in range(3)]
    assert [one.wait() for one in running] == [0] * 3
    for one in running:
        assert one.stdout is not None
        one.stdout.close()
    book = read(path)
    assert sorted(entry.id for entry in book.entries) == sorted(f"P{j}-{row}" for j in range(3) for row in range(8))


def test_a_kill_leaves_the_whole_line_or_none(tmp_path: Path) -> None:
    path = tmp_path / "l"
    killed = writer(path, "K", 10_000)
    assert killed.stdout is not None
    said = [killed.stdout.readline() for _ in range(3)]
    time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    said += killed.stdout.readlines()
    killed.stdout.close()
    entries = read(path).entries
    assert len(entries) - len(said) in (0, 1)  # whatever was reported as written is there
    append(path, step("after", "received"))


def test_a_write_that_fails_leaves_the_old_ledger(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = whole.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        append(whole, step("DR-9", "received"))
    assert whole.read_bytes() == data
    assert [one.name for one in whole.parent.iterdir()] == [whole.name]


def test_text_of_others_is_shown_on_one_line_without_commands() -> None:
    assert shown("DR-1 é 日本") == "DR-1 é 日本"
    assert shown("a\nb\x1b[31m\u202ec") == "a\\nb\\x1b[31m\\u202ec"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
fields = [field.name for field in dataclasses.fields(Entry)]


def refused_or_whole(data: bytes) -> None:
    """Parses without an exception, and what it accepts is spelled as it was read."""
    entries, faults = parse(data)
    if not faults:
        assert b"".join(entry.line().encode() + b"\n" for entry in entries) == data
    for fault in faults:
        in_words(fault).encode()
        assert "\n" not in in_words(fault)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
@example(b"{}\n")
@example(b"[" * 20_000 + b"\n")
@example(b'{"schema":1,"id":' + b"9" * 5000 + b"}\n")
def test_any_bytes_are_refused_in_words_or_are_a_ledger(data: bytes) -> None:
    refused_or_whole(data)


@settings(max_examples=60, deadline=None)
@given(st.lists(json_values, max_size=3))
def test_any_json_is_refused_in_words(values: list[Any]) -> None:
    refused_or_whole(b"".join(json.dumps(value).encode() + b"\n" for value in values))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(fields), json_values, st.booleans())
@example("id", "=cmd|'/C calc'!A0", True)
@example("id", "\ud800", True)
@example("date", "²", True)
def test_an_entry_with_anything_in_a_field_is_refused_or_whole(name: str, value: Any, sealed: bool) -> None:
    """Also where the hash was made to fit: whoever can write the file can do that."""
    body = json.loads(step("DR-1", "audited").sealed(1, ledger.START).line())
    body[name] = value
    if sealed and name != "hash":
        del body["hash"]
        try:
            text = canonical(body)
        except ValueError:  # infinity is not JSON
            return
        body["hash"] = hashlib.sha256(text.encode()).hexdigest()
    refused_or_whole(json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_never_goes_unseen(place: int, byte: int) -> None:
    entries, before = [], ledger.START
    for row, (name, state) in enumerate(LIFE[:4], 1):
        entries.append(step(name, state).sealed(row, before))
        before = entries[-1].hash
    data = bytearray(b"".join(entry.line().encode() + b"\n" for entry in entries))
    place %= len(data)
    same = data[place] == byte
    data[place] = byte
    assert bool(parse(bytes(data))[1]) != same
