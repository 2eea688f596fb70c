"""Engines: where batches of jobs run - in this process, in local processes, or on the nodes of a Ray cluster."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray

from unlearnkit.data import Mapped, mapped_from
from unlearnkit.jobs import Bench, Job, Made, Sets
from unlearnkit.result import UsageError, nearest
from unlearnkit.store import Store
from unlearnkit.train import device_of
from unlearnkit.types import Examples

ENGINES = ("local", "ray")
_SPILL = 1 << 20  # bytes above which an array travels as a file that every worker maps
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_IDLE = 20.0  # seconds after which a worker without work ends


@dataclass(frozen=True, eq=False)
class _Packed:
    """A bench as it travels: arrays that lie in files stay there and are mapped again at the other end."""

    token: str  # one per fleet: a worker unpacks it once
    arrays: tuple[NDArray[Any] | Mapped | None, ...]  # inputs, labels and ids of train and test
    fingerprints: tuple[str, str]
    store: Store
    device: str
    paths: tuple[str, ...]  # where the user's modules lie

    @classmethod
    def of(cls, bench: Bench, folder: Path | None) -> _Packed:
        """folder: where large arrays are put for workers on this machine; None: they travel whole."""
        arrays: list[NDArray[Any] | Mapped | None] = []
        for part in (bench.sets.train, bench.sets.test):
            tensors = (None if tensor is None else _sent(tensor, folder) for tensor in (part.x, part.y))
            arrays += [*tensors, _spilled(part.ids, folder)]
        prints = (bench.sets.train.fingerprint, bench.sets.test.fingerprint)
        return cls(uuid.uuid4().hex, tuple(arrays), prints, bench.store, bench.device, tuple(sys.path))

    def open(self) -> Bench:
        """The bench again."""
        sys.path += [path for path in self.paths if path not in sys.path]
        opened = [array.open() if isinstance(array, Mapped) else array for array in self.arrays]
        with warnings.catch_warnings(action="ignore"):  # of read-only memory: nobody writes to examples
            parts = []
            for (x, y, ids), fingerprint in zip((opened[:3], opened[3:]), self.fingerprints, strict=True):
                assert x is not None
                assert ids is not None
                part = Examples(torch.from_numpy(x), None if y is None else torch.from_numpy(y), ids)
                part.__dict__["fingerprint"] = fingerprint  # computed once, where the fleet was started
                parts.append(part)
        return Bench(Sets(*parts), self.store, self.device)


def _sent(tensor: torch.Tensor, folder: Path | None) -> NDArray[Any] | Mapped:
    array: NDArray[Any] = tensor.numpy()
    if folder is None:
        return array
    return mapped_from(array) or _spilled(array, folder)


def _spilled(array: NDArray[Any], folder: Path | None) -> NDArray[Any] | Mapped:
    """A large array as a file in the folder."""
    if folder is None or array.nbytes < _SPILL:
        return array
    path = folder / f"{uuid.uuid4().hex}.bin"
    whole = np.ascontiguousarray(array)
    whole.tofile(path)
    return Mapped(str(path), 0, whole.dtype, whole.shape, whole.strides)


_OPENED: dict[str, Bench] = {}


def _work(packed: _Packed, jobs: Sequence[Job], device: str) -> list[Made]:
    """What a worker does with a batch."""
    if packed.token not in _OPENED:
        _OPENED.clear()  # one fleet at a time
        _OPENED[packed.token] = packed.open()
    return _OPENED[packed.token].make(jobs, device)


_FOLDERS: set[str] = set()  # a worker's: what its fleets have put on disk


def _local_work(parent: int, folder: str, packed: _Packed, jobs: Sequence[Job], device: str) -> list[Made]:
    """As `_work`, in a process that ends with the one that started it, should that be killed, and clears its files."""
    if not _FOLDERS:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    _FOLDERS.add(folder)
    return _work(packed, jobs, device)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    for folder in _FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


class Engine(ABC):
    """Runs batches of jobs. `places` names a device for each batch that may run at once."""

    places: tuple[str, ...]
    fall_together: ClassVar[bool] = False  # whether one worker's death ends the batches of the others too

    @abstractmethod
    def submit(self, jobs: Sequence[Job], device: str) -> Future[list[Made]]:
        """Start a batch."""

    def crashed(self, error: BaseException) -> bool:
        """Whether the error says that a worker died under its batch, rather than that the program is at fault."""
        return False

    def restart(self) -> None:  # noqa: B027  # most engines have nothing to do
        """After a crash: be ready for the next batch."""

    def close(self) -> None:  # noqa: B027
        """No more batches; leave nothing behind. Workers that still run are stopped."""


class InProcess(Engine):
    """One batch after the other, here."""

    def __init__(self, bench: Bench, device: str) -> None:
        self._bench = bench
        self.places = (device,)

    def submit(self, jobs: Sequence[Job], device: str) -> Future[list[Made]]:
        future: Future[list[Made]] = Future()
        future.set_result(self._bench.make(jobs, device))
        return future


class Processes(Engine):
    """Processes on this machine: as many as cores, each on one thread; on CUDA one per device.

    Several processes on one GPU are slower in sum than one model after the other.
    """

    fall_together = True

    def __init__(self, bench: Bench, places: Sequence[str]) -> None:
        self.places = tuple(places)
        self._folder = tempfile.TemporaryDirectory(prefix="unlearnkit-")
        self._packed = _Packed.of(bench, Path(self._folder.name))
        self._started: list[Future[list[Made]]] = []
        self.restart()

    def restart(self) -> None:
        self._pool = get_reusable_executor(
            max_workers=len(self.places), timeout=_IDLE, env={**os.environ, **_ONE_THREAD}
        )

    def submit(self, jobs: Sequence[Job], device: str) -> Future[list[Made]]:
        future: Future[list[Made]] = self._pool.submit(
            _local_work, os.getpid(), self._folder.name, self._packed, list(jobs), device
        )
        self._started = [*(other for other in self._started if not other.done()), future]
        return future

    def crashed(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor)

    def close(self) -> None:
        if not all(future.done() for future in self._started):
            self._pool.shutdown(wait=True, kill_workers=True)
        self._folder.cleanup()


def _check_answers(address: str | None) -> None:
    """Ray itself tries for minutes to reach a cluster that is not there."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, or no address: Ray finds out at once
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UsageError(
            f"engine 'ray': no cluster answers at {address} (RAY_ADDRESS); start it there, or unset RAY_ADDRESS"
        ) from error


class Ray(Engine):
    """Tasks on a Ray cluster: the one that RAY_ADDRESS names, or one started on this machine."""

    def __init__(self, bench: Bench, at_once: int | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError("engine 'ray': Ray is not installed; install unlearnkit[ray]") from error
        self._ray = ray
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            _check_answers(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        on_gpu = bench.device.startswith("cuda")
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        there = int(resources.get("GPU" if on_gpu else "CPU", 0))
        if not there:
            raise UsageError(f"engine 'ray': the cluster has no {'GPU' if on_gpu else 'CPU'} to offer")
        count = at_once or there
        # a task sees its own GPU only, under the number 0; more tasks than GPUs share them
        share: dict[str, Any] = {"num_gpus": min(1.0, there / count), "num_cpus": 0} if on_gpu else {"num_cpus": 1}
        self.places = ("cuda" if on_gpu else "cpu",) * count
        self._packed = ray.put(_Packed.of(bench, None))
        one = {"env_vars": _ONE_THREAD}
        self._started: list[tuple[Any, Future[list[Made]]]] = []
        self._task = ray.remote(**share, max_retries=0, runtime_env=one)(_work)

    def submit(self, jobs: Sequence[Job], device: str) -> Future[list[Made]]:
        task = self._task.remote(self._packed, list(jobs), device)
        future: Future[list[Made]] = task.future()
        self._started = [*((t, f) for t, f in self._started if not f.done()), (task, future)]
        return future

    def crashed(self, error: BaseException) -> bool:
        from ray.exceptions import RayError, RayTaskError

        return isinstance(error, RayError) and not isinstance(error, RayTaskError)

    def close(self) -> None:
        for task, future in self._started:
            if not future.done():
                self._ray.cancel(task, force=True)


def check_engine(name: str) -> None:
    """Refuses an engine that there is none of."""
    if name not in ENGINES:
        raise UsageError(f"engine: must be one of {', '.join(ENGINES)}, got {name!r}{nearest(name, ENGINES)}")


def engine_for(bench: Bench, name: str, processes: int | None, batches: int) -> Engine:
    """The engine of that name, with no more places than there are batches."""
    check_engine(name)
    device = device_of(bench.device) if name == "local" else torch.device(bench.device)
    if name == "ray":
        return Ray(bench, processes)
    if device.type == "cuda":
        own = device.index is not None or torch.cuda.device_count() == 1
        places = [bench.device] if own else [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    else:
        places = ["cpu"] * (processes or joblib.cpu_count())
    places = places[:batches]
    return InProcess(bench, places[0]) if len(places) == 1 else Processes(bench, places)
