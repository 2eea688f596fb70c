"""The content-addressed store: a result's name is the SHA-256 of the description of how it is made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from unlearnkit.result import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def canonical(description: Any) -> str:
    """One spelling of a description: sorted keys, no spaces, dataclasses as mappings, no NaN."""
    return json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__} | {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no canonical spelling; describe it with plain values")


def content_key(description: Any) -> str:
    """SHA-256 of the canonical description."""
    return hashlib.sha256(canonical(description).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """All of `data` under `path`, or the old file untouched: whatever happens in between, also a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp makes private files; results are ordinary ones
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Store:
    """Tensors by key under one folder. Safe to kill at any moment: a file is either whole or not there."""

    root: Path

    def path(self, key: str) -> Path:
        """Where a key's file lies, present or not."""
        return self.root / "models" / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def write(self, key: str, data: bytes, record: dict[str, Any]) -> None:
        """Keep safetensors bytes under a key, and beside them a record of what may differ from run to run (times)."""
        write_atomic(self.path(key).with_suffix(".json"), json.dumps(record, sort_keys=True).encode())
        write_atomic(self.path(key), data)  # last: its presence says that all is there

    def record(self, key: str) -> dict[str, Any]:
        """The record kept beside a key; empty when it is gone or damaged."""
        try:
            record = json.loads(self.path(key).with_suffix(".json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def read(self, key: str) -> dict[str, Tensor]:
        """The tensors of a key."""
        from safetensors.torch import load

        path = self.path(key)
        try:
            return load(path.read_bytes())
        except FileNotFoundError as error:
            raise UsageError(f"store {self.root}: nothing is kept under {key[:12]}") from error
        except SafetensorError as error:
            raise UsageError(
                f"store {self.root}: {path.name} is damaged ({error}); delete it and run again to make it anew"
            ) from error
