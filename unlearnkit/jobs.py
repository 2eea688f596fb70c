"""Jobs: trainings, unlearnings, observations, probes; each is named by the hash of all that decides its result."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from unlearnkit.data import resolve
from unlearnkit.models import Architecture, Classifier, build, load_state, pack
from unlearnkit.observing import observe
from unlearnkit.provenance import Code, code_of
from unlearnkit.result import UsageError
from unlearnkit.stacked import fit_stack, stack_size
from unlearnkit.store import Store, canonical, content_key
from unlearnkit.train import Recipe, device_of, fit, initial
from unlearnkit.treatments import treated
from unlearnkit.types import Examples, Method, Probe, Splits, join
from unlearnkit.unlearning import unlearn

Rows = NDArray[np.int64]
VERSION = 1  # of this file: raised when jobs of the same description are made in another way


@dataclass(frozen=True, eq=False)
class Job:
    """One result to be made. `name` is what a progress display calls it, and no part of the key."""

    kind: ClassVar[str]

    name: str

    @property
    def rests_on(self) -> tuple[ModelJob, ...]:
        """The jobs whose models this one starts from."""
        return ()


@dataclass(frozen=True, eq=False)
class ModelJob(Job):
    """A job whose result is a model."""

    recipe: Recipe


@dataclass(frozen=True, eq=False)
class GivenModel(ModelJob):
    """A model that was put into the store under a key of its own: a user's weights."""

    kind: ClassVar[str] = "given"

    key: str


@dataclass(frozen=True, eq=False)
class TrainJob(ModelJob):
    """Train by the recipe on the given rows of the training set."""

    kind: ClassVar[str] = "train"

    seed: int
    rows: Rows


@dataclass(frozen=True, eq=False)
class UnlearnJob(ModelJob):
    """Unlearn the forget rows from the model that `start` makes. unseen: rows of the test set lent to the method."""

    kind: ClassVar[str] = "unlearn"

    seed: int
    start: ModelJob
    method: Method
    forget: Rows
    retain: Rows
    forget_class: int | None = None
    unseen: Rows | None = None

    @property
    def rests_on(self) -> tuple[ModelJob, ...]:
        return (self.start,)


@dataclass(frozen=True, eq=False)
class Points:
    """The points of an observation: rows of the training set, then rows of the test set."""

    train: Rows
    test: Rows

    def __len__(self) -> int:
        return self.train.size + self.test.size


@dataclass(frozen=True, eq=False)
class ObserveJob(Job):
    """Margins, float32 [stage, point, view], of one model at one or several stages of its life: trained, unlearned.

    flips: the flipped image is a second view. logits: keep them too, [stage, point, view, class].
    keep_weights: whether models that are made on the way stay in the store.
    treatments: names in `unlearnkit.treatments`; each stage is then seen after each of them, [stage · treatment, …].
    """

    kind: ClassVar[str] = "observe"

    stages: tuple[ModelJob, ...]
    points: Points
    flips: bool = False
    logits: bool = False
    keep_weights: bool = True
    treatments: tuple[str, ...] = ()

    @property
    def rests_on(self) -> tuple[ModelJob, ...]:
        return self.stages


@dataclass(frozen=True, eq=False)
class ProbeJob(Job):
    """What a probe reads off one model: its `value`, and the curve it sums up. Rows as in `UnlearnJob`.

    twins: rows of the test set, like `held_out`, which the probe knows as the test set.
    """

    kind: ClassVar[str] = "probe"

    model: ModelJob
    probe: Probe
    seed: int
    forget: Rows
    retain: Rows
    held_out: Rows
    twins: Rows
    forget_class: int | None = None

    @property
    def rests_on(self) -> tuple[ModelJob, ...]:
        return (self.model,)


@dataclass(frozen=True, eq=False)
class Sets:
    """What the rows of jobs are rows of."""

    train: Examples
    test: Examples


@dataclass(frozen=True)
class Made:
    """What became of one job."""

    key: str
    fault: str | None = None  # the sentence that says why there is no result
    again: bool = False  # worth another try with fewer jobs at once: memory ran out


@dataclass(frozen=True, eq=False)
class Bench:
    """Where jobs are made: the data, the store and the kind of device. It travels to every worker."""

    sets: Sets
    store: Store
    device: str

    def key(self, job: Job) -> str:
        """The job's name in the store: SHA-256 of everything that decides its result."""
        return job.key if isinstance(job, GivenModel) else content_key(self.describe(job))

    def describe(self, job: Job) -> dict[str, Any]:
        """Everything that decides the job's result: what it is, its data, the code behind it, versions and device."""
        common = {"job": job.kind, "version": VERSION, **self._platform}
        if isinstance(job, TrainJob):
            return common | {
                "recipe": job.recipe,
                "seed": job.seed,
                "data": self.sets.train.fingerprint,
                "rows": _digest(job.rows),
                "stacked": stack_size(job.recipe, self.device) > 1,
                "code": self._training_code(job.recipe),
            }
        if isinstance(job, UnlearnJob):
            return common | {
                "recipe": job.recipe,
                "seed": job.seed,
                "start": self.key(job.start),
                "method": job.method,
                "data": self.sets.train.fingerprint,
                "forget": _digest(job.forget),
                "retain": _digest(job.retain),
                "forget_class": job.forget_class,
                "unseen": None if job.unseen is None else [self.sets.test.fingerprint, _digest(job.unseen)],
                "code": [self._code(unlearn, *_classes(job.method)), *self._training_code(job.recipe)],
            }
        if isinstance(job, ObserveJob):
            # named only where there are some: looks at models as they are keep their names
            weights = {"treatments": job.treatments, "treated by": self._code(treated)} if job.treatments else {}
            return (
                common
                | weights
                | {
                    "stages": [self.key(stage) for stage in job.stages],
                    "train": [self.sets.train.fingerprint, _digest(job.points.train)],
                    "test": [self.sets.test.fingerprint, _digest(job.points.test)],
                    "flips": job.flips,
                    "logits": job.logits,
                    "code": [self._code(observe), *self._given_code(job)],
                }
            )
        if isinstance(job, ProbeJob):
            given = [self._training_code(job.model.recipe)] if isinstance(job.model, GivenModel) else []
            return common | {
                "model": self.key(job.model),
                "probe": job.probe,
                "seed": job.seed,
                "train": [self.sets.train.fingerprint, _digest(job.forget), _digest(job.retain)],
                "test": [self.sets.test.fingerprint, _digest(job.held_out), _digest(job.twins)],
                "forget_class": job.forget_class,
                "code": [self._code(*_classes(job.probe)), *given],
            }
        raise TypeError(f"{type(job).__name__} is no job that can be described")

    @functools.cached_property
    def _platform(self) -> dict[str, str]:
        """What makes other bits of the same job: torch, and the CUDA device or the CPU's vector instructions."""
        if self.device.startswith("cuda"):
            chip = torch.cuda.get_device_name(self.device) if torch.cuda.is_available() else "absent"
        else:
            chip = torch.backends.cpu.get_cpu_capability()
        return {"device": self.device.partition(":")[0], "chip": chip, "torch": torch.__version__}

    @functools.cached_property
    def _known_code(self) -> dict[Any, Code]:
        return {}

    def _code(self, *things: Any) -> Code:
        if things not in self._known_code:
            self._known_code[things] = code_of(*things)
        return self._known_code[things]

    def _training_code(self, recipe: Recipe) -> list[Any]:
        """Our loop and networks; those of the user; versions of libraries that a network or a loop is taken from."""
        named = [name for name in (recipe.trainer, recipe.architecture.name) if name and ":" in name]
        theirs = [name for name in named if not name.startswith("torchvision:")]
        for name in theirs:
            resolve(name)  # what cannot be found shows now, and modules of the working directory can be from here on
            self._refuse_stale(name)
        borrowed = recipe.architecture.name.startswith(("torchvision:", "resnet18-cifar"))
        libraries = ["torchvision"] * borrowed + ["opacus"] * (recipe.privacy is not None)
        versions = [importlib.metadata.version(library) for library in libraries]
        return [self._code(fit_stack), *map(self._code, theirs), *versions]

    def _refuse_stale(self, name: str) -> None:
        """The key is about the code on disk, what runs is the code that was imported: they must be one."""
        module = sys.modules[name.partition(":")[0]]
        digest = self._code(name).digest
        if vars(module).setdefault("__unlearnkit_code__", digest) != digest:
            raise UsageError(f"{name}: its code has changed since it was imported; start the program again")

    def _given_code(self, job: ObserveJob) -> list[Any]:
        """The networks of models that were handed in: the keys of all others hold theirs."""
        return [self._training_code(stage.recipe) for stage in job.stages if isinstance(stage, GivenModel)]

    def stack_of(self, job: Job) -> tuple[Recipe, int] | None:
        """Jobs of one answer train fastest together: the recipe and the number of rows. None: alone."""
        roots = {(root.recipe, root.rows.size) for root in self._to_train([job])}
        if len(roots) != 1:
            return None
        recipe, rows = roots.pop()
        return (recipe, rows) if stack_size(recipe, self.device) > 1 else None

    def _to_train(self, jobs: Sequence[Job]) -> Iterator[TrainJob]:
        """The trainings that the jobs need and the store does not hold."""
        named = {self.key(job): job for job in jobs}
        held = self.store.holding(named)
        missing = [job for key, job in named.items() if key not in held]
        yield from (job for job in missing if isinstance(job, TrainJob))
        below = [other for job in missing for other in job.rests_on]
        if below:
            yield from self._to_train(below)

    def read(self, job: ModelJob) -> Classifier:
        """A stored model, rebuilt from the recipe's architecture, in eval mode."""
        return read_model(self.store, self.key(job), job.recipe.architecture)

    def points(self, points: Points) -> Examples:
        """The named points, as examples."""
        pairs = ((self.sets.train, points.train), (self.sets.test, points.test))
        return join(*(examples.take(rows) for examples, rows in pairs if rows.size))

    def make(self, jobs: Sequence[Job], device: str) -> list[Made]:
        """Make every job of a batch, and what they rest on where the store does not hold it. See `Made`."""
        work = _Work(self, device)
        results: list[Made] = []
        try:
            work.train(list(self._to_train(jobs)))
            for job in jobs:
                try:
                    if self.key(job) not in self.store:  # a batch that is tried again may have been half done
                        work.finish(job)
                    results.append(Made(self.key(job)))
                except UsageError as error:
                    results.append(Made(self.key(job), str(error)))
        except (MemoryError, RuntimeError) as error:
            if not _memory_ran_out(error):
                raise
            fault = f"out of memory ({(str(error) or type(error).__name__).splitlines()[0]})"
            results += [Made(self.key(job), fault, again=True) for job in jobs[len(results) :]]
        return results


def read_model(store: Store, key: str, architecture: Architecture) -> Classifier:
    """A stored model in eval mode."""
    model = build(architecture, seed=0)
    load_state(model, store.read(key), what=f"store {key[:12]}", architecture=architecture)
    return model.eval()


def _memory_ran_out(error: Exception) -> bool:
    """On CUDA torch has an error of its own for it; on the CPU it has a sentence only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


class _Work:
    """One batch in the making: its models, until all that need them are done."""

    def __init__(self, bench: Bench, device: str) -> None:
        self.bench, self.device = bench, device
        self.made: dict[str, Classifier | UsageError] = {}
        self.seconds: dict[str, float] = {}

    def train(self, jobs: Sequence[TrainJob]) -> None:
        """Models of one recipe and length as one stack, where that is faster."""
        missing = {self.bench.key(job): job for job in jobs}
        stacks: dict[Any, list[str]] = {}
        for key, job in missing.items():
            stacks.setdefault((job.recipe, job.rows.size), []).append(key)
        for (recipe, _), keys in stacks.items():
            start = time.perf_counter()
            trained: list[nn.Module | UsageError]
            if stack_size(recipe, self.device) > 1:
                trained = self._fit_stack(recipe, [missing[key] for key in keys])
            else:
                trained = [self._fit(missing[key]) for key in keys]
            seconds = (time.perf_counter() - start) / len(keys)
            for key, model in zip(keys, trained, strict=True):
                self.made[key] = _as_built(missing[key], model) if isinstance(model, nn.Module) else model
                self.seconds[key] = seconds

    def _fit_stack(self, recipe: Recipe, jobs: Sequence[TrainJob]) -> list[nn.Module | UsageError]:
        rows, seeds = [job.rows for job in jobs], [job.seed for job in jobs]
        try:
            return fit_stack(recipe, self.bench.sets.train, rows, seeds, device=self.device)
        except UsageError as error:  # what no model can be trained on
            return [error] * len(jobs)

    def _fit(self, job: TrainJob) -> nn.Module | UsageError:
        try:
            return fit(job.recipe, self.bench.sets.train.take(job.rows), seed=job.seed, device=self.device)
        except UsageError as error:
            return error

    def finish(self, job: Job) -> None:
        """Bring the job's result into the store."""
        if isinstance(job, ObserveJob):
            start = time.perf_counter()
            models = [self.model(stage, keep=job.keep_weights) for stage in job.stages]
            data = save(self._observe(job, models))
            self._write(job, data, time.perf_counter() - start)
        elif isinstance(job, ProbeJob):
            start = time.perf_counter()
            data = save(self._read(job, self.model(job.model, keep=True)))
            self._write(job, data, time.perf_counter() - start)
        else:
            assert isinstance(job, ModelJob)
            self.model(job, keep=True)

    def model(self, job: ModelJob, *, keep: bool) -> Classifier:
        """The model of a job: made in this batch, from the store, or unlearned now."""
        key = self.bench.key(job)
        if key not in self.made:
            if not isinstance(job, UnlearnJob) or key in self.bench.store:
                return self.bench.read(job)
            start_model = self.model(job.start, keep=keep)
            start = time.perf_counter()
            self.made[key] = _as_built(job, self._unlearn(job, start_model))
            self.seconds[key] = time.perf_counter() - start
        model = self.made[key]
        if isinstance(model, UsageError):
            raise model
        if keep and key not in self.bench.store:
            self._write(job, pack(model.state_dict(), job.recipe.architecture), self.seconds[key])
        return model

    def _unlearn(self, job: UnlearnJob, start: Classifier) -> nn.Module:
        train, test = self.bench.sets.train, self.bench.sets.test
        splits = Splits(train.take(job.forget), train.take(job.retain), test, job.forget_class)
        home = device_of(self.device)
        fresh: Classifier | None = None  # weights that somebody handed in have no known beginning
        if isinstance(job.start, TrainJob):
            fresh = initial(job.start.recipe, train.take(job.start.rows), seed=job.start.seed).to(home)
        try:
            done = unlearn(
                start.to(home),
                splits,
                job.method,
                seed=job.seed,
                recipe=job.recipe,
                unseen=None if job.unseen is None else test.take(job.unseen),
                pretrained=fresh,
            )
        finally:
            start.cpu()
        return done.model.cpu()

    def _observe(self, job: ObserveJob, models: Sequence[Classifier]) -> dict[str, NDArray[np.float32]]:
        examples = self.bench.points(job.points)
        shown: Iterable[nn.Module] = models
        if job.treatments:
            shown = (treated(model, name) for model in models for name in job.treatments)  # one copy at a time
        seen = [observe(model, examples, flips=job.flips, device=self.device) for model in shown]
        arrays = {"margins": np.stack([one.margins.astype(np.float32) for one in seen])}
        if job.logits:
            arrays["logits"] = np.stack([one.outputs() for one in seen])
        return arrays

    def _read(self, job: ProbeJob, model: Classifier) -> dict[str, NDArray[np.float64]]:
        train, test = self.bench.sets.train, self.bench.sets.test
        splits = Splits(
            train.take(job.forget),
            train.take(job.retain),
            test.take(job.held_out),
            job.forget_class,
            test.take(job.twins) if job.twins.size else None,
        )
        try:
            reading = job.probe.read(model.to(device_of(self.device)), splits, seed=job.seed)
        finally:
            model.cpu()
        arrays = {"value": np.array([reading.value]), "at": reading.at, "curve": reading.curve}
        # safetensors writes memory as it lies: a column of a table would come back as something else
        return {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}

    def _write(self, job: Job, data: bytes, seconds: float) -> None:
        description = self.bench.describe(job)
        record = {"kind": job.kind, "name": job.name, "seconds": seconds, "description": canonical(description)}
        self.bench.store.write(self.bench.key(job), data, record)


def _as_built(job: ModelJob, model: nn.Module) -> Classifier | UsageError:
    """The result in the recipe's architecture. A trainer may return the plain network, as in a file of weights."""
    kept = build(job.recipe.architecture, seed=0)
    what = f"{job.name}: what the trainer returned"
    try:
        load_state(kept, model.state_dict(), what=what, architecture=job.recipe.architecture)
    except UsageError as error:
        return error
    return kept.eval()


def _classes(thing: Method | Probe) -> list[type]:
    """The classes whose code a method or probe is: its own, its bases', and those of methods it holds."""
    own = [cls for cls in type(thing).__mro__ if issubclass(cls, Method | Probe)]
    held = [value for value in vars(thing).values() if isinstance(value, Method)]
    return [*own, *(cls for inner in held for cls in _classes(inner))]


def _digest(rows: Rows) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes()).hexdigest()


__all__ = [
    "Bench",
    "GivenModel",
    "Job",
    "Made",
    "ModelJob",
    "ObserveJob",
    "Points",
    "ProbeJob",
    "Sets",
    "TrainJob",
    "UnlearnJob",
    "read_model",
]
