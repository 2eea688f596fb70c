"""The fleet: one key, one model, bit for bit, whatever the number of processes and however often it was killed."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import MakeBlobs, WriteModule
from joblib.externals.loky import get_reusable_executor
from torch import nn

from unlearnkit import fleet
from unlearnkit.fleet import Job, TrainJob, UnlearnJob, read_model, run_jobs
from unlearnkit.methods import FineTune
from unlearnkit.models import Architecture
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Access, Examples, Method, Need

ROOT = Path(__file__).parents[1]
RECIPE = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=2, batch_size=16)
ROWS = np.arange(60)


@pytest.fixture
def workers() -> Iterator[None]:
    """Fresh worker processes, which know this test's working directory, and none left behind."""
    get_reusable_executor().shutdown(wait=True)
    yield
    get_reusable_executor().shutdown(wait=True)


def train_jobs(count: int, recipe: Recipe = RECIPE) -> list[Job]:
    return [TrainJob(f"model {seed}", recipe, seed, ROWS[seed:]) for seed in range(count)]


def unlearn_job(blobs: MakeBlobs, start: str, **changes: Any) -> UnlearnJob:
    job = UnlearnJob(
        "unlearned",
        RECIPE,
        3,
        start,
        FineTune(epochs=1, batch_size=16),
        ROWS[:10],
        ROWS[10:],
        blobs(9, 1, 3, "t"),
        None,
    )
    return replace(job, **changes)


def stored(store: Store, keys: list[str]) -> list[bytes]:
    return [store.path(key).read_bytes() for key in keys]


class Told:
    """What `on_done` was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, job: Job, was_there: bool) -> None:
        self.calls.append((job.name, was_there))


@pytest.mark.usefixtures("workers")
def test_processes_change_no_key_and_no_bit(blobs: MakeBlobs, tmp_path: Path):
    data, first, told = blobs(60), Store(tmp_path / "1"), Told()
    keys = run_jobs(train_jobs(4), data, first, processes=1)
    second = Store(tmp_path / "2")
    assert run_jobs(train_jobs(4), data, second, processes=2, on_done=told) == keys
    assert stored(first, keys) == stored(second, keys)
    assert len(set(stored(first, keys))) == 4
    assert sorted(told.calls) == [(f"model {seed}", False) for seed in range(4)]
    jobs: list[Job] = [unlearn_job(blobs, keys[0]), unlearn_job(blobs, keys[0], seed=4)]
    unlearned = run_jobs(jobs, data, first, processes=1)
    assert run_jobs(jobs, data, second, processes=2) == unlearned
    assert stored(first, unlearned) == stored(second, unlearned)
    assert first.record(keys[1])["name"] == "model 1"
    assert first.record(keys[1])["seconds"] > 0

    # what a worker cannot do surfaces here, in its own sentence, and what was finished is kept
    failing = [*train_jobs(1), unlearn_job(blobs, "00" * 32), TrainJob("empty", RECIPE, 0, ROWS[:0])]
    third = Store(tmp_path / "3")
    with pytest.raises(UsageError, match=r"nothing is kept under 000000000000|there are no examples to train on"):
        run_jobs(failing, data, third, processes=2)
    told = Told()
    run_jobs(train_jobs(2), data, third, processes=2, on_done=told)
    assert len(told.calls) == 2
    assert stored(third, keys[:2]) == stored(first, keys[:2])


def test_a_model_is_what_fit_makes_of_its_rows(blobs: MakeBlobs, tmp_path: Path):
    store = Store(tmp_path)
    [key] = run_jobs([TrainJob("", RECIPE, 5, ROWS[7:31])], blobs(60), store, processes=1)
    made = read_model(store, key, RECIPE)
    twin = fit(RECIPE, blobs(60).take(ROWS[7:31]), seed=5)
    assert not made.training
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in made.state_dict().items())


def test_what_is_there_is_not_made_again_unless_asked(
    blobs: MakeBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, data, made = Store(tmp_path), blobs(60), []
    true = fleet._make

    def spy(job: Job, *rest: Any) -> str:
        made.append(job.name)
        return true(job, *rest)

    monkeypatch.setattr(fleet, "_make", spy)
    keys = run_jobs(train_jobs(2), data, store, processes=1)
    before = stored(store, keys)
    told = Told()
    assert run_jobs(train_jobs(3), data, store, processes=1, on_done=told)[:2] == keys
    assert told.calls == [("model 0", True), ("model 1", True), ("model 2", False)]
    assert made == ["model 0", "model 1", "model 2"]
    assert run_jobs(train_jobs(2), data, store, processes=1, fresh=True) == keys
    assert made[3:] == ["model 0", "model 1"]
    assert stored(store, keys) == before
    assert run_jobs([], data, store) == []


def test_equal_jobs_are_made_once_and_all_are_told(blobs: MakeBlobs, tmp_path: Path):
    told = Told()
    [job] = train_jobs(1)
    jobs = [job, replace(job, name="again"), replace(job, rows=ROWS.astype(np.int64).copy())]
    keys = run_jobs(jobs, blobs(60), Store(tmp_path), processes=1, on_done=told)
    assert len(set(keys)) == 1
    assert told.calls == [("model 0", False), ("again", True), ("model 0", True)]
    assert len(list((tmp_path / "models").rglob("*.safetensors"))) == 1


def test_everything_that_decides_a_training_is_in_its_key(blobs: MakeBlobs, monkeypatch: pytest.MonkeyPatch):
    job = TrainJob("a", RECIPE, 0, ROWS)
    data = blobs(60)
    x = data.x.clone()
    x[59, 0, 7, 7] += 1
    key = job.key(data.fingerprint, "cpu")
    assert replace(job, name="b").key(data.fingerprint, "cpu") == key
    assert replace(job, rows=ROWS.astype(">i8").astype(np.int64)).key(data.fingerprint, "cpu") == key
    keys = [key, job.key(Examples(x, data.y, data.ids).fingerprint, "cpu"), job.key(data.fingerprint, "cuda")]
    assert job.key(data.fingerprint, "cuda:1") == keys[-1]
    others = (
        replace(job, seed=1),
        replace(job, rows=ROWS[:-1]),
        replace(job, rows=ROWS[::-1].copy()),
        *(
            replace(job, recipe=replace(RECIPE, **{name: value}))
            for name, value in {
                "architecture": Architecture("small-cnn", 3, (1, 8, 8)),
                "epochs": 3,
                "batch_size": 17,
                "optimizer": "adamw",
                "lr": 0.06,
                "momentum": 0.8,
                "weight_decay": 0.0,
                "schedule": "cosine",
                "augment": "flip",
                "label_smoothing": 0.1,
            }.items()
        ),
    )
    keys += [other.key(data.fingerprint, "cpu") for other in others]
    monkeypatch.setattr(torch, "__version__", "99.0")
    keys.append(job.key(data.fingerprint, "cpu"))
    assert len(set(keys)) == len(keys)


def test_a_users_code_is_in_the_key(write_module: WriteModule, tmp_path: Path):
    module = write_module("their_trainer", "def fit(recipe, examples, *, seed):\n    return None\n")
    job = TrainJob("a", replace(RECIPE, trainer=f"{module}:fit"), 0, ROWS)
    before = job.key("data", "cpu")
    (tmp_path / f"{module}.py").write_text("def fit(recipe, examples, *, seed):\n    return 0\n")
    assert job.key("data", "cpu") != before
    assert TrainJob("a", RECIPE, 0, ROWS).key("data", "cpu") != before


@dataclass(frozen=True)
class Renamed(FineTune):
    """The same fields under another name."""


def test_everything_that_decides_an_unlearning_is_in_its_key(blobs: MakeBlobs):
    job = unlearn_job(blobs, "ab" * 32)
    others = [
        replace(job, seed=4),
        replace(job, start="cd" * 32),
        replace(job, method=FineTune(epochs=1, batch_size=16, lr=0.02)),
        replace(job, method=Renamed(epochs=1, batch_size=16)),
        replace(job, forget=ROWS[:9]),
        replace(job, retain=ROWS[11:]),
        replace(job, forget_class=1),
        replace(job, recipe=replace(RECIPE, epochs=3)),
    ]
    keys = [one.key("data", "cpu") for one in [job, *others]] + [job.key("other data", "cpu")]
    assert len(set(keys)) == len(keys)
    assert replace(job, name="b").key("data", "cpu") == keys[0]
    assert unlearn_job(blobs, "ab" * 32).key("data", "cpu") == keys[0]


def test_every_file_that_decides_an_unlearning_is_in_its_key():
    names = {path.name for path in fleet._sources(FineTune)}
    assert {"finetune.py", "steps.py", "unlearning.py", "types.py"} <= names
    assert "test_fleet.py" in {path.name for path in fleet._sources(Renamed)}


@dataclass(frozen=True)
class Looks(Method):
    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN | Need.RECIPE | Need.CLASS_WISE

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        assert access.forget.ids.tolist() == ["train/1", "train/4"]
        assert access.retain.ids.tolist() == ["train/0", "train/2"]
        assert access.recipe == RECIPE
        assert access.forget_class == 1
        assert isinstance(model.head, nn.Linear)
        return model


def test_an_unlearning_sees_its_rows_and_its_start(blobs: MakeBlobs, tmp_path: Path):
    store, data = Store(tmp_path), blobs(60)
    [start] = run_jobs(train_jobs(1), data, store, processes=1)
    job = unlearn_job(blobs, start, method=Looks(), forget=np.array([1, 4]), retain=np.array([0, 2]), forget_class=1)
    [key] = run_jobs([job], data, store, processes=1)
    assert store.path(key).read_bytes() == store.path(start).read_bytes()


def test_a_trainer_of_another_network_is_refused_and_nothing_is_kept(
    blobs: MakeBlobs, tmp_path: Path, write_module: WriteModule
):
    module = write_module(
        "other_trainer",
        """
        from unlearnkit.models import Architecture, build
        def fit(recipe, examples, *, seed):
            return build(Architecture("small-cnn", 3, (1, 8, 8)), seed=seed)
        """,
    )
    job = TrainJob("odd one", replace(RECIPE, trainer=f"{module}:fit"), 0, ROWS)
    store = Store(tmp_path / "store")
    with pytest.raises(UsageError, match="odd one: what the trainer returned: the weights do not fit 'mlp': keys"):
        run_jobs([job], blobs(60), store, processes=1)
    assert not store.root.exists()


def test_a_trainer_may_return_the_plain_network(blobs: MakeBlobs, tmp_path: Path, write_module: WriteModule):
    module = write_module(
        "plain_trainer",
        """
        import torch
        def net():
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        def fit(recipe, examples, *, seed):
            return net()
        """,
    )
    recipe = replace(RECIPE, architecture=Architecture(f"{module}:net", 3, (1, 8, 8)), trainer=f"{module}:fit")
    store = Store(tmp_path / "store")
    [key] = run_jobs([TrainJob("plain", recipe, 0, ROWS)], blobs(60), store, processes=1)
    assert set(read_model(store, key, recipe).state_dict()) >= {"normalize.mean", "head.weight"}


def test_a_device_that_is_not_there_is_said_before_anything_is_made(
    blobs: MakeBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda' was asked for, but this machine offers 0"):
        run_jobs(train_jobs(1), blobs(60), Store(tmp_path), device="cuda")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_start_says_what_to_do(blobs: MakeBlobs, tmp_path: Path):
    store, data = Store(tmp_path), blobs(60)
    [key] = run_jobs(train_jobs(1), data, store, processes=1)
    store.path(key).write_bytes(store.path(key).read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"is damaged .* delete it and run again"):
        run_jobs([unlearn_job(blobs, key)], data, store, processes=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_unlearning_runs_there_and_repeats(blobs: MakeBlobs, tmp_path: Path):
    made = []
    for folder in ("1", "2"):
        store = Store(tmp_path / folder)
        [start] = run_jobs(train_jobs(1), blobs(60), store, device="cuda")
        keys = run_jobs([unlearn_job(blobs, start)], blobs(60), store, device="cuda")
        made.append(stored(store, [start, *keys]))
    assert made[0] == made[1]


RUNNER = """
import sys
from pathlib import Path
import numpy as np
import torch
from unlearnkit.fleet import TrainJob, run_jobs
from unlearnkit.models import Architecture
from unlearnkit.store import Store
from unlearnkit.train import Recipe
from unlearnkit.types import Examples

def work():
    x = torch.randint(0, 256, (400, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    data = Examples(x, torch.arange(400) % 3, np.array([f"train/{row}" for row in range(400)]))
    recipe = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=40, batch_size=32, lr=0.01)
    return [TrainJob(f"model {seed}", recipe, seed, np.arange(seed, 400)) for seed in range(8)], data

def tell(job, was_there):
    print("there" if was_there else "made", job.name, flush=True)

if __name__ == "__main__":
    jobs, data = work()
    run_jobs(jobs, data, Store(Path(sys.argv[1])), processes=2, on_done=tell)
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


def finished(store: Store) -> set[str]:
    return {store.record(path.stem)["name"] for path in store.root.rglob("[!.]*.safetensors")}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_killed_and_interrupted_fleets_go_on_where_they_were(
    tmp_path: Path, write_module: WriteModule, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    runner = tmp_path / f"{write_module('runner', RUNNER)}.py"
    store = Store(tmp_path / "store")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JOBLIB_TEMP_FOLDER": str(tmp_path)}
    before: set[str] = set()
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
            told: dict[str, set[str]] = {"there": set(), "made": set()}
            for line in process.stdout:
                kind, _, name = line.strip().partition(" ")
                told[kind].add(name)
                if len(told["made"]) == 2:
                    time.sleep(0.05)  # into the next trainings
                    os.killpg(process.pid, stop)
                    break
            assert process.wait(timeout=20) != 0
        assert gone(process.pid, 10)  # no worker outlives its fleet
        for semaphore in Path("/dev/shm").glob(f"sem.loky-{process.pid}-*"):
            semaphore.unlink()
        assert told["there"] == before  # what was finished is not made again
        assert before | told["made"] <= finished(store)
        before = finished(store)
        assert len(before) < 8

    jobs, data = importlib.import_module("runner").work()
    last = Told()
    keys = run_jobs(jobs, data, store, processes=1, on_done=last)
    assert {name for name, was_there in last.calls if was_there} == before
    undisturbed = Store(tmp_path / "undisturbed")
    assert run_jobs(jobs, data, undisturbed, processes=1) == keys
    assert stored(undisturbed, keys) == stored(store, keys)
