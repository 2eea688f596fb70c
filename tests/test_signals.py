"""Signals and the threshold attack: values by hand, extreme logits, one direction, and what each may read."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax

from unlearnkit.attacks import ATTACKS, SIGNALS, Threshold
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.observing import margin
from unlearnkit.result import UsageError
from unlearnkit.types import Known, Observation, References


def observed(logits: NDArray[np.float64], y: NDArray[np.int64]) -> Observation:
    """logits [point, view, class]."""
    z = logits.astype(np.float32)
    return Observation(np.array([f"p/{i}" for i in range(len(y))]), y, margin(z, y), z)


def single(probabilities: tuple[float, ...], y: int) -> Observation:
    return observed(np.log(np.array(probabilities))[None, None], np.array([y]))


def random(seed: int = 0, points: int = 40, views: int = 3, classes: int = 5, scale: float = 3.0) -> Observation:
    rng = np.random.default_rng(seed)
    return observed(rng.normal(0, scale, (points, views, classes)), rng.integers(0, classes, points))


def test_margin_loss_and_confidence_are_one_signal() -> None:
    seen = random(views=1)
    p = softmax(seen.outputs()[:, 0].astype(np.float64), axis=1)[np.arange(40), seen.y]
    np.testing.assert_allclose(SIGNALS["confidence"](seen), p, rtol=1e-12)
    np.testing.assert_allclose(SIGNALS["loss"](seen), np.log(p), rtol=1e-9)
    np.testing.assert_allclose(SIGNALS["margin"](seen), np.log(p / (1 - p)), atol=1e-6)
    np.testing.assert_allclose(expit(SIGNALS["margin"](seen)), p, rtol=1e-12)
    areas = {auc(SIGNALS[name](seen)[:20], SIGNALS[name](seen)[20:]) for name in ("margin", "loss", "confidence")}
    assert len(areas) == 1


def test_entropies_by_hand() -> None:
    seen = single((0.7, 0.2, 0.1), 0)
    np.testing.assert_allclose(-SIGNALS["modified-entropy"](seen), 0.16217, atol=5e-6)
    np.testing.assert_allclose(-SIGNALS["entropy"](seen), 0.80182, atol=5e-6)
    # y = 1: -(0.8 ln 0.2 + 0.7 ln 0.3 + 0.1 ln 0.9)
    by_hand = -(0.8 * np.log(0.2) + 0.7 * np.log(0.3) + 0.1 * np.log(0.9))
    np.testing.assert_allclose(-SIGNALS["modified-entropy"](single((0.7, 0.2, 0.1), 1)), by_hand, rtol=1e-6)


def test_modified_entropy_is_not_the_published_defect() -> None:
    """audits.md 10.1: whole columns indexed by the labels of the batch, and log p where the paper has log(1 - p)."""
    seen = random(views=1)
    p = softmax(seen.outputs()[:, 0].astype(np.float64), axis=1)
    rows = np.arange(len(p))
    log_p = -np.log(np.maximum(p, 1e-30))
    reverse, reverse_log = 1 - p, -np.log(np.maximum(1 - p, 1e-30))
    modified, modified_log = p.copy(), reverse_log.copy()
    modified[rows, seen.y], modified_log[rows, seen.y] = reverse[rows, seen.y], log_p[rows, seen.y]
    right = (modified * modified_log).sum(axis=1)
    np.testing.assert_allclose(-SIGNALS["modified-entropy"](seen), right, rtol=1e-6)

    columns, columns_log = p.copy(), log_p.copy()
    columns[:, seen.y], columns_log[:, seen.y] = reverse[:, seen.y], log_p[:, seen.y]
    defective = (columns * columns_log).sum(axis=1)
    assert np.abs(right - defective).max() > 0.5
    assert abs(np.corrcoef(right, defective)[0, 1]) < 0.99


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("size", [80.0, 1e4, 1e30])
def test_extreme_logits_stay_finite_and_ordered(name: str, size: float) -> None:
    logits = size * np.array([[1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 1.0, -1.0]])[:, None]
    scores = SIGNALS[name](observed(logits, np.zeros(3, dtype=np.int64)))
    assert np.isfinite(scores).all()
    if name == "entropy":
        assert scores[0] == pytest.approx(scores[2])
        assert scores[0] > scores[1]
    else:
        assert scores[0] > scores[1] > scores[2]


def test_saturation_keeps_the_order_of_very_sure_answers() -> None:
    sizes = np.array([40.0, 60.0, 80.0])
    logits = np.stack([sizes, -sizes, -sizes], axis=1)[:, None]
    seen = observed(logits, np.zeros(3, dtype=np.int64))
    for name in ("margin", "loss", "modified-entropy"):
        assert np.diff(SIGNALS[name](seen)).min() >= 0, name
    assert np.diff(SIGNALS["margin"](seen)).min() > 30
    wrong = observed(logits, np.ones(3, dtype=np.int64))
    assert np.diff(SIGNALS["modified-entropy"](wrong)).max() < 0


@pytest.mark.parametrize("name", SIGNALS)
def test_a_memorizer_scores_its_members_higher(name: str) -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 4, 200)
    logits = rng.normal(0, 1, (200, 1, 4))
    logits[np.arange(100), 0, y[:100]] += 6  # the first half is remembered
    scores = SIGNALS[name](observed(logits, y))
    assert auc(scores[:100], scores[100:]) > 0.9


def test_entropy_ignores_labels_and_the_others_do_not() -> None:
    seen = random()
    other = observed(seen.outputs().astype(np.float64), (seen.y + 1) % 5)
    for name, signal in SIGNALS.items():
        assert np.array_equal(signal(seen), signal(other)) == (name == "entropy"), name


@pytest.mark.parametrize("name", SIGNALS)
def test_views_are_averaged_on_the_scale_of_the_signal(name: str) -> None:
    seen = random(views=3)
    views = [
        SIGNALS[name](Observation(seen.ids, seen.y, seen.margins[:, [v]], seen.outputs()[:, [v]])) for v in range(3)
    ]
    np.testing.assert_allclose(SIGNALS[name](seen), np.mean(views, axis=0), rtol=1e-12)


def test_threshold_is_its_signal() -> None:
    seen = random()
    assert ATTACKS["Threshold"] is Threshold
    for name, signal in SIGNALS.items():
        scores = Threshold(name).score(seen)
        np.testing.assert_array_equal(scores.values, signal(seen))
        assert scores.attack == ("Threshold" if name == "margin" else f"Threshold(signal={name})")
    known = Known(references=References.unseen([random(1)]), original=random(2))
    np.testing.assert_array_equal(Threshold().score(seen, known).values, Threshold().score(seen).values)


def test_unknown_signal_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Threshold\.signal: must be one of margin, .*did you mean 'entropy'\?"):
        Threshold("entropie")
