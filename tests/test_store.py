"""The store: names that do not depend on spelling, files that are whole or absent, also after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearnkit.models import Architecture, pack
from unlearnkit.result import UsageError
from unlearnkit.store import Store, canonical, content_key, sha256_file, write_atomic

ROOT = Path(__file__).parents[1]
KEY = "ab" * 32


@dataclass(frozen=True)
class Point:
    x: int
    y: float


@dataclass(frozen=True)
class Other:
    x: int
    y: float


def test_keys_are_stable():
    description = {"b": [1, 2.5, None, True], "a": Point(1, 0.1), "ü": "ß"}
    text = r'{"a":{"class":"Point","x":1,"y":0.1},"b":[1,2.5,null,true],"\u00fc":"\u00df"}'
    assert canonical(description) == text
    assert content_key(description) == hashlib.sha256(text.encode()).hexdigest()
    # golden: kept for ever, or every store of every user is made anew
    assert (
        content_key({"job": "train", "seed": 0}) == "90e8ebf04fb0f7df60e951466d0967e4d62af3598cda070488fbd31bfa61240a"
    )


def test_the_order_of_keys_is_irrelevant_and_every_value_is_not():
    assert content_key({"a": 1, "b": {"c": 2, "d": 3}}) == content_key({"b": {"d": 3, "c": 2}, "a": 1})
    different: list[Any] = [
        {"a": 1},
        {"a": 2},
        {"a": "1"},
        {"b": 1},
        {"a": [1]},
        {"a": None},
        Point(1, 2.0),
        Point(1, 2.5),
        Other(1, 2.0),
        [1, 2],
        [2, 1],
        0.1 + 0.2,
        0.3,
    ]
    assert len({content_key(one) for one in different}) == len(different)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), Point(1, float("nan"))])
def test_nan_has_no_name(bad: Any):
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key({"lr": bad})


@pytest.mark.parametrize("bad", [np.float32(1), np.arange(2), Path("a"), {1}, Point])
def test_what_has_no_canonical_spelling_is_refused(bad: Any):
    with pytest.raises(TypeError, match="has no canonical spelling; describe it with plain values"):
        content_key({"a": bad})


def test_files_are_written_with_their_folders_and_ordinary_rights(tmp_path: Path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert sha256_file(path) == hashlib.sha256(b"second").hexdigest()
    assert [child.name for child in path.parent.iterdir()] == ["file.bin"]
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize("where", ["replace", "chmod", "fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
):
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os if where == "fsync" else Path, where, fail)
        with pytest.raises(type(error)):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_to_surfaces(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_atomic(tmp_path / "file" / "model", b"")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file").write(KEY, b"", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", b"")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["file", "folder"]
    assert KEY not in Store(tmp_path / "file")


WRITER = """
import sys
from pathlib import Path
from unlearnkit.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10**9):
    byte = bytes([number % 256])
    store.write(f"{number % 7:02d}" * 32, byte * (3_000_000 + number), {"number": number})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_at_any_moment_leaves_whole_files_only(tmp_path: Path):
    store = Store(tmp_path / "store")
    moments = random.Random(0)
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.root)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0.05, 0.25))
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        for number in range(7):
            key = f"{number:02d}" * 32
            if key not in store:
                continue
            data = store.path(key).read_bytes()
            made = len(data) - 3_000_000
            assert made % 7 == number
            assert data == bytes([made % 256]) * len(data)
            record = store.record(key)["number"]
            assert record in (made, made + 7)  # the record is written first
    assert any(f"{number:02d}" * 32 in store for number in range(7))


ARCHITECTURE = Architecture("mlp", 2, (1,))
TENSORS = {"a": torch.arange(600.0), "b": torch.tensor([1, 2])}


def test_what_was_written_is_read(tmp_path: Path):
    store = Store(tmp_path)
    assert KEY not in store
    assert store.record(KEY) == {}
    store.write(KEY, pack(TENSORS, ARCHITECTURE), {"seconds": 1.5})
    assert KEY in store
    assert "cd" * 32 not in store
    assert store.record(KEY) == {"seconds": 1.5}
    read = store.read(KEY)
    assert {name: value.tolist() for name, value in read.items()} == {k: v.tolist() for k, v in TENSORS.items()}
    assert store.path(KEY) == tmp_path / "models" / "ab" / f"{KEY}.safetensors"


def test_the_weights_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path)
    replaced: list[str] = []
    true = Path.replace

    def spy(self: Path, target: Path) -> Path:
        replaced.append(target.suffix)
        return true(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    store.write(KEY, b"", {})
    assert replaced == [".json", ".safetensors"]


def test_a_missing_entry_is_said(tmp_path: Path):
    with pytest.raises(UsageError, match=f"nothing is kept under {KEY[:12]}"):
        Store(tmp_path).read(KEY)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_a_damaged_entry_says_what_to_do(tmp_path: Path, share: float):
    store = Store(tmp_path)
    data = pack(TENSORS, ARCHITECTURE)
    store.write(KEY, data[: int(share * len(data))], {})
    with pytest.raises(
        UsageError, match=rf"{KEY}.safetensors is damaged \(.*\); delete it and run again to make it an"
    ):
        store.read(KEY)


def test_a_damaged_header_is_refused_or_harmless(tmp_path: Path):
    store = Store(tmp_path)
    data = pack({"a": torch.arange(3.0)}, ARCHITECTURE)
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(8 + int.from_bytes(data[:8], "little")):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        store.path(KEY).parent.mkdir(parents=True, exist_ok=True)
        store.path(KEY).write_bytes(damaged)
        try:
            store.read(KEY)
        except UsageError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_a_damaged_record_is_an_empty_one(tmp_path: Path, content: bytes):
    store = Store(tmp_path)
    store.write(KEY, b"", {"seconds": 1})
    store.path(KEY).with_suffix(".json").write_bytes(content)
    assert store.record(KEY) == {}


def test_records_are_json(tmp_path: Path):
    store = Store(tmp_path)
    store.write(KEY, b"", {"b": 1, "a": "x"})
    assert json.loads(store.path(KEY).with_suffix(".json").read_text()) == {"a": "x", "b": 1}
