"""Coin canaries: fair and sealed coins, labels never the true one, and a manifest that notices every change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from unlearnkit.audits.canaries import Manifest, draw, plant
from unlearnkit.audits.designs import MIN_CANARIES
from unlearnkit.result import UsageError
from unlearnkit.types import Examples


def examples(n: int = 400, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    ids = np.array([f"train/{i}" for i in range(n)])
    return Examples(torch.zeros(n, 1, 2, 2), torch.from_numpy(rng.integers(0, 10, n)), ids)


def test_exact_halves_and_never_the_true_label() -> None:
    train = examples()
    true = dict(zip(train.ids.tolist(), train.labels().tolist(), strict=True))
    counts = np.zeros(10)
    for seed in range(30):
        manifest = draw(train, count=100, classes=10, seed=seed)
        assert len(set(manifest.ids)) == 100
        assert sum(manifest.heads) == 50
        assert all(true[i] != label for i, label in zip(manifest.ids, manifest.labels, strict=True))
        for i, label in zip(manifest.ids, manifest.labels, strict=True):
            counts[(label - true[i]) % 10] += 1
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.001  # uniform over the other classes


def test_coins_do_not_depend_on_rows_labels_or_candidates_before_them() -> None:
    rows, labels = [], []
    for seed in range(200):
        manifest = draw(examples(), count=40, classes=10, seed=seed)
        heads = np.array(manifest.heads)
        row = np.array([int(i.split("/")[1]) for i in manifest.ids])
        rows.append(row[heads].mean() - row[~heads].mean())
        labels.append(np.array(manifest.labels)[heads].mean() - np.array(manifest.labels)[~heads].mean())
        assert heads[:20].sum() != 20  # neither the first half drawn nor the last
    for found in (rows, labels):
        assert stats.ttest_1samp(found, 0.0).pvalue > 0.001


def test_determinism_and_seeds() -> None:
    train = examples()
    assert draw(train, count=60, classes=10, seed=3) == draw(train, count=60, classes=10, seed=3)
    one, two = (draw(train, count=60, classes=10, seed=s) for s in (3, 4))
    assert one.heads != two.heads
    assert one.salt != two.salt
    assert one.commitment != two.commitment


@pytest.mark.parametrize("field", ["kind", "ids", "labels", "heads", "salt"])
def test_the_commitment_changes_with_everything_sealed(field: str) -> None:
    manifest = draw(examples(), count=40, classes=10, seed=0)
    old = getattr(manifest, field)
    new: Any = (
        f"{old}x" if isinstance(old, str) else (*old[:7], f"{old[7]}x" if field == "ids" else 1 - old[7], *old[8:])
    )
    assert dataclasses.replace(manifest, **{field: new}).commitment != manifest.commitment
    assert len(manifest.commitment) == 64


def test_planting_keeps_inputs_and_holds_tails_out() -> None:
    train = examples()
    manifest = draw(train, count=60, classes=10, seed=1)
    planted = plant(train, manifest)
    assert planted.train.x is train.x
    assert planted.heads.size == planted.tails.size == 30
    assert not np.intersect1d(planted.heads, planted.tails).size
    given = dict(zip(manifest.ids, manifest.labels, strict=True))
    heads = {i for i, head in zip(manifest.ids, manifest.heads, strict=True) if head}
    assert set(planted.train.ids[planted.heads].tolist()) == heads
    for row, (i, new, old) in enumerate(
        zip(train.ids.tolist(), planted.train.labels().tolist(), train.labels().tolist(), strict=True)
    ):
        assert new == given.get(i, old), row
        assert (new != old) == (i in given)


def test_planting_follows_ids_not_rows() -> None:
    train = examples()
    manifest = draw(train, count=60, classes=10, seed=1)
    order = np.random.default_rng(0).permutation(len(train))
    here, there = plant(train, manifest), plant(train.take(order), manifest)
    for rows in ("heads", "tails"):
        first, second = (p.train.ids[getattr(p, rows)].tolist() for p in (here, there))
        assert sorted(first) == sorted(second)


def test_round_trip(tmp_path: Path) -> None:
    manifest = draw(examples(), count=40, classes=10, seed=0)
    path = tmp_path / "deep" / "canaries.json"
    manifest.save(path)
    assert Manifest.load(path) == manifest
    first = path.read_bytes()
    manifest.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("field", ["ids", "labels", "heads", "salt", "kind", "commitment"])
def test_an_altered_manifest_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "canaries.json"
    draw(examples(), count=40, classes=10, seed=0).save(path)
    body = json.loads(path.read_text())
    if isinstance(body[field], str):
        body[field] = body[field][:-1] + ("0" if body[field][-1] != "0" else "1")
    elif field == "ids":
        body[field][0] += "x"
    else:
        body[field][0] = not body[field][0] if field == "heads" else (body[field][0] + 1) % 10
    path.write_text(json.dumps(body))
    with pytest.raises(
        UsageError, match=r"canaries\.json: the manifest does not open its commitment [0-9a-f]{12}…; coins"
    ):
        Manifest.load(path)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"\xff",
        b"{}",
        b"not json",
        b'{"kind": "mislabeled", "commitment": "0"}',
        b'{"kind":"m","ids":["a"],"labels":["1"],"heads":["yes"],"salt":"0","commitment":"0"}',
    ],
)
def test_what_is_no_manifest(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(body)
    with pytest.raises(UsageError, match=r"m\.json: not a canary manifest of unlearnkit"):
        Manifest.load(path)


def test_missing_folder_and_crooked_manifests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such canary manifest"):
        Manifest.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="is a folder"):
        Manifest.load(tmp_path)
    path = tmp_path / "m.json"
    manifest = draw(examples(), count=40, classes=10, seed=0)
    for crooked in (
        dataclasses.replace(manifest, heads=manifest.heads[:-1]),
        dataclasses.replace(manifest, ids=(*manifest.ids[:-1], manifest.ids[0])),
    ):
        crooked.save(path)
        with pytest.raises(UsageError, match="one id of its own, a label and a coin"):
            Manifest.load(path)


def test_the_manifest_of_other_data_is_refused() -> None:
    manifest = draw(examples(), count=40, classes=10, seed=0)
    other = examples()
    other = Examples(other.x, other.y, np.array([f"other/{i}" for i in range(len(other))]))
    with pytest.raises(UsageError, match=r"40 of 40 canaries are not in the training data, the first is 'train/\d+'"):
        plant(other, manifest)


@pytest.mark.parametrize("count", [-2, 2 * MIN_CANARIES - 2, 2 * MIN_CANARIES + 1])
def test_count_is_even_and_large_enough_for_the_coin_test(count: int) -> None:
    with pytest.raises(UsageError, match=rf"canaries\.count: must be an even number of at least 40 .*got {count}"):
        draw(examples(), count=count, classes=10, seed=0)


def test_count_leaves_half_of_the_data() -> None:
    draw(examples(80), count=40, classes=10, seed=0)
    with pytest.raises(UsageError, match="at most half of the 80 training examples can be candidates, got 42"):
        draw(examples(80), count=42, classes=10, seed=0)
