"""Deletion inference from two versions: differences by hand, and a perfect retraining that fails it."""

from __future__ import annotations

import numpy as np
import pytest
from test_population import observed, world

from unlearnkit.attacks import TwoModel
from unlearnkit.attacks.two_model import DIFFERENCES
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.result import UsageError
from unlearnkit.types import Known, Observation


def pair() -> tuple[Observation, Observation]:
    before = np.log(np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.3, 0.6]]]))
    after = np.log(np.array([[[0.5, 0.1, 0.4]], [[0.2, 0.4, 0.4]]]))
    y = np.array([0, 1])
    return observed(before, y), observed(after, y)


@pytest.mark.parametrize(
    ("difference", "values"),
    [
        ("direct", [0.2, -0.1]),
        ("margin", [np.log(0.7 / 0.3), np.log(0.3 / 0.7) - np.log(0.4 / 0.6)]),
        ("sorted", [0.2, 0.2]),
        ("l2", [np.sqrt(0.04 + 0.01 + 0.09), np.sqrt(0.01 + 0.01 + 0.04)]),
    ],
)
def test_differences_by_hand(difference: str, values: list[float]) -> None:
    before, after = pair()
    scores = TwoModel(difference).score(after, Known(original=before))
    np.testing.assert_allclose(scores.values, values, rtol=1e-5)


def test_views_are_averaged() -> None:
    before, after = world(20, 2.0, 1, views=3), world(20, 0.0, 2, views=3)
    for name in DIFFERENCES:
        single = [
            TwoModel(name)
            .score(
                *(
                    change(Observation(one.ids, one.y, one.margins[:, [v]], one.outputs()[:, [v]]))
                    for one, change in ((after, lambda o: o), (before, lambda o: Known(original=o)))
                )
            )
            .values
            for v in range(3)
        ]
        np.testing.assert_allclose(TwoModel(name).score(after, Known(original=before)).values, np.mean(single, axis=0))


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_perfect_retraining_fails_and_so_means_nothing_by_itself(difference: str) -> None:
    """Deleted examples were known by heart, and the retrained model knows them no better than others."""
    y = np.arange(200) % 3
    deleted = np.arange(200) < 100
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, (200, 1, 3))
    base[np.arange(200), 0, y] += 1

    def answers(boost: float, seed: int) -> Observation:
        z = base + np.random.default_rng(seed).normal(0, 0.3, base.shape)
        z[np.arange(200), 0, y] += boost * deleted
        return observed(z, y)

    original, retrained, untouched = answers(4.0, 1), answers(0.0, 2), answers(4.0, 3)
    attack = TwoModel(difference)
    scores = attack.score(retrained, Known(original=original)).values
    assert auc(scores[deleted], scores[~deleted]) > 0.8
    # and a model that forgot nothing at all passes it: read by itself, the score rewards doing nothing
    idle = attack.score(untouched, Known(original=original)).values
    assert auc(idle[deleted], idle[~deleted]) < 0.65
    same = attack.score(original, Known(original=original))
    assert (same.values == 0).all()
    assert same.flags[0].name == "constant scores"


def test_what_is_missing_is_named() -> None:
    before, after = pair()
    with pytest.raises(UsageError, match="TwoModel: needs the original: what the model before the deletion says"):
        TwoModel().score(after)
    with pytest.raises(UsageError, match=r"TwoModel\.difference: must be one of direct, .* got 'sort'; did you mean"):
        TwoModel("sort")
    bare = Observation(after.ids, after.y, after.margins)
    TwoModel().score(bare, Known(original=before))
    for one, other in ((bare, before), (after, Observation(before.ids, before.y, before.margins))):
        with pytest.raises(UsageError, match="logits are needed here, but only margins were kept"):
            TwoModel("l2").score(one, Known(original=other))
