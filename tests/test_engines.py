"""Engines: how many places there are, and how the data get to the workers without being copied."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from fleet_samples import observe_job, sets, train_jobs

from unlearnkit import engines
from unlearnkit.data import Mapped, load
from unlearnkit.engines import InProcess, Processes, _Packed, engine_for
from unlearnkit.jobs import Bench, Sets
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.types import Examples


@pytest.fixture
def bench(blobs: MakeBlobs, tmp_path: Path) -> Bench:
    return Bench(sets(blobs), Store(tmp_path / "store"), "cpu")


@pytest.fixture
def mapped(tmp_path: Path) -> Bench:
    """Images in a plain npz: 2 MB for training, 0.2 MB for testing."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for half, n in (("train", 2_000), ("test", 200)):
        parts[f"{half}_images"] = rng.integers(0, 256, (n, 16, 16, 4), dtype=np.uint8)
        parts[f"{half}_labels"] = np.arange(n) % 3
    np.savez(tmp_path / "data.npz", **parts)
    dataset = load(f"npz:{tmp_path / 'data.npz'}")
    return Bench(Sets(dataset.train, dataset.test), Store(tmp_path / "store"), "cpu")


def same(first: Examples, second: Examples) -> bool:
    labels = first.y is second.y is None or torch.equal(first.labels(), second.labels())
    return labels and torch.equal(first.x, second.x) and first.ids.tolist() == second.ids.tolist()


# -- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processes", "batches", "places"),
    [(1, 9, 1), (3, 9, 3), (8, 2, 2), (8, 1, 1), (None, 9, 4), (None, 3, 3)],
)
def test_there_are_no_more_places_than_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, processes: int | None, batches: int, places: int
):
    monkeypatch.setattr(engines.joblib, "cpu_count", lambda: 4)
    engine = engine_for(bench, "local", processes, batches)
    assert engine.places == ("cpu",) * places
    assert isinstance(engine, InProcess if places == 1 else Processes)
    engine.close()


def test_on_cuda_there_is_one_place_per_device(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """More processes on one GPU are slower in sum, however many are asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, device, places in (
        (1, "cuda", ("cuda",)),
        (2, "cuda", ("cuda:0", "cuda:1")),
        (2, "cuda:1", ("cuda:1",)),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        engine = engine_for(replace(bench, device=device), "local", 8, 9)
        assert engine.places == places
        engine.close()


def test_unknown_engines_and_devices_are_named(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="engine: must be one of local, ray, got 'rai'; did you mean 'ray'"):
        engine_for(bench, "rai", 1, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda' was asked for, but this machine offers 0"):
        engine_for(replace(bench, device="cuda"), "local", 1, 1)


def test_a_missing_ray_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"engine 'ray': Ray is not installed; install unlearnkit\[ray\]"):
        engine_for(bench, "ray", 1, 1)


def test_in_process_what_fails_is_no_crash(bench: Bench):
    engine = engine_for(bench, "local", 1, 1)
    future = engine.submit([train_jobs(1)[0]], "cpu")
    assert future.done()
    assert [one.fault for one in future.result()] == [None]
    assert not engine.crashed(BrokenExecutor())
    assert not engine.fall_together


# -- how the data travel -------------------------------------------------------------------------------------------


def test_mapped_data_travel_as_the_name_of_their_file(mapped: Bench, tmp_path: Path):
    (tmp_path / "spill").mkdir()
    packed = _Packed.of(mapped, tmp_path / "spill")
    for array in (packed.arrays[0], packed.arrays[3]):
        assert isinstance(array, Mapped)
        assert array.path == str(tmp_path / "data.npz")
    assert not list((tmp_path / "spill").iterdir())  # labels and ids are small
    sent = pickle.dumps(packed)
    assert len(sent) < 300_000 < mapped.sets.train.x.numel()
    opened = pickle.loads(sent).open()
    for part, other in ((opened.sets.train, mapped.sets.train), (opened.sets.test, mapped.sets.test)):
        assert same(part, other)
    assert opened.key(observe_job(train_jobs(1)[0])) == mapped.key(observe_job(train_jobs(1)[0]))


def test_other_large_data_are_spilled_and_the_folder_goes_with_the_engine(blobs: MakeBlobs, tmp_path: Path):
    n = 2_500
    large = Examples(torch.rand(n, 3, 8, 8).permute(0, 2, 3, 1), None, np.array([f"{i:0120d}" for i in range(n)]))
    bench = Bench(Sets(large, blobs(30)), Store(tmp_path / "store"), "cpu")
    engine = engine_for(bench, "local", 2, 2)
    assert isinstance(engine, Processes)
    folder = Path(engine._folder.name)
    x, y, ids, *test = engine._packed.arrays
    assert y is None
    for array in (x, ids):
        assert isinstance(array, Mapped)
        assert Path(array.path).parent == folder
    assert all(isinstance(array, np.ndarray) for array in test)
    sent = pickle.dumps(engine._packed)
    # Of the data only the names of files travel; the search path beside them grows with what ran before.
    assert len(pickle.dumps(engine._packed.arrays)) < 10_000
    opened = pickle.loads(sent).open()
    assert same(opened.sets.train, large)
    assert same(opened.sets.test, bench.sets.test)
    assert sum(file.stat().st_size for file in folder.iterdir()) == large.x.numel() * 4 + large.ids.nbytes
    engine.close()
    assert not folder.exists()


def test_to_other_machines_the_data_travel_whole(mapped: Bench):
    packed = pickle.loads(pickle.dumps(_Packed.of(mapped, None)))
    assert all(isinstance(array, np.ndarray) for array in packed.arrays)
    assert same(packed.open().sets.train, mapped.sets.train)


def test_fingerprints_are_computed_once_where_the_fleet_was_started(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    packed = _Packed.of(bench, tmp_path)
    monkeypatch.setattr("unlearnkit.types._HASH_CHUNK", None)  # hashing would fail
    assert packed.open().sets.train.fingerprint == bench.sets.train.fingerprint


def test_a_worker_opens_each_fleets_data_once_and_holds_one_at_a_time(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "_OPENED", {})
    first, second = _Packed.of(bench, tmp_path), _Packed.of(bench, tmp_path)
    [job] = train_jobs(1)
    assert [one.fault for one in engines._work(first, [job], "cpu")] == [None]
    held = engines._OPENED[first.token]
    engines._work(first, [job], "cpu")
    assert engines._OPENED[first.token] is held
    engines._work(second, [job], "cpu")
    assert list(engines._OPENED) == [second.token]
