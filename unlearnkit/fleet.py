"""Many trainings and unlearnings as content-addressed, resumable jobs on local processes."""

from __future__ import annotations

import hashlib
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from unlearnkit import methods
from unlearnkit.models import Classifier, build, load_state, pack
from unlearnkit.store import Store, content_key
from unlearnkit.train import Recipe, device_of, fit
from unlearnkit.types import Examples, Method, Splits
from unlearnkit.unlearning import unlearn


@dataclass(frozen=True, eq=False)
class Job(ABC):
    """One model to be made. `describe` says everything that decides its bytes; its hash is the model's name."""

    name: str  # what a progress display calls it; no part of the key
    recipe: Recipe
    seed: int

    @abstractmethod
    def describe(self, data: str) -> dict[str, Any]:
        """Everything that decides the result, given the fingerprint of the training data."""

    @abstractmethod
    def run(self, train: Examples, store: Store, device: str) -> torch.nn.Module:
        """Make the model."""

    def key(self, data: str, device: str) -> str:
        """SHA-256 of the description, of the code that matters, of the torch version and of the kind of device."""
        code = hashlib.sha256(self.recipe.code().encode()).hexdigest()
        kind = device.partition(":")[0]
        return content_key({**self.describe(data), "code": code, "torch": torch.__version__, "device": kind})


@dataclass(frozen=True, eq=False)
class TrainJob(Job):
    """Train by the recipe on the given rows of the training data."""

    rows: NDArray[np.int64]

    def describe(self, data: str) -> dict[str, Any]:
        return {"job": "train", "recipe": self.recipe, "data": data, "rows": _digest(self.rows), "seed": self.seed}

    def run(self, train: Examples, store: Store, device: str) -> torch.nn.Module:
        return fit(self.recipe, train.take(self.rows), seed=self.seed, device=device)


@dataclass(frozen=True, eq=False)
class UnlearnJob(Job):
    """Unlearn the forget rows from a stored model."""

    start: str  # key of the original in the store
    method: Method
    forget: NDArray[np.int64]
    retain: NDArray[np.int64]
    test: Examples
    forget_class: int | None

    def describe(self, data: str) -> dict[str, Any]:
        # The whole of what a method could read decides its result: its own file and the shared machinery.
        sources = "".join(path.read_text() for path in _sources(type(self.method)))
        return {
            "job": "unlearn",
            "start": self.start,
            "data": data,
            "forget": _digest(self.forget),
            "retain": _digest(self.retain),
            "forget_class": self.forget_class,
            "method": self.method,
            "recipe": self.recipe,
            "seed": self.seed,
            "method_code": hashlib.sha256(sources.encode()).hexdigest(),
        }

    def run(self, train: Examples, store: Store, device: str) -> torch.nn.Module:
        model = read_model(store, self.start, self.recipe).to(device_of(device))
        splits = Splits(train.take(self.forget), train.take(self.retain), self.test, self.forget_class)
        return unlearn(model, splits, self.method, seed=self.seed, recipe=self.recipe).model.cpu()


def _sources(method: type[Method]) -> list[Path]:
    """Every file that can decide what a method makes: the room of methods, unlearn(), and the method's own file."""
    room = Path(inspect.getfile(methods)).parent.glob("*.py")
    own = (inspect.getfile(cls) for cls in method.__mro__ if cls.__module__ not in ("abc", "builtins"))
    return sorted({*room, Path(inspect.getfile(inspect.unwrap(unlearn))), *map(Path, own)})


def _digest(rows: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes()).hexdigest()


def read_model(store: Store, key: str, recipe: Recipe) -> Classifier:
    """A stored model, rebuilt from the recipe's architecture, in eval mode."""
    model = build(recipe.architecture, seed=0)
    load_state(model, store.read(key), what=f"store {key[:12]}", architecture=recipe.architecture)
    return model.eval()


def run_jobs(
    jobs: Sequence[Job],
    train: Examples,
    store: Store,
    *,
    device: str = "cpu",
    processes: int | None = None,
    fresh: bool = False,
    on_done: Callable[[Job, bool], None] | None = None,
) -> list[str]:
    """Make every model that the store does not hold yet, and return the keys in the order of the jobs.

    Interrupt or kill it at any moment and run it again: finished models are kept, the rest is made anew with the
    same bytes, since every job runs on one thread whatever the number of processes. `on_done` is told each job and
    whether it was there already. `fresh` makes all of them anew.
    """
    device_of(device)
    data = train.fingerprint
    keys = [job.key(data, device) for job in jobs]
    waiting: dict[str, list[Job]] = {}  # equal jobs are made once
    for job, key in zip(jobs, keys, strict=True):
        if key in store and not fresh:
            if on_done is not None:
                on_done(job, True)
        else:
            waiting.setdefault(key, []).append(job)

    def done(key: str) -> None:
        for i, job in enumerate(waiting[key]):
            if on_done is not None:
                on_done(job, i > 0)

    # one process per GPU: several on one GPU are slower in sum
    most = processes or (1 if device.startswith("cuda") else joblib.cpu_count())
    workers = min(most, len(waiting))
    if workers <= 1:
        for key, equal in waiting.items():
            _make(equal[0], key, train, store, device)
            done(key)
        return keys
    # numpy arrays above 1 MB are memory-mapped into the workers by joblib, tensors would be copied into each job
    x, y = train.x.numpy(), train.labels().numpy()
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", mmap_mode="c")
    calls = (
        joblib.delayed(_make_from_arrays)(equal[0], key, x, y, train.ids, store, device)
        for key, equal in waiting.items()
    )
    for key in parallel(calls):
        done(key)
    return keys


def _make_from_arrays(
    job: Job, key: str, x: NDArray[Any], y: NDArray[Any], ids: NDArray[Any], store: Store, device: str
) -> str:
    return _make(job, key, Examples(torch.from_numpy(x), torch.from_numpy(y), ids), store, device)


def _make(job: Job, key: str, train: Examples, store: Store, device: str) -> str:
    start = time.perf_counter()
    model = job.run(train, store, device)
    kept = build(job.recipe.architecture, seed=0)
    what = f"{job.name}: what the trainer returned"  # the plain network will do, as for weights from a file
    load_state(kept, model.state_dict(), what=what, architecture=job.recipe.architecture)
    record = {"name": job.name, "seconds": time.perf_counter() - start}
    store.write(key, pack(kept.state_dict(), job.recipe.architecture), record)
    return key
