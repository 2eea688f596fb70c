"""The fleet: one key, one result, bit for bit, whatever the number of processes, the failures and the kills."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs, WriteModule
from fleet_samples import (
    ALONE,
    BREAKS,
    DIES,
    DIVERGES,
    POINTS,
    ROWS,
    STACKED,
    TRAINER,
    Keeps,
    Told,
    kinds,
    observe_job,
    sets,
    stored,
    train_jobs,
    unlearn_job,
)
from joblib.externals.loky import get_reusable_executor
from safetensors.numpy import save

from unlearnkit import jobs, stacked
from unlearnkit.fleet import Fleet, Observations
from unlearnkit.jobs import GivenModel, Job, Made, Points, TrainJob
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.train import fit

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No worker processes of an earlier test, and none left behind."""
    get_reusable_executor().shutdown(wait=True)
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def fleet(blobs: MakeBlobs, tmp_path: Path) -> Fleet:
    return Fleet(sets(blobs), Store(tmp_path / "store"), processes=1, watch=Told())


def told(fleet: Fleet) -> Told:
    assert isinstance(fleet.watch, Told)
    return fleet.watch


def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the jobs of every batch that is made from now on."""
    seen: list[list[str]] = []
    true = jobs.Bench.make

    def spy(bench: Any, some: Sequence[Job], device: str) -> list[Made]:
        seen.append([job.name for job in some])
        return true(bench, some, device)

    monkeypatch.setattr(jobs.Bench, "make", spy)
    return seen


def flat(parts: Iterable[list[str]]) -> list[str]:
    return sorted(itertools.chain.from_iterable(parts))


# -- the same results everywhere -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("workers")
def test_processes_change_no_key_and_no_bit(blobs: MakeBlobs, tmp_path: Path):
    start = train_jobs(1)[0]
    some: list[Job] = [
        *train_jobs(5),
        *train_jobs(2, ALONE),
        *train_jobs(2, TRAINER),
        unlearn_job(start),
        *(observe_job(unlearn_job(job), keep_weights=False) for job in train_jobs(3, first=5)),
    ]
    made = {}
    for processes in (1, 2):
        fleet = Fleet(sets(blobs), Store(tmp_path / str(processes)), processes=processes, watch=Told())
        keys = fleet.run(some)
        made[processes] = keys, stored(fleet.store, keys)
        assert told(fleet).all[-1].done == told(fleet).all[-1].total == len(some)
        assert told(fleet).names == {job.name for job in some}
        assert max(len(progress.running) for progress in told(fleet).all) >= processes
        assert kinds(fleet.store) == {"train": 9, "unlearn": 1, "observe": 3}
    assert made[1] == made[2]
    assert len(set(made[1][1])) == len(some)


def test_what_is_there_is_not_made_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    keys = fleet.run(train_jobs(2))
    seen = batches(monkeypatch)
    assert fleet.run(train_jobs(3))[:2] == keys
    assert seen == [["model 2"]]
    assert (told(fleet).all[-1].total, told(fleet).all[-1].kept, told(fleet).made) == (3, 2, 1)
    assert fleet.run(train_jobs(3))[:2] == keys
    assert fleet.run([]) == []
    assert len(seen) == 1


def test_fresh_makes_everything_anew_once(blobs: MakeBlobs, fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    start, other = train_jobs(2)
    some: list[Job] = [unlearn_job(start), observe_job(unlearn_job(start)), other]
    keys = fleet.run(some)
    before = stored(fleet.store, keys)
    seen = batches(monkeypatch)
    anew = Fleet(fleet.bench.sets, fleet.store, processes=1, fresh=True)
    assert anew.run(some[:2]) == keys[:2]
    assert flat(seen) == ["look at unlearn model 0", "model 0", "unlearn model 0"]
    assert stored(fleet.store, keys) == before
    assert anew.run(some) == keys  # the third is remade, the others have been
    assert seen[-1] == ["model 1"]
    assert anew.run(some) == keys
    assert len(flat(seen)) == 4


def test_equal_jobs_are_made_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    seen = batches(monkeypatch)
    [job] = train_jobs(1)
    keys = fleet.run([job, replace(job, name="again"), replace(job, rows=job.rows.copy())])
    assert len(set(keys)) == 1
    assert len(flat(seen)) == 1
    assert kinds(fleet.store) == {"train": 1}
    assert told(fleet).all[-1].total == 1


def test_a_store_may_be_a_url(blobs: MakeBlobs, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    some = [observe_job(unlearn_job(job)) for job in train_jobs(2)]
    far = Fleet(fleet.bench.sets, Store(f"memory://{tmp_path.name}"), processes=1, watch=Told())
    keys = far.run(some)
    assert keys == fleet.run(some)
    assert stored(far.store, keys) == stored(fleet.store, keys)
    assert far.run(some) == keys
    assert told(far).made == 0
    np.testing.assert_array_equal(Observations(far.store, keys).margins(), Observations(fleet.store, keys).margins())


# -- what jobs rest on ---------------------------------------------------------------------------------------------


def test_what_a_job_rests_on_is_made_on_the_way(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    seen = batches(monkeypatch)
    start = train_jobs(1)[0]
    job = observe_job(start, unlearn_job(start))
    [key] = fleet.run([job])
    assert seen == [[job.name]]  # model and observation in one go
    assert kinds(fleet.store) == {"train": 1, "unlearn": 1, "observe": 1}
    margins = Observations(fleet.store, [key]).margins()[0]
    for stage, model in enumerate(job.stages):
        seen_now = observe(fleet.read(model), fleet.bench.points(POINTS)).margins
        np.testing.assert_array_equal(margins[stage], seen_now.astype(np.float32))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_shared_start_is_made_once_and_first(
    fleet: Fleet, blobs: MakeBlobs, monkeypatch: pytest.MonkeyPatch, processes: int
):
    engine = importlib.import_module("unlearnkit.engines").InProcess
    monkeypatch.setattr("unlearnkit.engines.Processes", lambda bench, places: engine(bench, places[0]))
    fleet._processes = processes
    seen = batches(monkeypatch)
    start = train_jobs(1)[0]
    some = [observe_job(unlearn_job(start, seed=seed, name=f"unlearn {seed}")) for seed in range(3)]
    fleet.run(some)
    assert seen[0] == ["model 0"]
    assert flat(seen[1:]) == [f"look at unlearn {seed}" for seed in range(3)]
    assert kinds(fleet.store) == {"train": 1, "unlearn": 3, "observe": 3}
    assert told(fleet).all[-1].total == 4


@pytest.mark.parametrize(
    "some",
    [
        lambda start: [observe_job(unlearn_job(start))],
        lambda start: [observe_job(start, unlearn_job(start))],
        lambda start: [observe_job(unlearn_job(start, seed=seed)) for seed in range(3)],
        lambda start: [observe_job(unlearn_job(start)), observe_job(unlearn_job(start), flips=True)],
        lambda start: [observe_job(start, unlearn_job(start)), observe_job(start, unlearn_job(start), flips=True)],
    ],
    ids=["alone", "two stages", "shared start", "shared end", "all shared"],
)
def test_weights_that_nobody_keeps_are_gone(fleet: Fleet, some: Any):
    asked = [replace(job, keep_weights=False) for job in some(train_jobs(1)[0])]
    fleet.run(asked)
    assert kinds(fleet.store) == {"observe": len(asked)}
    assert told(fleet).all[-1].done == told(fleet).all[-1].total


def test_weights_that_somebody_keeps_stay(fleet: Fleet):
    start, other = train_jobs(2)
    fleet.run([replace(observe_job(job), keep_weights=False) for job in (start, unlearn_job(start))] + [start])
    assert kinds(fleet.store) == {"observe": 2, "train": 1}
    fleet.run([replace(observe_job(start), keep_weights=False, flips=True)])  # what was there before stays too
    fleet.run([replace(observe_job(unlearn_job(other)), keep_weights=False), unlearn_job(other)])
    assert kinds(fleet.store) == {"observe": 4, "train": 2, "unlearn": 1}


def test_a_given_model_must_be_there(fleet: Fleet):
    given = GivenModel("their model", STACKED, "ab" * 32)
    missing = f"store {fleet.store.root}: nothing is kept under abababababab"
    with pytest.raises(UsageError, match=missing):
        fleet.run([given])
    with pytest.raises(UsageError, match=f"look at unlearn their model: {missing}"):
        fleet.run([observe_job(unlearn_job(given))])
    model = train_jobs(1)[0]
    fleet.run([model])
    known = GivenModel("their model", STACKED, fleet.key(model))
    made = fleet.run([unlearn_job(known, method=Keeps()), known])
    assert stored(fleet.store, made)[0] == stored(fleet.store, made)[1]
    Fleet(fleet.bench.sets, fleet.store, processes=1, fresh=True).run([unlearn_job(known), known])  # it stays


# -- batches -------------------------------------------------------------------------------------------------------


def test_stacks_are_shared_out_evenly(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stacked, "_STACKS", {("cpu", "mlp"): ((100, 4),)})

    def sizes(count: int, places: int) -> list[int]:
        tasks = {fleet.key(job): job for job in train_jobs(count)}
        split = fleet._batches(dict(tasks), places)
        assert flat(batch.keys for batch in split) == sorted(tasks)
        return sorted(len(batch.keys) for batch in split)

    assert sizes(9, 1) == [3, 3, 3]
    assert sizes(8, 2) == [4, 4]
    assert sizes(10, 2) == [2, 2, 3, 3]
    assert sizes(5, 2) == [2, 3]
    assert sizes(3, 4) == [3]
    assert sizes(1, 2) == [1]
    mixed = {fleet.key(job): job for job in [*train_jobs(2), TrainJob("short", STACKED, 0, ROWS[:20])]}
    assert sorted(len(batch.keys) for batch in fleet._batches(dict(mixed), 1)) == [1, 2]


def test_a_job_takes_the_same_path_alone_and_among_others(fleet: Fleet, blobs: MakeBlobs, tmp_path: Path):
    keys = fleet.run(train_jobs(7))
    alone = Fleet(fleet.bench.sets, Store(tmp_path / "alone"), processes=1)
    assert alone.run(train_jobs(7)[3:4]) == keys[3:4]
    assert stored(alone.store, keys[3:4]) == stored(fleet.store, keys[3:4])


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_job_that_fails_is_named_and_the_others_finish(fleet: Fleet):
    bad = train_jobs(1, TRAINER, first=DIVERGES)[0]
    worse = train_jobs(1, TRAINER, first=BREAKS)[0]
    some: list[Job] = [*train_jobs(2, TRAINER), bad, worse, observe_job(unlearn_job(bad)), *train_jobs(2)]
    made = fleet.attempt(some)
    assert [one.key for one in made] == [fleet.key(job) for job in some]
    assert [one.fault is None for one in made] == [True, True, False, False, False, True, True]
    assert "returned NaN or infinite weights" in (made[2].fault or "")
    assert "raised RuntimeError: no luck" in (made[3].fault or "")
    assert made[4].fault == f"rests on model {DIVERGES}: {made[2].fault}"
    assert fleet.store.holding(one.key for one in made) == {one.key for one in made if one.fault is None}
    last = told(fleet).all[-1]
    assert (last.total, last.done, last.failed, last.running) == (7, 7, 3, ())
    with pytest.raises(UsageError, match=r"^model 1000: .*NaN.* \(3 of 7 jobs failed; what the others made is kept\)$"):
        fleet.run(some)
    with pytest.raises(UsageError, match=r"model 1001: .*no luck \(.*\.py, line \d+\)$"):
        fleet.run([*train_jobs(2), worse])


def test_a_chain_that_rests_on_a_failure_is_told_to_the_end(fleet: Fleet):
    bad = train_jobs(1, TRAINER, first=BREAKS)[0]
    middle = unlearn_job(bad)
    made = fleet.attempt([observe_job(middle), observe_job(middle, flips=True), middle, bad])
    assert all(one.fault is not None for one in made)
    assert (made[2].fault or "").startswith(f"rests on {bad.name}: recipe.trainer")
    assert all("no luck" in (one.fault or "") for one in made)


def test_a_model_that_diverges_in_a_stack_fails_alone(blobs: MakeBlobs, tmp_path: Path):
    whole = sets(blobs)
    x = whole.train.x.float() / 255
    x[59] = torch.inf
    data = replace(whole, train=replace(whole.train, x=x), test=replace(whole.test, x=whole.test.x.float() / 255))
    fleet = Fleet(data, Store(tmp_path), processes=1)
    some = [TrainJob(f"model {i}", STACKED, i, rows) for i, rows in enumerate((ROWS[:50], ROWS[10:], ROWS[5:55]))]
    made = fleet.attempt(some)
    assert [one.fault is None for one in made] == [True, False, True]
    assert (made[1].fault or "").startswith("training, epoch 1: the loss became NaN or infinite at step 1")
    assert [entry.name for entry in fleet.store.entries()] in (["model 0", "model 2"], ["model 2", "model 0"])


@pytest.mark.usefixtures("workers")
def test_a_job_that_kills_its_worker_is_tried_alone_and_named(fleet: Fleet):
    fleet._processes = 2
    deadly = train_jobs(1, TRAINER, first=DIES)[0]
    rest: list[Job] = [
        *train_jobs(4, TRAINER),
        *(observe_job(job, keep_weights=False) for job in train_jobs(3)),
        unlearn_job(train_jobs(1, TRAINER)[0], method=Keeps()),
    ]
    made = fleet.attempt([rest[0], deadly, observe_job(deadly), *rest[1:]])
    assert made[1].fault == "its process died, twice; the system may have stopped it for want of memory"
    assert made[2].fault == f"rests on {deadly.name}: {made[1].fault}"
    assert [one.fault for one in (made[0], *made[3:])] == [None] * len(rest)
    assert told(fleet).all[-1].failed == 2
    assert told(fleet).all[-1].running == ()
    assert kinds(fleet.store) == {"train": 4, "observe": 3, "unlearn": 1}


def test_where_memory_runs_out_fewer_are_made_at_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    seen = batches(monkeypatch)
    true = jobs._Work.train

    def small(work: Any, some: Sequence[TrainJob]) -> None:
        if len(some) > 2:
            raise MemoryError
        true(work, some)

    monkeypatch.setattr(jobs._Work, "train", small)
    keys = fleet.run(train_jobs(7))
    assert len(seen[0]) == 7
    assert sorted(len(names) for names in seen) == [1, 1, 1, 1, 1, 1, 1, 3, 3, 7]
    assert fleet.store.holding(keys) == set(keys)
    assert told(fleet).all[-1].failed == 0
    assert told(fleet).all[-1].done == 7


def test_a_job_too_large_for_the_memory_is_named(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    def never(work: Any, some: Sequence[TrainJob]) -> None:
        if any(job.seed == 2 for job in some):
            raise MemoryError("4 TB")

    true = jobs._Work.train
    monkeypatch.setattr(jobs._Work, "train", lambda work, some: (never(work, some), true(work, some))[1])
    made = fleet.attempt(train_jobs(4))
    assert [one.fault for one in made] == [None, None, "out of memory (4 TB)", None]


def test_a_full_disk_surfaces_and_what_was_written_stays(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []
    true = Store.write

    def full(store: Store, key: str, data: bytes, record: dict[str, Any]) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        true(store, key, data, record)
        written.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", full)
        with pytest.raises(OSError, match="No space left on device"):
            fleet.run(train_jobs(5))
    keys = fleet.run(train_jobs(5))
    assert set(written) < set(keys)
    assert told(fleet).all[-1].kept == 2


def test_a_device_that_is_not_there_is_said_at_once(blobs: MakeBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda' was asked for, but this machine offers 0"):
        Fleet(sets(blobs), Store(tmp_path), device="cuda")
    with pytest.raises(UsageError, match="engine: must be one of local, ray, got 'loca'; did you mean 'local'"):
        Fleet(sets(blobs), Store(tmp_path), engine="loca")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_unlearning_runs_there_and_repeats(blobs: MakeBlobs, tmp_path: Path):
    made = []
    for folder in ("1", "2"):
        fleet = Fleet(sets(blobs), Store(tmp_path / folder), device="cuda")
        start = train_jobs(1)[0]
        made.append(stored(fleet.store, fleet.run([start, unlearn_job(start), observe_job(start)])))
    assert made[0] == made[1]


# -- observations --------------------------------------------------------------------------------------------------


def test_observations_are_what_the_models_say(fleet: Fleet):
    models = train_jobs(3)
    keys = fleet.run([observe_job(job, flips=True) for job in models])
    seen = Observations(fleet.store, keys)
    assert (len(seen), seen.shape) == (3, (3, 1, len(POINTS), 2))
    margins = seen.margins()
    assert (margins.shape, margins.dtype, type(margins)) == (seen.shape, np.float32, np.ndarray)
    points = fleet.bench.points(POINTS)
    for job, row in zip(models, margins, strict=True):
        model = fit(STACKED, fleet.bench.sets.train.take(job.rows), seed=job.seed)
        np.testing.assert_allclose(row[0], observe(model, points, flips=True).margins, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(row[0], observe(fleet.read(job), points, flips=True).margins.astype(np.float32))
    np.testing.assert_array_equal(seen.margins(slice(2, 5)), margins[:, :, 2:5])
    parts = list(seen.blocks(points=4))
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 4), (4, 8), (8, 12), (12, 14)]
    np.testing.assert_array_equal(np.concatenate([block for _, block in parts], axis=2), margins)


def test_observations_that_do_not_belong_together_are_refused(fleet: Fleet):
    [job] = train_jobs(1)
    fewer = observe_job(job, points=Points(POINTS.train, POINTS.test[:2]))
    first, second = fleet.run([observe_job(job), fewer])
    seen = Observations(fleet.store, [first, second])
    with pytest.raises(UsageError, match=r"seen at the same points, got \(1, 11, 1\) for .* and \(1, 14, 1\) for the"):
        seen.margins()
    with pytest.raises(UsageError, match="observations: name at least one observation"):
        Observations(fleet.store, [])
    with pytest.raises(UsageError, match="kept under cdcdcdcdcdcd"):
        Observations(fleet.store, ["cd" * 32])
    with pytest.raises(UsageError, match="is no observation; name the keys of ObserveJobs"):
        Observations(fleet.store, fleet.run([job]))


def test_many_observations_are_never_in_memory_as_a_whole(tmp_path: Path):
    """64 models at 20,000 points are 5 MB; a block of 1,000 points is a twentieth of it."""
    store, rng = Store(tmp_path), np.random.default_rng(0)
    keys = [f"{i:064x}" for i in range(64)]
    total = 0.0
    for key in keys:
        margins = rng.standard_normal((1, 20_000, 1)).astype(np.float32)
        total += float(margins.sum(dtype=np.float64))
        store.write(key, save({"margins": margins}), {"kind": "observe"})
    seen = Observations(store, keys)
    tracemalloc.start()
    try:
        found = sum(float(block.sum(dtype=np.float64)) for _, block in seen.blocks(points=1_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == pytest.approx(total)
    assert peak < 1_500_000


# -- kills ---------------------------------------------------------------------------------------------------------

RUNNER = """
import sys
import time
from pathlib import Path
import numpy as np
import torch
from unlearnkit.fleet import Fleet
from unlearnkit.jobs import ObserveJob, Points, Sets, TrainJob
from unlearnkit.models import Architecture, build
from unlearnkit.store import Store
from unlearnkit.train import Recipe
from unlearnkit.types import Examples

def train(recipe, examples, *, seed):
    time.sleep(0.2)
    return build(recipe.architecture, seed=seed)

def part(name, n):
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(n)).byte()
    return Examples(x, torch.arange(n) % 3, np.array([f"{name}/{row}" for row in range(n)]))

def work():
    recipe = Recipe(Architecture("mlp", 3, (1, 8, 8)), trainer="runner:train")
    models = [TrainJob(f"model {seed}", recipe, seed, np.arange(seed, 72)) for seed in range(8)]
    looks = [ObserveJob(f"look {job.seed}", (job,), Points(np.arange(9), np.arange(9)), logits=True) for job in models]
    return looks, Sets(part("train", 72), part("test", 12))

def tell(progress):
    print(progress.kept, progress.done, flush=True)

if __name__ == "__main__":
    jobs, sets = work()
    Fleet(sets, Store(Path(sys.argv[1])), processes=2, watch=tell).run(jobs)
"""


def gone(group: int, seconds: float) -> bool:
    """Whether every process of the group ends within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def finished(store: Store) -> dict[str, int]:
    """Name and time of every finished observation."""
    return {
        entry.name: store.path(entry.key).stat().st_mtime_ns for entry in store.entries() if entry.kind == "observe"
    }


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_killed_and_interrupted_fleets_go_on_where_they_were(
    tmp_path: Path, write_module: WriteModule, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    runner = tmp_path / f"{write_module('runner', RUNNER)}.py"
    store = Store(tmp_path / "store")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"JOBLIB_TEMP_FOLDER": str(tmp_path), "TMPDIR": str(tmp_path)}  # a killed fleet cannot tidy up
    before: dict[str, int] = {}
    for stop in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, str(runner), str(store.root)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None
            kept = -1
            for line in process.stdout:
                kept, done = map(int, line.split())
                if done - kept == 2:
                    time.sleep(0.05)  # into the next trainings
                    os.killpg(process.pid, stop)
                    break
            assert process.wait(timeout=20) != 0
        assert gone(process.pid, 10)  # no worker outlives its fleet
        for semaphore in Path("/dev/shm").glob(f"sem.loky-{process.pid}-*"):
            semaphore.unlink()
        assert kept == len(before)  # what was finished is not made again
        now = finished(store)
        assert len(now) >= len(before) + 2
        assert {name: now[name] for name in before} == before
        before = now
        assert len(before) < 8

    some, data = importlib.import_module("runner").work()
    last = Fleet(data, store, processes=1, watch=Told())
    keys = last.run(some)
    assert told(last).all[-1].kept == len(before)
    undisturbed = Fleet(data, Store(tmp_path / "undisturbed"), processes=1)
    assert undisturbed.run(some) == keys
    assert stored(undisturbed.store, keys) == stored(store, keys)
    models = [undisturbed.key(job.stages[0]) for job in some]
    assert stored(undisturbed.store, models) == stored(store, models)
