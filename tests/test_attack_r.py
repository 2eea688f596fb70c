"""Attack R: by hand, against the published interpolation, calibrated levels, and the resolution of K references."""

from __future__ import annotations

import numpy as np
import pytest

from unlearnkit.attacks import AttackR
from unlearnkit.types import Known, Observation, References


def margins_of(losses: list[float]) -> np.ndarray:
    """φ with log(1 + e^−φ) = loss."""
    return -np.log(np.expm1(np.array(losses)))


def asked(phi: np.ndarray) -> Observation:
    return Observation(np.array([f"p/{i}" for i in range(len(phi))]), np.zeros(len(phi), dtype=np.int64), phi)


def test_by_hand():
    """References with losses 1 and 3: levels 0, 1/3, 2/3, 1 at 0, 1, 3, 1000."""
    references = References(np.tile(margins_of([1, 3])[:, None, None], (1, 5, 1)), np.zeros((2, 5), dtype=np.uint8))
    target = asked(margins_of([0.5, 1.5, 2.0, 3.0, 501.5])[:, None])
    alpha = 1 - AttackR().score(target, Known(references)).values
    by_hand = [1 / 6, 1 / 3 + 1 / 12, 1 / 2, 2 / 3, 2 / 3 + 1 / 3 * 498.5 / 997]
    np.testing.assert_allclose(alpha, by_hand, rtol=1e-9)


def test_fast_equals_interpolation_point_by_point():
    rng = np.random.default_rng(0)
    state = rng.permuted(np.arange(9 * 30).reshape(30, 9), axis=1).T % 3
    references = References(rng.normal(0, 3, (9, 30, 2)), state.astype(np.uint8))
    target = asked(rng.normal(0, 3, (30, 2)))
    expected = np.zeros((30, 2))
    for i in range(30):
        for v in range(2):
            out = references.margins[state[:, i] == 0, i, v]
            losses = np.concatenate([[0], np.sort(np.logaddexp(0, -out)), [1000]])
            expected[i, v] = 1 - np.interp(
                np.logaddexp(0, -target.margins[i, v]), losses, np.linspace(0, 1, len(losses))
            )
    np.testing.assert_allclose(AttackR().score(target, Known(references)).values, expected.mean(axis=1), rtol=1e-9)


def test_levels_hold_where_references_are_exchangeable_with_the_target():
    """ "Member where α <= j / (K + 1)" errs on just that share, however hard each point is."""
    rng = np.random.default_rng(0)
    points, k = 20000, 9
    phi = rng.normal(0, 3, points) + rng.normal(0, rng.uniform(0.5, 2, points), (k + 1, points))
    references = References(phi[:k, :, None], np.zeros((k, points), dtype=np.uint8))
    alpha = 1 - AttackR().score(asked(phi[k][:, None]), Known(references)).values
    for j in (1, 3, 5, 9):
        assert np.mean(alpha <= j / (k + 1)) == pytest.approx(j / (k + 1), abs=4 * 0.5 / np.sqrt(points))


def test_the_resolution_is_told():
    def flags(k: int) -> list[tuple[str, str]]:
        references = References(np.random.default_rng(0).normal(0, 1, (k, 4, 1)), np.zeros((k, 4), dtype=np.uint8))
        scores = AttackR().score(asked(np.arange(4.0)[:, None]), Known(references))
        return [(flag.name, flag.sentence) for flag in scores.flags]

    assert flags(99) == []
    assert flags(4) == [
        (
            "coarse levels",
            "AttackR: with 4 references that never saw a point, false-positive rates are told no finer than 1/5.",
        )
    ]


def test_losses_beyond_the_sentinel_and_of_zero_stay_finite():
    references = References(
        np.array([-5000.0, 800.0])[:, None, None].repeat(4, axis=1), np.zeros((2, 4), dtype=np.uint8)
    )
    values = AttackR().score(asked(np.array([[-9000.0], [-1.0], [900.0], [0.0]])), Known(references)).values
    assert np.isfinite(values).all()
    assert values[0] < values[1] < values[3] < values[2] + 0.5
