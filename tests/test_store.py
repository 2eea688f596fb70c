"""The store: names that do not depend on spelling, results that are whole or absent on every kind of file system."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.numpy import save

from unlearnkit import store as module
from unlearnkit.jobs import Bench, Sets, TrainJob
from unlearnkit.models import Architecture
from unlearnkit.result import UsageError
from unlearnkit.store import DAY, SETTLED, Store, canonical, content_key, sha256_file, write_atomic
from unlearnkit.train import Recipe

ROOT = Path(__file__).parents[1]
KEY, OTHER = "ab" * 32, "cd" * 32
ARRAYS = {"margins": np.arange(600, dtype=np.float32).reshape(2, 100, 3), "one": np.array(4, np.float32)}
DATA = save(ARRAYS)


class Bucket(MemoryFileSystem):
    """A far file system: every question counts, many go out at once, and listings are remembered."""

    protocol = "bucket"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[list[str]] = []
    fails: ClassVar[dict[str, Exception]] = {}  # question -> what comes of it

    def _ask(self, question: str) -> None:
        self.asked.append(question)
        if question in self.fails:
            raise self.fails[question]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("bucket://", "memory://")))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        self._ask("info")
        return dict(super().info(path, **kwargs))

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        self._ask("cat")
        return bytes(super().cat_file(path, start, end, **kwargs))

    def cat_ranges(self, paths: list[str], starts: Any, ends: Any, **kwargs: Any) -> list[Any]:
        answers: list[Any] = super().cat_ranges(paths, starts, ends, **kwargs)
        del self.asked[-len(paths) :]
        self.asked.append("records")
        return answers

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        self._ask("put")
        super().pipe_file(path, value, **kwargs)

    def find(self, path: str, **kwargs: Any) -> dict[str, Any]:
        if path not in self.dircache:
            self._ask("list")
            times = {"LastModified": datetime.fromtimestamp(1_000_000, UTC)}
            files = {n: f for n, f in self.store.items() if n.startswith(f"{path}/")}
            self.dircache[path] = {n: {"name": n, "size": f.size, **times} for n, f in files.items()}
        return dict(self.dircache[path])

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


fsspec.register_implementation("bucket", Bucket, clobber=True)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in (MemoryFileSystem.store, Bucket.store, Bucket.asked, Bucket.fails):
        part.clear()
    yield Bucket
    for part in (MemoryFileSystem.store, Bucket.store, Bucket.asked, Bucket.fails):
        part.clear()


@pytest.fixture(params=["folder", "[odd] fol*der::1", "memory://", "memory://room/a b", "bucket://audits"])
def store(request: pytest.FixtureRequest, tmp_path: Path, bucket: type[Bucket]) -> Store:
    return Store(request.param if "://" in request.param else tmp_path / request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def below(store: Store) -> list[str]:
    """The files of a store in a folder, sorted."""
    root = Path(store.root)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def age(store: Store, days: float, pattern: str = "*") -> None:
    then = time.time() - days * DAY
    for path in Path(store.root).rglob(pattern):
        os.utime(path, (then, then))


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
    point = r'{"class":"test_store.Point","x":1,"y":0.1}'
    text = rf'{{"a":{point},"b":[1,2.5,null,true],"\u00fc":"\u00df"}}'
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


@pytest.mark.parametrize("where", ["replace", "fsync"])
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
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", b"")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["file", "folder"]


def test_a_store_that_cannot_be_written_to_is_named(
    tmp_path: Path, folder: Store, bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("in the way")
    blocked = Store(tmp_path / "file")
    assert KEY not in blocked
    assert blocked.holding([KEY]) == set()
    with pytest.raises(OSError, match=r"Not a directory: 'store .*/file'"):
        blocked.write(KEY, DATA, {})

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "some/temporary/file")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", read_only)
        with pytest.raises(OSError, match=rf"Read-only file system: 'store {folder.root}'") as caught:
            folder.write(KEY, DATA, {})
    assert caught.value.errno == errno.EROFS
    bucket.fails["put"] = PermissionError("Access Denied")  # as s3fs says it: without a number
    with pytest.raises(OSError, match=r"Access Denied: 'store bucket://audits'") as caught:
        Store("bucket://audits").write(KEY, DATA, {})
    assert (caught.value.strerror, caught.value.filename) == ("Access Denied", "store bucket://audits")


def test_a_full_disk_is_said_and_leaves_nothing(folder: Store):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: 'store ") as caught:
            folder.write(KEY, DATA, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert KEY not in folder
    assert below(folder) == []
    folder.write(KEY, DATA, {})
    assert KEY in folder


WRITER = """
import sys
from pathlib import Path
from unlearnkit.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10**9):
    key = f"{number % 7:02d}" * 32
    store.delete([key])
    store.write(key, bytes([number % 256]) * (3_000_000 + number), {"number": number})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_at_any_moment_leaves_whole_results_only(folder: Store):
    moments = random.Random(0)
    keys = [f"{number:02d}" * 32 for number in range(7)]
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder.root)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0.05, 0.25))
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        for number, key in enumerate(keys):
            if key in folder:
                data = folder.path(key).read_bytes()
                made = len(data) - 3_000_000
                assert made % 7 == number
                assert data == bytes([made % 256]) * len(data)
                assert folder.record(key)["number"] == made
    held = folder.holding(keys)
    assert held
    assert folder.faults() == []  # what was interrupted may still be on its way
    age(folder, 1)
    folder.collect()
    assert below(folder) == sorted(f"objects/{key[:2]}/{key}.{end}" for key in held for end in ("safetensors", "json"))


TWIN = """
import sys
from pathlib import Path
from unlearnkit.store import Store, content_key
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(150):
    store.write(content_key(number), bytes([number]) * 20_000, {"by": sys.argv[2]})
"""


def test_two_processes_write_the_same_keys_and_a_third_reads(folder: Store):
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    command = [sys.executable, "-c", TWIN, str(folder.root)]
    twins = [subprocess.Popen([*command, name], **pipes) for name in "ab"]
    for twin in twins:
        assert twin.stdout.readline() == "ready\n"
    for twin in twins:
        twin.stdin.write("go\n")
        twin.stdin.flush()
    keys = [content_key(number) for number in range(150)]
    while any(twin.poll() is None for twin in twins):
        for key in folder.holding(keys):
            assert sha256_file(folder.path(key)) == folder.record(key)["sha256"]
    for twin in twins:
        twin.communicate()
        assert twin.returncode == 0
    assert folder.holding(keys) == set(keys)
    assert folder.faults() == []
    assert len(below(folder)) == 300


def test_what_was_written_is_read(store: Store):
    assert KEY not in store
    assert store.record(KEY) == {}
    store.write(KEY, DATA, {"seconds": 1.5, "kind": "train", "name": "oracle 1"})
    assert KEY in store
    assert OTHER not in store
    whole = {"bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
    assert store.record(KEY) == {"seconds": 1.5, "kind": "train", "name": "oracle 1"} | whole
    assert store.path(KEY).read_bytes() == DATA
    read, mapped = store.read(KEY), store.map(KEY)
    for name, array in ARRAYS.items():
        assert torch.equal(read[name], torch.from_numpy(array))
        assert isinstance(mapped[name], np.memmap)
        np.testing.assert_array_equal(mapped[name], array, strict=True)
    assert store.faults() == []
    (entry,) = store.entries()
    assert (entry.key, entry.kind, entry.name, entry.bytes) == (KEY, "train", "oracle 1", len(DATA))
    assert entry.seconds == 1.5
    store.delete([KEY, OTHER])
    assert KEY not in store
    assert store.record(KEY) == {}
    for look in (store.read, store.map):
        with pytest.raises(UsageError, match=f"nothing is kept under {KEY[:12]}"):
            look(KEY)


def test_many_keys_are_looked_up_as_one_is(store: Store):
    keys = [content_key(number) for number in range(40)]
    for key in keys[::2]:
        store.write(key, DATA, {})
    assert store.holding(keys) == set(keys[::2]) == {key for key in keys if key in store}
    assert store.holding([]) == set()
    assert {entry.key for entry in store.entries()} == set(keys[::2])
    store.delete(keys)
    assert store.holding(keys) == set()


def test_the_first_result_stays(store: Store):
    store.write(KEY, DATA, {"number": 1})
    store.write(KEY, save({"other": np.zeros(2, np.float32)}), {"number": 2})
    assert store.record(KEY)["number"] == 1
    assert set(store.read(KEY)) == set(ARRAYS)


def test_what_was_made_anew_is_not_read_from_an_old_copy(store: Store):
    other = {"other": np.arange(3, dtype=np.float32)}
    store.write(KEY, DATA, {})
    store.map(KEY)
    store.delete([KEY])
    store.write(KEY, save(other), {})
    assert set(store.map(KEY)) == {"other"}


def test_copies_of_two_buckets_are_kept_apart(bucket: type[Bucket]):
    stores = [Store(f"bucket://{name}") for name in "ab"]
    for number, one in enumerate(stores):
        one.write(KEY, save({f"array {number}": np.zeros(1, np.float32)}), {})
    assert [set(one.map(KEY)) for one in stores] == [{"array 0"}, {"array 1"}]
    del bucket.asked[:]
    stores[0].map(KEY)
    assert bucket.asked == []  # a copy that is there needs no question


def test_a_copy_that_cannot_be_kept_says_where(tmp_path: Path, bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    one = Store("bucket://audits")
    one.write(KEY, DATA, {})
    sentence = "a copy must be kept in .*file/unlearnkit.*, but: not a directory; name a folder with space in XDG_CACHE"
    with pytest.raises(UsageError, match=sentence):
        one.map(KEY)


def test_the_record_comes_last_and_goes_first(folder: Store, monkeypatch: pytest.MonkeyPatch):
    replaced, removed = [], []
    true = Path.replace

    def spy(self: Path, target: Path) -> Path:
        replaced.append(target.suffix)
        return true(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    folder.write(KEY, DATA, {})
    assert replaced == [".safetensors", ".json"]
    monkeypatch.setattr(Store, "_remove", lambda _, names: removed.extend(Path(name).suffix for name in names))
    folder.delete([KEY])
    assert removed == [".json", ".safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_truncated_data_is_refused_and_made_anew(folder: Store, share: float):
    folder.write(KEY, DATA, {})
    folder.path(KEY).write_bytes(DATA[: int(share * len(DATA))])
    with pytest.raises(UsageError, match=rf"{KEY}.safetensors is damaged, .*'unlearnkit store gc' deletes it, then"):
        folder.read(KEY)
    with pytest.raises(UsageError, match=rf"{KEY}.safetensors is damaged \(.*\); delete it, then run again"):
        folder.map(KEY)
    assert KEY not in folder  # so that its job is done again
    folder.write(KEY, DATA, {})
    assert folder.path(KEY).read_bytes() == DATA
    assert folder.faults() == []


def test_every_flipped_bit_is_found(folder: Store):
    data = save({"a": np.arange(3, dtype=np.float32)})
    folder.write(KEY, data, {})
    rng = np.random.default_rng(0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        folder.path(KEY).write_bytes(damaged)
        with pytest.raises(UsageError, match="is damaged"):
            folder.read(KEY)
        assert {fault.reason for fault in folder.faults()} == {"damaged: its bytes are not those of its record"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"{}", b'{"bytes": "9", "sha256": 1}', None])
def test_a_damaged_record_means_that_nothing_is_there(folder: Store, content: bytes | None):
    folder.write(KEY, DATA, {"seconds": 1})
    path = folder.path(KEY).with_suffix(".json")
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    assert folder.record(KEY) == {}
    assert KEY not in folder
    with pytest.raises(UsageError, match="nothing is kept under"):
        folder.read(KEY)
    assert folder.entries() == []
    assert {fault.reason for fault in folder.faults()} == {"its record is damaged"}
    folder.write(KEY, DATA, {"seconds": 2})
    assert folder.record(KEY)["seconds"] == 2


def test_records_are_json(folder: Store):
    folder.write(KEY, b"", {"b": 1, "a": "x"})
    text = folder.path(KEY).with_suffix(".json").read_text()
    assert json.loads(text) == {"a": "x", "b": 1, "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}


def test_only_float32_is_mapped(folder: Store):
    folder.write(KEY, save({"a": np.zeros(3, np.float32), "rows": np.arange(3)}), {})
    with pytest.raises(UsageError, match=r"only float32 is mapped, got I64 for 'rows'; use read\(\)"):
        folder.map(KEY)


def test_arrays_without_elements_are_mapped(folder: Store):
    folder.write(KEY, save({"none": np.zeros((3, 0, 2), np.float32)}), {})
    assert folder.map(KEY)["none"].shape == (3, 0, 2)


def test_reading_notes_the_use_and_checking_does_not(folder: Store):
    for look in (folder.read, folder.map):
        folder.write(KEY, DATA, {})
        age(folder, 50)
        folder.faults()
        folder.entries()
        assert [fault.reason for fault in folder.collect(unused_for=49.0, dry_run=True)] == ["unused for 50 days"] * 2
        look(KEY)
        assert time.time() - folder.entries()[0].used < DAY
        assert folder.collect(unused_for=49.0) == []
        assert KEY in folder


def test_a_store_of_somebody_else_can_be_read(folder: Store, monkeypatch: pytest.MonkeyPatch):
    folder.write(KEY, DATA, {})

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert set(folder.read(KEY)) == set(folder.map(KEY)) == set(ARRAYS)


def test_entries_come_with_the_largest_first(folder: Store):
    for number in range(5):
        folder.write(content_key(number), save({"a": np.zeros(10 * (number % 3), np.float32)}), {"name": f"{number}"})
    entries = folder.entries()
    assert [entry.bytes for entry in entries] == sorted((entry.bytes for entry in entries), reverse=True)
    assert {entry.name for entry in entries[:1]} == {"2"}
    assert {(entry.kind, entry.seconds) for entry in entries} == {("?", None)}


def test_collecting_deletes_what_is_no_result_and_nothing_else(folder: Store):
    description = canonical({"job": "train", "seed": 0})
    good, wrong, flipped, lonely, orphan = (content_key(n) for n in ({"job": "train", "seed": 0}, 1, 2, 3, 4))
    for key in (good, wrong, flipped, lonely, orphan):
        folder.write(key, DATA, {"description": description} if key in (good, wrong) else {})
    root = Path(folder.root)
    folder.path(flipped).write_bytes(bytes(len(DATA)))
    folder.path(lonely).with_suffix(".json").unlink()
    folder.path(orphan).unlink()
    (root / f"objects/ab/.{KEY}.json.123-0123abcd").parent.mkdir(exist_ok=True)
    (root / f"objects/ab/.{KEY}.json.123-0123abcd").write_bytes(b"half")
    foreign = [root / "README", root / "objects" / "ab" / "cdef0123", root / "objects" / "ab" / f"{KEY}.pt"]
    for path in foreign:
        path.write_text("somebody's")
    reasons = {
        flipped: "damaged: its bytes are not those of its record",
        wrong: "its record describes another result",
        orphan: "a record without its tensors",
    }
    young = {(fault.path.split("/")[2].split(".")[0], fault.reason) for fault in folder.faults()}
    assert young == set(reasons.items())  # the others may be on their way
    age(folder, 1.1 * SETTLED / DAY)
    before = below(folder)
    faults = folder.collect(dry_run=True)
    assert below(folder) == before
    assert faults == folder.faults()
    assert {fault.path: fault.reason for fault in faults if lonely in fault.path or KEY in fault.path} == {
        f"objects/{lonely[:2]}/{lonely}.safetensors": "without a record: its write was interrupted",
        f"objects/ab/.{KEY}.json.123-0123abcd": "left over: its write was interrupted",
    }
    assert sum(fault.bytes for fault in faults) == sum((root / fault.path).stat().st_size for fault in faults)
    assert folder.collect() == faults
    kept = [f"objects/{good[:2]}/{good}.{end}" for end in ("json", "safetensors")]
    assert below(folder) == sorted([*kept, *(str(path.relative_to(root)) for path in foreign)])
    assert folder.faults() == []
    assert folder.holding([good, wrong, flipped, lonely, orphan]) == {good}


def test_what_jobs_keep_answers_for_its_key(folder: Store, blobs: MakeBlobs):
    data = blobs(12)
    bench = Bench(Sets(data, data), folder, "cpu")
    job = TrainJob("one", Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=1), 0, np.arange(12))
    (made,) = bench.make([job], "cpu")
    assert [(entry.key, entry.kind, entry.name) for entry in folder.entries()] == [(made.key, "train", "one")]
    assert folder.faults() == []


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path):
    path = tmp_path / "objects" / "ab" / ("cd" * 19)  # as git keeps them
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a blob")
    os.utime(path, (0, 0))
    assert Store(tmp_path).collect(unused_for=0.0) == []
    assert path.read_bytes() == b"a blob"


def test_notes_are_written_anew_and_never_collected(folder: Store):
    folder.write(KEY, DATA, {})
    for text in (b"old", b"new"):
        folder.note("registrations/one.json", text)
    age(folder, 100)
    assert len(folder.collect(unused_for=1.0)) == 2
    assert below(folder) == ["registrations/one.json"]
    assert (Path(folder.root) / "registrations/one.json").read_bytes() == b"new"


def test_notes_come_back_by_name(store: Store):
    assert store.notes("registrations") == {}
    for name in ("b", "a"):
        store.note(f"registrations/{name}.json", name.encode())
    store.note("elsewhere/c.json", b"c")
    assert list(store.notes("registrations").items()) == [("a.json", b"a"), ("b.json", b"b")]


def test_where_there_is_no_store_nothing_is_listed(store: Store):
    for look in (store.entries, store.faults, store.collect):
        with pytest.raises(UsageError, match=r"there is no store; name the folder \(or URL\) given as --store"):
            look()


def test_somebody_else_may_delete_at_the_same_time(folder: Store, monkeypatch: pytest.MonkeyPatch):
    folder.write(KEY, DATA, {})
    held, survey = folder.holding([KEY]), folder._survey()
    folder.delete([KEY])
    monkeypatch.setattr(Store, "holding", lambda *_: held)
    folder.delete([KEY])
    monkeypatch.setattr(Store, "_survey", lambda _: survey)
    assert folder.faults() == []
    assert len(folder.collect(unused_for=-1.0)) == 2


def test_a_bucket_is_asked_few_questions(bucket: type[Bucket]):
    far = Store("bucket://audits")
    keys = [content_key(number) for number in range(100)]
    for key in keys:
        far.write(key, DATA, {"name": key[:3]})
    for look, most in (
        (lambda: far.holding(keys), {"list": 1}),
        (lambda: far.holding(keys[:1]), {"records": 1, "info": 1}),
        (lambda: far.holding([]), {}),
        (far.entries, {"list": 1, "records": 1}),
        (far.faults, {"list": 1, "records": 1, "cat": 100}),
        (lambda: far.collect(unused_for=1e6, dry_run=True), {"list": 1, "records": 1, "cat": 100}),
    ):
        del bucket.asked[:]
        look()
        assert {question: bucket.asked.count(question) for question in bucket.asked} == most
    assert {entry.used for entry in far.entries()} == {1_000_000.0}
    assert len(far.collect(unused_for=1.0)) == 200
    assert bucket.store == {}


def test_what_another_machine_writes_is_seen(bucket: type[Bucket]):
    here = Store("bucket://audits")
    keys = [content_key(number) for number in range(20)]
    assert here.holding(keys) == set()
    here.write(KEY, DATA, {})
    for key in keys:
        for end in ("safetensors", "json"):  # past the file system object, and so past its memory
            bucket.store[f"/audits/objects/{key[:2]}/{key}.{end}"] = bucket.store[f"/audits/objects/ab/{KEY}.{end}"]
    assert here.holding(keys) == set(keys)


def test_a_network_that_fails_is_no_missing_result(bucket: type[Bucket]):
    far = Store("bucket://audits")
    far.write(KEY, DATA, {})
    bucket.fails["cat"] = TimeoutError("no answer")
    for look in (lambda: KEY in far, lambda: far.read(KEY), far.entries, far.faults, far.collect):
        with pytest.raises(TimeoutError, match="no answer"):
            look()
    bucket.fails.clear()
    assert KEY in far


@pytest.mark.parametrize("word", ["mtime", "LastModified", "last_modified", "modified", "created"])
def test_times_are_understood_as_file_systems_tell_them(word: str):
    assert module._changed({"size": 1, word: 12.5}) == 12.5
    assert module._changed({word: datetime.fromtimestamp(12.5, UTC)}) == 12.5
    assert time.time() - module._changed({"size": 1}) < 60


def test_a_folder_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    stores = [Store("a store"), Store(Path("a store")), Store("~/a store"), Store(f"file://{tmp_path}/a store")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    stores[0].write(KEY, DATA, {})
    for one in (*stores, *(pickle.loads(pickle.dumps(one)) for one in stores)):
        assert one.is_folder
        assert KEY in one
        assert one.path(KEY) == tmp_path / "a store" / "objects" / "ab" / f"{KEY}.safetensors"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a store", "elsewhere"]


def test_a_place_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        UsageError,
        match=r"store foo://b/a: protocol not known: foo; name a folder, or a URL such as s3://bucket/audits",
    ):
        Store("foo://b/a")
    with pytest.raises(UsageError, match=r"store ~nobody-here/a: could not determine home.*; name a folder, or a URL"):
        Store("~nobody-here/a")
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(
        UsageError, match=r"store s3://b/a: a package is missing to reach it; install s3fs to access S3"
    ):
        Store("s3://b/a")
