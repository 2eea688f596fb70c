"""IAM: against the loop of the paper, completeness graded along the way, one reference, and few non-members."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from attack_samples import world
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from unlearnkit.attacks import IAM, IAMOffline, completeness
from unlearnkit.attacks.iam import CERTAIN, signal
from unlearnkit.audits.statistics.roc import auc, roc, tpr_at_fpr
from unlearnkit.masks import State
from unlearnkit.result import UsageError
from unlearnkit.types import Known, Observation, References


def naive(
    asked: NDArray[np.float64], shadows: NDArray[np.float64], end: NDArray[np.float64], per_example: bool
) -> NDArray[np.float64]:
    """Signals [point], [shadow, point], [point]: the cloud is moved in 100 steps and fitted anew at each."""
    alphas = np.linspace(0, 1, 100)
    total = np.zeros(len(asked))
    for i in range(99):
        moved = shadows + alphas[i] * (end - shadows)
        sd = moved.std(axis=0) if per_example else moved.std()
        beta = np.sqrt(6) * sd / np.pi
        with np.errstate(over="ignore"):
            total += alphas[i + 1] * stats.gumbel_r.cdf(asked, moved.mean(axis=0) - np.euler_gamma * beta, beta)
    return np.asarray(total / alphas[1:].sum())


@pytest.mark.parametrize("shadows", [1, 2, 7])
@pytest.mark.parametrize("per_example", [False, True])
def test_closed_form_equals_the_loop(shadows: int, per_example: bool):
    if per_example and shadows == 1:
        shadows = 3
    rng = np.random.default_rng(shadows)
    margins = rng.normal(0, 2, (shadows, 50, 2))
    references = References(margins, np.zeros((shadows, 50), dtype=np.uint8))
    ids, y = np.array([f"p/{i}" for i in range(50)]), np.zeros(50, dtype=np.int64)
    target, original = (Observation(ids, y, rng.normal(center, 2, (50, 2))) for center in (0, 4))
    known = Known(references=references, original=original)
    for attack, end in (
        (IAM(per_example), signal(original.margins)),
        (IAMOffline(per_example), np.full((50, 2), CERTAIN)),
    ):
        by_loop = [naive(signal(target.margins)[:, v], signal(margins)[..., v], end[:, v], per_example) for v in (0, 1)]
        np.testing.assert_allclose(attack.score(target, known).values, np.mean(by_loop, axis=0), rtol=1e-9, atol=1e-12)


def test_the_signal_is_that_of_the_paper():
    phi = np.array([-3.0, 0.0, 5.0])
    np.testing.assert_allclose(signal(phi), -np.log(1e-2 - np.log(expit(phi) + 1e-5)), rtol=1e-12)
    assert signal(np.array([-1e4]))[0] == pytest.approx(-2.44, abs=0.01)
    assert pytest.approx(4.61, abs=0.01) == CERTAIN


@pytest.mark.parametrize("models", [3, 24])
def test_completeness_is_graded(models: int):
    """The audited model stands a share λ of the way from retrained to original; one reference per point or eight."""
    one = world(1, leak=6.0, points=200, models=models, center=-1.0)
    original = one.known.original
    assert original is not None
    reached = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        margins = one.target.margins - 6.0 * (1 - share) * one.member[:, None]
        scores = IAM().score(dataclasses.replace(one.target, margins=margins), one.known)
        left = completeness(scores)
        assert ((left >= 0) & (left <= 1)).all()
        reached.append(float(left[one.member].mean()))
    assert all(later < earlier - 0.02 for earlier, later in itertools.pairwise(reached)), reached
    assert reached[0] > 0.75
    assert reached[-1] < 0.45


def test_over_forgetting_is_a_completeness_above_the_oracles():
    one = world(2, leak=6.0, points=200, models=12)
    forgotten, retrained = (
        completeness(IAM().score(dataclasses.replace(one.target, margins=margins), one.known))[one.member]
        for margins in (
            one.target.margins - (6.0 + 2.0) * one.member[:, None],
            one.target.margins - 6.0 * one.member[:, None],
        )
    )
    assert np.mean(forgotten > retrained) > 0.95


def test_one_reference_finds_what_is_left():
    one = world(3, leak=4.0, points=300, models=3, spread=2.0)
    for attack in (IAM(), IAMOffline()):
        scores = attack.score(one.target, one.known)
        assert scores.flags == ()
        assert auc(scores.values[one.member], scores.values[~one.member]) > 0.9


def test_a_spread_for_each_point_needs_two_references():
    one = world(4, leak=1.0, models=3)
    with pytest.raises(
        UsageError,
        match=r"IAM\(per_example=True\): a spread for each point needs two references that never saw it, and 40 of 40",
    ):
        IAM(per_example=True).score(one.target, one.known)


def test_no_rate_is_claimed_that_the_non_members_cannot_show():
    """audits.md 10.11: the published code interpolates TPR at FPR 1e-5 from a few hundred non-members."""
    one = world(5, leak=1.0, points=400, models=12)
    values = IAM().score(one.target, one.known).values
    members, others = values[one.member], values[~one.member]
    curve = roc(members, others)
    interpolated = float(np.interp(1e-5, curve.fpr, curve.tpr))
    assert interpolated > 0  # the defect: a number for a rate of which 200 non-members know nothing
    with pytest.raises(UsageError, match="1e-05"):
        tpr_at_fpr(members, others, fpr=1e-5)
    assert tpr_at_fpr(members, others, fpr=0.01).fpr <= 0.01


def test_only_out_references_count():
    one = world(6, leak=2.0)
    references = one.known.references
    assert references is not None
    other = np.where((references.state == State.OUT)[..., None], references.margins, 9.0)
    known = dataclasses.replace(one.known, references=References(other, references.state))
    for attack in (IAM(), IAMOffline()):
        np.testing.assert_array_equal(
            attack.score(one.target, known).values, attack.score(one.target, one.known).values
        )
