"""Heads on frozen features: against plain formulas, and at chance where there is nothing to tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from probe_samples import splits
from sklearn.linear_model import Ridge

from unlearnkit.attacks.heads import auc, draw, draw_per_class, folds_auc, matched, ridge_scores, shown_and_held


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(40, 5), (6, 30)])
def test_ridge_is_ridge(shape: tuple[int, int]):
    data = np.random.default_rng(0)
    known, targets, points = (
        data.normal(size=shape) * 3 + 1,
        data.normal(size=(shape[0], 2)),
        data.normal(size=(7, shape[1])),
    )
    known[:, 0] = 4.0  # a dead unit
    mean, std = known.mean(0), known.std(0)
    std[0] = 1.0
    naive = Ridge(alpha=shape[0] * 0.3).fit((known - mean) / std, targets).predict((points - mean) / std)
    got = ridge_scores(known, targets, points, penalty=0.3)
    assert np.allclose(got, naive, atol=1e-9)
    far = ridge_scores(known * 1e-3, targets, points * 1e-3, penalty=0.3)  # shrunken features say the same
    assert np.allclose(got, far, atol=1e-9)


def test_auc_counts_pairs():
    data = np.random.default_rng(1)
    first, second = data.integers(0, 5, 13).astype(float), data.integers(0, 5, 9).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in first for b in second]
    assert auc(first, second) == pytest.approx(np.mean(pairs))
    assert auc(np.ones(3), np.ones(4)) == 0.5


def test_groups_of_one_law_are_told_apart_by_chance_only():
    data = np.random.default_rng(2)
    found = [
        folds_auc(data.normal(size=(30, 20)), data.normal(size=(30, 20)), folds=5, penalty=0.1, rng=rng(i)).mean()
        for i in range(60)
    ]
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(60)
    shifted = folds_auc(data.normal(size=(30, 20)) + 2, data.normal(size=(30, 20)), folds=5, penalty=0.1, rng=rng())
    assert shifted.mean() > 0.99


def test_draws():
    assert sorted(draw(5, 9, rng())) == [0, 1, 2, 3, 4]
    assert len(set(draw(50, 7, rng()))) == 7
    y = np.array([4, 4, 2, 4, 2, 9])
    rows = draw_per_class(y, 2, rng())
    assert sorted(y[rows]) == [2, 2, 4, 4, 9]
    assert len(set(rows)) == len(rows)


def test_shown_and_held_share_nothing(blobs: MakeBlobs):
    shown, held = shown_and_held(blobs(9), 4, rng(), what="test")
    assert len(shown) == 4
    assert sorted([*shown, *held]) == list(range(9))


def test_twins_are_matched_by_class():
    parts = splits(class_wise=False)
    assert parts.twins is not None
    lopsided = dataclasses.replace(parts, twins=parts.twins.take(parts.twins.labels().numpy() < 4))
    forget, twins = matched(lopsided, rng(), what="test", least=2)
    assert np.array_equal(forget.labels().numpy(), twins.labels().numpy())
    assert set(forget.labels().tolist()) == {0, 1, 2, 3}
    assert set(forget.ids) <= set(parts.forget.ids)
    assert set(twins.ids) <= set(parts.twins.ids)
    assert len(set(forget.ids)) == len(forget)
