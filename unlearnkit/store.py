"""The content-addressed store: a result's name is the SHA-256 of the description of how it is made.

A store is a folder or any fsspec URL (`s3://bucket/audits`). Under `objects/ab/` lies KEY.safetensors, and beside it
KEY.json, the record: what it is, how many bytes, their SHA-256. The record is written last: what has none is not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from unlearnkit.result import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

DAY = 86_400  # seconds
SETTLED = 3_600  # seconds after which a file without its partner is a leftover, and not somebody's result on its way
_FEW = 8  # so many keys are asked for one by one; for more, one listing of a bucket is faster
# Nothing else is looked at, let alone deleted: a folder named by mistake may hold `objects` of its own.
_OURS = re.compile(r"objects/([0-9a-f]{2})/(\.?)(\1[0-9a-f]{62})\.(safetensors|json)(\.\d+-[0-9a-f]{8})?")


def canonical(description: Any) -> str:
    """One spelling of a description: sorted keys, no spaces, dataclasses as mappings, no NaN."""
    return json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"class": name} | {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no canonical spelling; describe it with plain values")


def content_key(description: Any) -> str:
    """SHA-256 of the canonical description."""
    return hashlib.sha256(canonical(description).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: Path) -> bytes:
    """The bytes of a file that a user named; what keeps it from being read is told in one sentence."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


def write_atomic(path: Path, data: bytes) -> None:
    """All of `data` under `path`, or the old file untouched: whatever happens in between, also a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with waiting.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(path)
    except BaseException:
        waiting.unlink(missing_ok=True)
        raise


_WHOLE: set[tuple[str, str]] = set()  # roots and keys whose bytes this process has held against their hash


@dataclass(frozen=True)
class Entry:
    """One result of a store, as `unlearnkit store ls` shows it."""

    key: str
    kind: str  # the kind of job that made it
    name: str
    bytes: int
    seconds: float | None  # it took to make
    used: float  # seconds since the epoch: last read, as far as the store can tell


@dataclass(frozen=True)
class Fault:
    """A file that can go, and why."""

    path: str  # below the root
    reason: str
    bytes: int


@dataclass(frozen=True)
class _File:
    bytes: int
    changed: float  # seconds since the epoch


@dataclass(frozen=True)
class Store:
    """Tensors by key. Safe to kill at any moment, and for several processes and machines to write to at once.

    Results that are made twice at the same moment should have the same bytes, as those of jobs do; where they have not,
    a read finds that data and record do not belong together, and refuses.
    """

    root: str | Path  # a folder, or an fsspec URL

    def __post_init__(self) -> None:
        try:
            if "://" not in str(self.root):  # absolute, since workers may have another working directory
                object.__setattr__(self, "root", Path(self.root).expanduser().absolute())
            _ = self._place
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                f"store {self.root}: {_lower(error)}; name a folder, or a URL such as s3://bucket/audits"
            ) from error
        except ImportError as error:
            raise UsageError(f"store {self.root}: a package is missing to reach it; {_lower(error)}") from error

    @property
    def _place(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system, and the root's path on it."""
        if isinstance(self.root, Path):
            return LocalFileSystem(), str(self.root).rstrip("/")
        files, root = fsspec.url_to_fs(self.root)  # fsspec keeps one file system per kind of URL
        files.invalidate_cache()  # and remembers listings, which other machines have outdated
        return files, root.rstrip("/")

    def _names(self, key: str) -> tuple[str, str]:
        """Paths of the tensors and of the record, below the root."""
        stem = f"objects/{key[:2]}/{key}"
        return f"{stem}.safetensors", f"{stem}.json"

    @property
    def is_folder(self) -> bool:
        """Whether the store lies on this machine's own disks."""
        return isinstance(self._place[0], LocalFileSystem)

    def path(self, key: str) -> Path:
        """The file of a key on this machine: the store's own, or a copy fetched into the user's cache."""
        if self.is_folder:
            return Path(self._place[1], self._names(key)[0])
        copy = self._copy(key)
        if not copy.is_file():
            data = self._bytes(key)
            try:
                write_atomic(copy, data)
            except OSError as error:
                raise UsageError(
                    f"store {self.root}: a copy must be kept in {copy.parent}, but: {_lower(error.strerror or error)}; "
                    "name a folder with space in XDG_CACHE_HOME"
                ) from error
        return copy

    def _copy(self, key: str) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "unlearnkit")
        return cache / content_key(str(self.root))[:16] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        """Whether a key is kept: its record is whole, and its data as long as the record says."""
        files, root = self._place
        record = self.record(key)
        try:
            return bool(record) and files.size(f"{root}/{self._names(key)[0]}") == record["bytes"]
        except FileNotFoundError:
            return False

    def holding(self, keys: Iterable[str]) -> set[str]:
        """Which of the keys are kept here."""
        wanted = set(keys)
        if self.is_folder or len(wanted) <= _FEW:
            return {key for key in wanted if key in self}
        present = self._list()  # there a question takes long, and an object is whole or absent
        return {key for key in wanted if all(name in present for name in self._names(key))}

    def write(self, key: str, data: bytes, record: dict[str, Any]) -> None:
        """Keep safetensors bytes under a key, unless it is kept: then the first result stays.

        The record may hold what differs from run to run (times).
        """
        if key in self:
            return
        name, beside = self._names(key)
        whole = {**record, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        try:
            self._put(name, data)
            self._put(beside, json.dumps(whole, sort_keys=True).encode())  # last: its presence says that all is there
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), f"store {self.root}") from error

    def _put(self, name: str, data: bytes) -> None:
        files, root = self._place
        if self.is_folder:
            write_atomic(Path(root, name), data)
        else:  # object stores show an object only when it is whole
            files.pipe_file(f"{root}/{name}", data)

    def note(self, name: str, data: bytes) -> None:
        """Keep a small file of text beside the results, under a path below the root; the same name is written anew."""
        self._put(name, data)

    def notes(self, folder: str) -> dict[str, bytes]:
        """The small files of text in a folder below the root, by name; none where there is no such folder."""
        files, root = self._place
        paths = sorted(files.find(f"{root}/{folder}"))
        answers = files.cat_ranges(paths, None, None) if paths else []
        whole = {path.rpartition("/")[2]: answer for path, answer in zip(paths, answers, strict=True)}
        return {name: answer for name, answer in whole.items() if isinstance(answer, bytes)}

    def record(self, key: str) -> dict[str, Any]:
        """The record kept beside a key; empty when it is gone or damaged."""
        return self._records([key])[key]

    def _records(self, keys: list[str]) -> dict[str, dict[str, Any]]:
        """Many records; where a question takes long, all are asked at once."""
        files, root = self._place
        answers = files.cat_ranges([f"{root}/{self._names(key)[1]}" for key in keys], None, None)
        return {key: _parse(answer) for key, answer in zip(keys, answers, strict=True)}

    def _bytes(self, key: str) -> bytes:
        """The bytes of a key, held against the hash in its record."""
        files, root = self._place
        name, _ = self._names(key)
        record = self.record(key)
        try:
            data: bytes = files.cat_file(f"{root}/{name}") if record else b""
        except FileNotFoundError:
            record = {}
        if not record:
            raise UsageError(f"store {self.root}: nothing is kept under {key[:12]}")
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise UsageError(self._damaged(name))
        return data

    def _damaged(self, name: str) -> str:
        return (
            f"store {self.root}: {name} is damaged, its bytes are not those of its record; 'unlearnkit store gc' "
            "deletes it, then run again to make it anew"
        )

    def _touch(self, key: str) -> None:
        """Note that the key is in use, for `gc --unused-for`. Somebody else's store may be read, but not noted in."""
        if self.is_folder:
            with suppress(OSError):
                os.utime(Path(self._place[1], self._names(key)[1]))

    def read(self, key: str) -> dict[str, Tensor]:
        """The tensors of a key, checked against their hash."""
        from safetensors.torch import load

        data = self._bytes(key)
        self._touch(key)
        return load(data)

    def map(self, key: str) -> dict[str, NDArray[np.float32]]:
        """The arrays of a key, memory-mapped: they stay on disk until they are looked at. For float32 only.

        The bytes are held against their hash when a process maps them first.
        """
        import numpy as np
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise UsageError(f"store {self.root}: nothing is kept under {key[:12]}") from error
        except SafetensorError as error:
            raise UsageError(f"store {self.root}: {path} is damaged ({error}); delete it, then run again") from error
        other = next((name for name, kind in kinds.items() if kind != "F32"), None)
        if other is not None:
            raise UsageError(f"store {self.root}: only float32 is mapped, got {kinds[other]} for {other!r}; use read()")
        if (str(self.root), key) not in _WHOLE:
            if sha256_file(path) != self.record(key).get("sha256"):
                raise UsageError(self._damaged(self._names(key)[0]))
            _WHOLE.add((str(self.root), key))
        self._touch(key)
        data = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        return {
            name: data[slice(*(start + end for end in header[name]["data_offsets"]))]
            .view(np.float32)
            .reshape(header[name]["shape"])
            for name in kinds
        }

    def delete(self, keys: Iterable[str]) -> None:
        """Forget these keys; the record goes first."""
        for key in self.holding(keys):
            self._remove(reversed(self._names(key)))
            if not self.is_folder:
                self._copy(key).unlink(missing_ok=True)

    def _remove(self, names: Iterable[str]) -> None:
        files, root = self._place
        for name in names:
            with suppress(FileNotFoundError):  # somebody else was faster
                files.rm_file(f"{root}/{name}")

    def _list(self) -> dict[str, _File]:
        """Every file of the store, below the root."""
        files, root = self._place
        found = files.find(f"{root}/objects", detail=True)
        names = {path.removeprefix(f"{root}/"): info for path, info in found.items()}
        return {name: _File(info["size"] or 0, _changed(info)) for name, info in names.items() if _OURS.fullmatch(name)}

    def _survey(self) -> tuple[dict[str, _File], dict[str, dict[str, Any]]]:
        """Every file, and the records of the keys that have both files."""
        names = self._list()
        files, root = self._place
        if not names and not any(files.exists(f"{root}/{part}") for part in ("objects", "registrations")):
            raise UsageError(f"store {self.root}: there is no store; name the folder (or URL) given as --store")
        keys = [Path(name).stem for name in names if name.endswith(".json")]
        return names, self._records([key for key in keys if names.keys() >= set(self._names(key))])

    def entries(self) -> list[Entry]:
        """Every whole result, the largest first."""
        return self._entries(*self._survey())

    def _entries(self, names: dict[str, _File], records: dict[str, dict[str, Any]]) -> list[Entry]:
        found = []
        for key, record in records.items():
            data, beside = self._names(key)
            if record and names[data].bytes == record["bytes"]:
                kind, title = str(record.get("kind", "?")), str(record.get("name", "?"))
                found.append(Entry(key, kind, title, record["bytes"], record.get("seconds"), names[beside].changed))
        return sorted(found, key=lambda entry: (-entry.bytes, entry.key))

    def faults(self) -> list[Fault]:
        """Every file that is not part of a whole result: all are read in full, held against their hash and their name.

        Files younger than an hour that have no partner are left out: they may be on their way.
        """
        return self._faults(*self._survey())

    def _faults(self, names: dict[str, _File], records: dict[str, dict[str, Any]]) -> list[Fault]:
        now = time.time()
        faults = []
        for name, file in sorted(names.items()):
            key = Path(name).stem
            data, beside = self._names(key)
            if key in records:
                reason = self._doubt(key, records[key], names[data].bytes) if name == beside else None
                faults += [Fault(part, reason, names[part].bytes) for part in (beside, data) if reason]
            elif name == beside:
                faults.append(Fault(name, "a record without its tensors", file.bytes))
            elif now - file.changed > SETTLED:
                reason = "without a record" if name == data else "left over"
                faults.append(Fault(name, f"{reason}: its write was interrupted", file.bytes))
        return faults

    def _doubt(self, key: str, record: dict[str, Any], size: int) -> str | None:
        """What is wrong with a result of which both files are there."""
        files, root = self._place
        path = f"{root}/{self._names(key)[0]}"
        if not record:
            return "its record is damaged"
        try:
            found = sha256_file(Path(path)) if self.is_folder else hashlib.sha256(files.cat_file(path)).hexdigest()
        except FileNotFoundError:  # deleted since it was listed
            return None
        if size != record["bytes"] or found != record["sha256"]:
            return "damaged: its bytes are not those of its record"
        description = record.get("description")
        if isinstance(description, str) and hashlib.sha256(description.encode()).hexdigest() != key:
            return "its record describes another result"
        return None

    def collect(self, *, unused_for: float | None = None, dry_run: bool = False) -> list[Fault]:
        """Delete what is no whole result and, on request, whole results that nobody has read for so many days.

        A bucket does not tell when something was read; there the days count from its making.
        """
        names, records = self._survey()
        doomed = {fault.path: fault for fault in self._faults(names, records)}
        now = time.time()
        if unused_for is not None:
            for entry in self._entries(names, records):
                days = (now - entry.used) / DAY
                if days > unused_for:
                    for name in reversed(self._names(entry.key)):
                        doomed.setdefault(name, Fault(name, f"unused for {int(days)} days", names[name].bytes))
        if not dry_run:
            self._remove(doomed)
        return list(doomed.values())


def _parse(answer: bytes | Exception) -> dict[str, Any]:
    """A record, or nothing where there is none that is whole."""
    if isinstance(answer, FileNotFoundError | NotADirectoryError):
        return {}
    if isinstance(answer, Exception):
        raise answer
    try:
        record = json.loads(answer)
    except ValueError:
        return {}
    whole = isinstance(record, dict) and isinstance(record.get("bytes"), int) and isinstance(record.get("sha256"), str)
    return record if whole else {}


def _changed(info: dict[str, Any]) -> float:
    """When a file was last written, in seconds since the epoch. Each file system has its own word for it."""
    for word in ("mtime", "LastModified", "last_modified", "modified", "created"):
        when = info.get(word)
        if isinstance(when, datetime):
            return when.timestamp()
        if isinstance(when, int | float):
            return float(when)
    return time.time()  # not told: then nothing is ever old


def _lower(error: object) -> str:
    """An error's own words, in the middle of a sentence."""
    return str(error)[:1].lower() + str(error)[1:]
