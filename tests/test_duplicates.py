"""Near-duplicates are found, all of them, and nothing else; in bounded blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MakeBlobs

from unlearnkit.audits import duplicates
from unlearnkit.audits.duplicates import CLOSE, copies
from unlearnkit.data import load
from unlearnkit.types import Examples


def naive(points: Examples, train: Examples) -> dict[int, int]:
    """Every pair in full."""
    a, b = (part.x.numpy().reshape(len(part), -1).astype(np.float64) for part in (points, train))
    difference = np.sqrt(((a[:, None] - b[None]) ** 2).mean(axis=2))
    close = difference < CLOSE * b.std()
    return {int(i): int(difference[i].argmin()) for i in np.flatnonzero(close.any(axis=1))}


@pytest.mark.parametrize("block", [1 << 22, 640])
@pytest.mark.parametrize("floats", [False, True])
def test_copies_and_near_copies_are_found_and_no_others(
    blobs: MakeBlobs, monkeypatch: pytest.MonkeyPatch, block: int, floats: bool
):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    train, points = blobs(90), blobs(20, seed=1, prefix="test")
    x = points.x.clone()
    x[3] = train.x[40]  # a copy
    x[7] = (train.x[11].int() + 1).clamp(max=255).byte()  # brighter by one
    x[9] = train.x[12].flip(-1)  # a mirror image is another image
    points = replace(points, x=x.float() / 255 if floats else x)
    train = replace(train, x=train.x.float() / 255) if floats else train
    assert copies(points, train, np.arange(90)) == {3: 40, 7: 11} == naive(points, train)
    assert copies(points, train, np.arange(20)) == {7: 11}
    assert copies(points, train, np.arange(0)) == {}


def test_digits_have_none():
    digits = load("digits")
    assert copies(digits.test, digits.train, np.arange(len(digits.train))) == {} == naive(digits.test, digits.train)


def test_large_inputs_and_constant_ones():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (300, 3, 32, 32), dtype=np.uint8))
    train = Examples(x, torch.zeros(300, dtype=torch.int64), np.arange(300).astype(str))
    points = Examples(x[100:110].clone(), train.labels()[:10], np.array([f"t{i}" for i in range(10)]))
    assert copies(points, train, np.arange(300)) == {i: 100 + i for i in range(10)}
    black = replace(train, x=torch.zeros_like(x))
    assert copies(replace(points, x=torch.full_like(points.x, 9)), black, np.arange(300)) == {}
