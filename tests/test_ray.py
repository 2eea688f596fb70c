"""The engine for many machines, on two simulated nodes: the bits of one machine, and a death is reported by name."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unlearnkit.engines import engine_for
from unlearnkit.jobs import Bench, Sets
from unlearnkit.result import UsageError
from unlearnkit.store import Store

ROOT = Path(__file__).parents[1]

KILLER = """
import os
import signal
from unlearnkit.train import fit as ours

def fit(recipe, examples, *, seed):
    if seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return ours(recipe, examples, seed=seed)
"""

# Ray starts daemons and sets signal handlers: it gets a process of its own.
SCRIPT = """
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

import unlearnkit as uk
from unlearnkit.fleet import Fleet
from unlearnkit.jobs import ObserveJob, Points, Sets, TrainJob
from unlearnkit.store import Store

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
try:
    data = uk.load("digits")
    sets = Sets(data.train, data.test)
    rows = np.arange(300)
    jobs = []
    for name in ("mlp", "resnet9"):
        recipe = uk.Recipe(uk.Architecture(name, 10, (1, 8, 8)), epochs=1, batch_size=100)
        jobs += [TrainJob(f"{name} {seed}", recipe, seed, rows[seed:]) for seed in range(2)]
    jobs.append(ObserveJob("look", (jobs[0],), Points(rows, rows[:20])))
    far, near = Store(Path("far")), Store(Path("near"))
    keys = Fleet(sets, far, engine="ray").run(jobs)
    told = {
        "nodes": len(ray.nodes()),
        "keys": keys == Fleet(sets, near, processes=1).run(jobs),
        "bytes": all(far.path(key).read_bytes() == near.path(key).read_bytes() for key in keys),
    }
    deadly = replace(jobs[0].recipe, trainer="killer:fit")
    made = Fleet(sets, far, engine="ray").attempt([TrainJob(f"m{s}", deadly, s, rows) for s in range(4)])
    told["faults"] = [one.fault for one in made]
finally:
    ray.shutdown()
    cluster.shutdown()
Path("told.json").write_text(json.dumps(told))
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")
def test_two_nodes_make_the_same_bits_and_outlive_a_death(tmp_path: Path):
    (tmp_path / "killer.py").write_text(KILLER)
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    assert told["nodes"] == 2
    assert told["keys"]
    assert told["bytes"]
    faults = told["faults"]
    assert [fault is None for fault in faults] == [True, True, False, True]
    assert faults[2].startswith("its process died, twice")


def test_without_ray_it_says_what_to_install(blobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    bench = Bench(Sets(blobs(6), blobs(6, prefix="test")), Store(tmp_path), "cpu")
    with pytest.raises(UsageError, match=r"Ray is not installed; install unlearnkit\[ray\]"):
        engine_for(bench, "ray", None, 1)
