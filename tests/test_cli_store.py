"""`unlearnkit store`: what is kept, what can go, and whether every byte is what it was."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from test_cli import run

from unlearnkit.store import DAY, Store, canonical, content_key

Said = tuple[int, str, str]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Three results of 1, 2 and 3 kB in `a store`; the second was last used 40 days ago."""
    monkeypatch.chdir(tmp_path)
    kept = Store("a store")
    for number in (1, 2, 3):
        description = {"job": "train", "seed": number}
        record = {"kind": "train", "name": f"oracle [{number}]", "description": canonical(description)}
        record |= {"seconds": 1234.56} if number == 3 else {}
        kept.write(content_key(description), save({"a": np.zeros(250 * number, np.float32)}), record)
    then = time.time() - 40.5 * DAY
    os.utime(kept.path(key(2)).with_suffix(".json"), (then, then))
    return kept


def key(number: int) -> str:
    return content_key({"job": "train", "seed": number})


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def command(*arguments: str) -> Said:
        return run(capsys, monkeypatch, "store", *arguments)

    return command


def test_ls_shows_the_largest_first(store: Store, said):
    code, out, err = said("ls", "a store")
    assert (code, err) == (0, "")
    rows = [list(row) for row in re.findall(r"([0-9a-f]{12}) │ (.*?) │ (.*?) │ (.*?) │ (.*?) │ (.*?) │", out)]
    sizes = [store.path(key(number)).stat().st_size for number in (3, 2, 1)]
    assert rows == [
        [key(3)[:12], "train", "oracle [3]", f"{sizes[0] / 1000:.1f} kB", "1,234.6 s", "just now"],
        [key(2)[:12], "train", "oracle [2]", f"{sizes[1] / 1000:.1f} kB", "?", "40 days ago"],
        [key(1)[:12], "train", "oracle [1]", f"{sizes[2] / 1000:.1f} kB", "?", "just now"],
    ]
    assert out.endswith(f"3 results, {sum(sizes) / 1000:.1f} kB")
    store.delete([key(1), key(2), key(3)])
    assert said("ls", "a store") == (0, "0 results, 0 bytes", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (59, "just now"), (60, "1 minute ago"), (7_199, "1 hour ago"), (7_200, "2 hours ago")],
)
def test_ages_are_said_in_the_largest_unit(seconds: int, text: str):
    from unlearnkit.audits.cli_store import _age

    assert _age(float(seconds)) == text


def test_gc_deletes_what_is_unused_and_says_what_that_frees(store: Store, said):
    path = store.path(key(2))
    size = path.stat().st_size + path.with_suffix(".json").stat().st_size
    assert said("gc", "a store") == (0, "deleted: 0 files, 0 bytes", "")
    assert said("gc", "a store", "--unused-for", "41") == (0, "deleted: 0 files, 0 bytes", "")
    names = [f"objects/{key(2)[:2]}/{key(2)}.{end}: unused for 40 days" for end in ("json", "safetensors")]
    text = f"{' '.join(names)} {{}}: 2 files, {size / 1000:.1f} kB"
    assert said("gc", "a store", "--unused-for", "40", "--dry-run") == (0, text.format("would be deleted"), "")
    assert key(2) in store
    assert said("gc", "a store", "--unused-for", "40") == (0, text.format("deleted"), "")
    assert store.holding([key(1), key(2), key(3)]) == {key(1), key(3)}
    assert not path.exists()


def test_a_store_without_a_result_so_far_is_empty(said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "begun/registrations").mkdir(parents=True)  # an audit that was stopped before its first model
    monkeypatch.chdir(tmp_path)
    assert said("verify", "begun") == (0, "EMPTY no result so far", "")
    assert said("ls", "begun") == (0, "0 results, 0 bytes", "")
    (tmp_path / "other").mkdir()
    assert "there is no store" in said("verify", "other")[2]


def test_verify_finds_what_is_damaged_and_gc_deletes_it(store: Store, said):
    total = sum(entry.bytes for entry in store.entries())
    assert said("verify", "a store") == (0, f"WHOLE 3 results, {total / 1000:.1f} kB", "")
    damaged, other = store.path(key(1)), store.path(key(3))
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    beside = other.with_suffix(".json")
    beside.write_text(beside.read_text().replace(r"\"seed\":3", r"\"seed\":4"))
    code, out, err = said("verify", "a store")
    assert (code, err) == (1, "")
    listed = dict(re.findall(r"objects/../([0-9a-f]{64})\.safetensors: (.*?)(?= objects| DAMAGED)", out))
    assert listed == {
        key(1): "damaged: its bytes are not those of its record",
        key(3): "its record describes another result",
    }
    assert out.endswith(
        "DAMAGED 4 files are no part of a whole result; delete with: unlearnkit store gc 'a store', and run again"
    )
    assert said("gc", "a store")[1].split(" deleted: ")[1].startswith("4 files, ")
    assert said("verify", "a store")[0] == 0
    assert store.holding([key(1), key(2), key(3)]) == {key(2)}
    store.path(key(2)).unlink()
    assert "DAMAGED 1 file is no part of a whole result" in said("verify", "a store")[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ls", "none"), "store {here}/none: there is no store; name the folder (or URL) given as --store"),
        (("gc", "none"), "store {here}/none: there is no store; name the folder (or URL) given as --store"),
        (("verify", "none"), "store {here}/none: there is no store; name the folder (or URL) given as --store"),
        (
            ("ls", "foo://b"),
            "store foo://b: protocol not known: foo; name a folder, or a URL such as s3://bucket/audits",
        ),
        (("gc", "none", "--unused-for", "-1"), "greater than or equal to 0"),
        (("gc", "none", "--unused-for", "soon"), "--unused-for"),
        (("ls",), "STORE"),
        ((), "name a command; unlearnkit --help lists them"),
        (("lss", "none"), "lss"),
    ],
)
def test_wrong_use_is_said_in_one_sentence(
    said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
):
    monkeypatch.chdir(tmp_path)
    code, _, err = said(*arguments)
    assert code == 2
    assert err.count("unlearnkit: ") == 1
    assert sentence.format(here=tmp_path) in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["ls", "gc", "verify"])
def test_every_command_has_help_with_an_example(said, command: str):
    code, out, _ = said(command, "--help")
    assert code == 0
    assert f"Example: unlearnkit store {command} unlearnkit-out/store" in out
    assert said("--help")[1].count(f"│ {command} ") == 1
