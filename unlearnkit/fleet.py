"""A fleet: many jobs, made once each, on an engine; killed at any moment, it goes on where it stopped.

What jobs rest on is made on the way, models that train fastest together are stacked, and a job that fails is reported
by name while the others finish.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from unlearnkit.engines import Engine, check_engine, engine_for
from unlearnkit.jobs import Bench, GivenModel, Job, Made, ModelJob, ObserveJob, Sets
from unlearnkit.models import Classifier
from unlearnkit.result import UsageError
from unlearnkit.stacked import stack_size
from unlearnkit.store import Store
from unlearnkit.train import device_of


@dataclass(frozen=True)
class Progress:
    """How far a fleet is."""

    total: int  # jobs, with those that others rest on
    done: int  # finished, found, or failed
    kept: int  # of these: found in the store
    failed: int
    running: tuple[str, ...]  # names
    seconds: float  # since the fleet began to work
    step: str = ""  # what these jobs are for; empty: all that is asked

    @property
    def remaining(self) -> float | None:
        """Seconds left at the rate so far; None before there is one."""
        made = self.done - self.kept
        return (self.total - self.done) * self.seconds / made if made else None


Watch = Callable[[Progress], None]


@dataclass(eq=False)
class _Batch:
    """Jobs that one worker makes in one go."""

    keys: list[str]
    after: set[str]  # keys of tasks that must be finished first
    alone: bool = False  # nothing else may run meanwhile: one of them may have killed its worker


class Fleet:
    """Makes jobs and keeps their results in the store.

    device: `cpu`, `cuda` or `cuda:N`. engine: `local` or `ray`. processes: at most so many batches at once; left out,
    as many as there are cores or GPUs. fresh: make everything anew that this fleet is asked for. The number of
    processes and the engine change no bit of any result.
    """

    def __init__(
        self,
        sets: Sets,
        store: Store,
        *,
        device: str = "cpu",
        engine: str = "local",
        processes: int | None = None,
        fresh: bool = False,
        watch: Watch | None = None,
    ) -> None:
        check_engine(engine)
        if engine == "local":
            device_of(device)
        self.bench = Bench(sets, store, device)
        self.store = store
        self.watch = watch
        self._engine, self._processes, self._fresh = engine, processes, fresh
        self._renewed: set[str] = set()

    @property
    def fresh(self) -> bool:
        """Whether everything that is asked for is made anew, once."""
        return self._fresh

    def key(self, job: Job) -> str:
        """The job's name in the store."""
        return self.bench.key(job)

    def read(self, job: ModelJob) -> Classifier:
        """The model of a finished job, in eval mode."""
        return self.bench.read(job)

    def run(self, jobs: Sequence[Job], *, step: str = "") -> list[str]:
        """Make every job that the store does not hold, and return the keys in the order of the jobs. step: what they
        are for, told to who watches.

        Raises UsageError, once all others are finished, when a job has failed.
        """
        made = self.attempt(jobs, step=step)
        faults = {one.fault: job.name for job, one in zip(jobs, made, strict=True) if one.fault is not None}
        if faults:
            fault, name = next(iter(faults.items()))
            failed = sum(one.fault is not None for one in made)
            others = f" ({failed} of {len(jobs)} jobs failed; what the others made is kept)" if failed > 1 else ""
            raise UsageError(f"{name}: {fault}{others}")
        return [one.key for one in made]

    def attempt(self, jobs: Sequence[Job], *, step: str = "") -> list[Made]:
        """As `run`, but a job that fails says why in its place: nothing is missing silently, and nothing else stops."""
        keys = [self.key(job) for job in jobs]
        if self._fresh:
            self._renew(jobs)
        tasks, scratch = self._tasks(dict(zip(keys, jobs, strict=True)))
        told = _Told(self.watch, len({*keys, *tasks}), len(set(keys) - set(tasks)), step)
        results = self._make(tasks, told)
        self.store.delete(scratch)
        return [results.get(key, Made(key)) for key in keys]

    def _renew(self, jobs: Iterable[Job]) -> None:
        """Forget results that are to be made anew, once."""
        for job in jobs:
            key = self.key(job)
            if not isinstance(job, GivenModel) and key not in self._renewed:
                self._renewed.add(key)
                self.store.delete([key])
            self._renew(job.rests_on)

    def _tasks(self, wanted: dict[str, Job]) -> tuple[dict[str, Job], set[str]]:
        """What must be made: missing jobs, and before them missing models that several rest on.

        The second part names models that are needed on the way only: nobody asked to keep their weights.
        """
        held = self.store.holding(wanted)
        missing = {key: job for key, job in wanted.items() if key not in held and not isinstance(job, GivenModel)}
        lent = [key for key, job in wanted.items() if isinstance(job, GivenModel) and key not in held]
        if lent:
            raise UsageError(f"store {self.store.root}: nothing is kept under {lent[0][:12]}")
        uses: Counter[str] = Counter()
        below: dict[str, Job] = {}
        kept: set[str] = set()
        for job in missing.values():
            found = self._below(job)
            below |= found
            uses.update(found.keys())
            if not isinstance(job, ObserveJob) or job.keep_weights:
                kept |= found.keys()
        shared = {key: job for key, job in below.items() if uses[key] > 1 and key not in missing}
        return {**shared, **missing}, set(shared) - kept

    def _below(self, job: Job) -> dict[str, Job]:
        """The missing models that a job rests on, directly or through others."""
        found: dict[str, Job] = {}
        for other in job.rests_on:
            key = self.key(other)
            if key not in found and key not in self.store and not isinstance(other, GivenModel):
                found |= {key: other, **self._below(other)}
        return found

    def _batches(self, tasks: dict[str, Job], places: int) -> list[_Batch]:
        """Tasks that train fastest together side by side, evenly over the places; those that others wait for first."""
        groups: dict[Any, list[str]] = {}
        after = {key: set(self._before(job, tasks)) for key, job in tasks.items()}
        awaited = set().union(*after.values()) if after else set()
        for key, job in tasks.items():
            stack = self.bench.stack_of(job) if not after[key] else None
            alone = stack is None
            groups.setdefault((stack, key if alone else key in awaited), []).append(key)
        batches = []
        for (stack, _), keys in groups.items():
            most = 1 if stack is None else stack_size(stack[0], self.bench.device)
            count = -(-len(keys) // most)
            if len(keys) >= places > 1:
                count = -(-count // places) * places
            split = [part.tolist() for part in np.array_split(np.array(keys), min(count, len(keys)))]
            batches += [_Batch(part, set().union(*(after[key] for key in part))) for part in split]
        return sorted(batches, key=lambda batch: awaited.isdisjoint(batch.keys))

    def _before(self, job: Job, tasks: dict[str, Job]) -> Iterator[str]:
        for other in job.rests_on:
            key = self.key(other)
            if key in tasks:
                yield key
            yield from self._before(other, tasks)

    def _make(self, tasks: dict[str, Job], told: _Told) -> dict[str, Made]:
        if not tasks:
            return {}
        engine = engine_for(self.bench, self._engine, self._processes, len(tasks))
        with closing(engine):
            return _Schedule(tasks, self._batches(tasks, len(engine.places)), engine, told, self.store).work()


class _Schedule:
    """Which batch runs where, and what becomes of those that fail."""

    def __init__(self, tasks: dict[str, Job], batches: list[_Batch], engine: Engine, told: _Told, store: Store) -> None:
        self.tasks, self.waiting, self.engine, self.told, self.store = tasks, batches, engine, told, store
        self.running: dict[Future[list[Made]], tuple[_Batch, str]] = {}
        self.results: dict[str, Made] = {}

    def work(self) -> dict[str, Made]:
        """Until every task has a result or a fault."""
        while self.waiting or self.running:
            self._start()
            if not self.running:
                if self.waiting and not any(batch.after <= self.results.keys() for batch in self.waiting):
                    raise RuntimeError("the fleet waits for jobs that nobody makes")
                continue
            finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
            crashed = []
            for future in finished:
                batch, _ = self.running.pop(future)
                self.told.ended(self._names(batch))
                error = future.exception()
                if error is None:
                    self._settle(batch, future.result())
                elif self.engine.crashed(error):
                    crashed.append(batch)
                else:
                    raise error
            if crashed:
                self._recover(crashed)
        return self.results

    def _names(self, batch: _Batch) -> list[str]:
        return [self.tasks[key].name for key in batch.keys]

    def _start(self) -> None:
        """Fill the free places with batches that wait for nothing more."""
        for batch in list(self.waiting):
            taken = Counter(place for _, place in self.running.values())
            free = list((Counter(self.engine.places) - taken).elements())
            guarded = any(other.alone for other, _ in self.running.values())
            if not free or guarded or (batch.alone and self.running):
                return
            if not batch.after <= self.results.keys():
                continue
            self.waiting.remove(batch)
            broken = next((key for key in sorted(batch.after) if self.results[key].fault is not None), None)
            if broken is not None:
                fault = f"rests on {self.tasks[broken].name}: {self.results[broken].fault}"
                self._report([Made(key, fault) for key in batch.keys])
                continue
            self.told.started(self._names(batch))
            future = self.engine.submit([self.tasks[key] for key in batch.keys], free[0])
            self.running[future] = (batch, free[0])

    def _report(self, made: Sequence[Made]) -> None:
        for one in made:
            self.results[one.key] = one
            self.told.finished(failed=one.fault is not None)

    def _settle(self, batch: _Batch, made: list[Made]) -> None:
        """Keep what was made; what ran out of memory beside others is tried with half as many."""
        self._check(batch, made)
        hungry = [one.key for one in made if one.again]
        if len(batch.keys) > 1 and hungry:
            self._report([one for one in made if not one.again])
            half = max(1, len(batch.keys) // 2)
            parts = [hungry[i : i + half] for i in range(0, len(hungry), half)]
            self.waiting = [*(_Batch(part, batch.after) for part in parts), *self.waiting]
        elif hungry and not batch.alone and len(self.engine.places) > 1:
            self.waiting.append(_Batch(batch.keys, batch.after, alone=True))
        else:
            self._report(made)

    def _check(self, batch: _Batch, made: list[Made]) -> None:
        """What a worker says it made must lie in the store under the key that this process looks for."""
        others = [one.key for one, key in zip(made, batch.keys, strict=True) if one.key != key]
        if others:
            raise UsageError(
                "fleet: a worker has another torch, another processor or other code than this process, so that its "
                "results bear other names; use machines of one kind with the same versions"
            )
        finished = [one.key for one in made if one.fault is None]
        if len(self.store.holding(finished)) < len(finished):
            raise UsageError(
                f"store {self.store.root}: what a worker made is not to be seen here; name a store that every worker "
                "reaches, a shared folder or a bucket"
            )

    def _recover(self, crashed: list[_Batch]) -> None:
        """A worker died. Its jobs are tried once more, one by one with nothing beside them: then the blame is sure."""
        if self.engine.fall_together:
            crashed += [batch for batch, _ in self.running.values()]
            self.told.ended([name for batch, _ in self.running.values() for name in self._names(batch)])
            self.running.clear()
        self.engine.restart()
        for batch in crashed:
            if batch.alone:
                fault = "its process died, twice; the system may have stopped it for want of memory"
                self._report([Made(key, fault) for key in batch.keys])
            else:
                self.waiting += [_Batch([key], batch.after, alone=True) for key in batch.keys]


class _Told:
    """Keeps count, and tells who watches."""

    def __init__(self, watch: Watch | None, total: int, kept: int, step: str) -> None:
        self._watch, self._begun, self._step = watch, time.monotonic(), step
        self._total, self._kept, self._done, self._failed = total, kept, kept, 0
        self._running: Counter[str] = Counter()
        self._tell()

    def started(self, names: Iterable[str]) -> None:
        self._running.update(names)
        self._tell()

    def ended(self, names: Iterable[str]) -> None:
        self._running.subtract(names)

    def finished(self, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        self._tell()

    def _tell(self) -> None:
        if self._watch is not None:
            running = tuple(self._running.elements())
            seconds = time.monotonic() - self._begun
            self._watch(Progress(self._total, self._done, self._kept, self._failed, running, seconds, self._step))


class Observations:
    """What many models say about the same points: margins, float32 [model, stage, point, view], kept on disk.

    One file per model, so that models are added at any time and nothing is written twice; each file is memory-mapped
    while it is read.
    """

    def __init__(self, store: Store, keys: Sequence[str]) -> None:
        if not keys:
            raise UsageError("observations: name at least one observation")
        self._store, self._keys = store, list(keys)
        arrays = store.map(keys[0])
        if "margins" not in arrays:
            raise UsageError(f"observations: {keys[0][:12]} is no observation; name the keys of ObserveJobs")
        self.shape: tuple[int, int, int, int] = (len(keys), *arrays["margins"].shape)

    def __len__(self) -> int:
        return len(self._keys)

    def margins(self, points: slice = slice(None)) -> Float[np.ndarray, "model stage point view"]:
        """The margins of some of the points under every model, read into memory."""
        rows = [self._one(key)[:, points] for key in self._keys]
        return np.stack(rows)

    def blocks(self, points: int = 4096) -> Iterator[tuple[slice, Float[np.ndarray, "model stage point view"]]]:
        """All margins, so many points at a time: what a test per point needs, in bounded memory."""
        for start in range(0, self.shape[2], points):
            part = slice(start, min(start + points, self.shape[2]))
            yield part, self.margins(part)

    def _one(self, key: str) -> NDArray[np.float32]:
        margins = self._store.map(key)["margins"]
        if margins.shape != self.shape[1:]:
            raise UsageError(
                f"observations: all models must have been seen at the same points, got {margins.shape} for {key[:12]} "
                f"and {self.shape[1:]} for the first"
            )
        return margins


__all__ = ["Fleet", "Observations", "Progress", "Watch"]
