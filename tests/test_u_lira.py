"""U-LiRA and RULI: both kinds of reference, global artifacts, bandwidths, and the pool with two stages."""

from __future__ import annotations

import numpy as np
import pytest
from attack_samples import world
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from unlearnkit.attacks import RULI, ULiRA, leave_one_out
from unlearnkit.audits.statistics.roc import auc, roc, tpr_at_fpr
from unlearnkit.masks import Stage, State, tri_state
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Known, Observation, References

both = pytest.mark.parametrize("attack", [ULiRA(), RULI()], ids=lambda attack: attack.name)


def tri_pool(
    seed: int, *, trace: float, shift: float = 0.0, models: int = 24, points: int = 120
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Margins [model, stage, point, view] of a pool whose unlearning leaves `trace` of what training added (4), and
    moves every margin by `shift`."""
    rng = np.random.default_rng(seed)
    state = tri_state(points, np.arange(points), models, seed=seed)
    base = rng.normal(0, 1.5, (points, 1)) + rng.normal(0, 0.5, (models, points, 1))
    trained = base + 4.0 * (state != State.OUT)[..., None]
    unlearned = base + 4.0 * (state == State.IN)[..., None] + trace * (state == State.FORGOTTEN)[..., None] + shift
    return np.stack([trained, unlearned + rng.normal(0, 0.1, base.shape)], axis=1), state


def mean_area(attack: Attack, references: References) -> float:
    """Forgotten against never seen, each model as the target once."""
    areas = []
    for model, scores in enumerate(leave_one_out(attack, references)):
        assert scores.rows is None
        state = references.state[model]
        areas.append(auc(scores.values[state == State.FORGOTTEN], scores.values[state == State.OUT]))
    return float(np.mean(areas))


@both
@pytest.mark.parametrize("stage", list(Stage))
def test_a_trace_is_found_and_nothing_where_there_is_none(attack: Attack, stage: Stage):
    leaking, clean = (References.from_pool(*tri_pool(1, trace=trace), out_stage=stage) for trace in (1.5, 0.0))
    assert mean_area(attack, leaking) > 0.9
    assert mean_area(attack, clean) == pytest.approx(0.5, abs=0.03)


@both
def test_a_global_artifact_counts_against_retrained_references_only(attack: Attack):
    """audits.md 13, plant 9: unlearning moves every margin alike. Nobody stands out; no retrained model looks so."""
    pool = tri_pool(2, trace=0.0, shift=-2.0)
    assert mean_area(attack, References.from_pool(*pool, out_stage=Stage.UNLEARNED)) == pytest.approx(0.5, abs=0.03)
    assert mean_area(attack, References.from_pool(*pool, out_stage=Stage.TRAINED)) > 0.9


@both
def test_forgetting_too_well_is_found(attack: Attack):
    assert mean_area(attack, References.from_pool(*tri_pool(3, trace=-1.5), out_stage=Stage.UNLEARNED)) > 0.9


def test_from_pool_reads_each_point_at_the_stage_that_matters():
    margins = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3, 1)
    state = np.array([[0, 1, 2], [2, 0, 1]], dtype=np.uint8)
    trained = References.from_pool(margins, state, out_stage=Stage.TRAINED)
    assert trained.margins[..., 0].tolist() == [[0, 1, 5], [9, 7, 8]]
    unlearned = References.from_pool(margins, state, out_stage=Stage.UNLEARNED)
    assert unlearned.margins[..., 0].tolist() == [[3, 4, 5], [9, 10, 11]]
    for one in (trained, unlearned):
        assert one.margins.dtype == np.float32
        assert one.state.tolist() == state.tolist()


@pytest.mark.usefixtures("as_users_run")
def test_pools_that_do_not_fit_are_refused():
    state = np.zeros((2, 3), dtype=np.uint8)
    for shape in ((2, 1, 3, 1), (2, 3, 1)):
        with pytest.raises(UsageError, match=r"references: a pool must hold margins .* of two stages, trained and unl"):
            References.from_pool(np.zeros(shape), state, out_stage=Stage.TRAINED)
    with pytest.raises(UsageError, match=r"one entry per model and point, got \[2, 3\] for a pool \[2, 2, 4, 1\]"):
        References.from_pool(np.zeros((2, 2, 4, 1)), state, out_stage=Stage.UNLEARNED)


def test_ruli_is_the_ratio_of_two_kernel_densities():
    one = world(4, leak=1.0, models=12)
    references = one.known.references
    assert references is not None
    legacy = RULI(legacy=True).score(one.target, one.known).values
    expected = np.zeros(one.target.margins.shape)
    for i, v in np.ndindex(*expected.shape):
        densities = [
            KernelDensity(bandwidth=1.0)
            .fit(references.margins[references.state[:, i] == state, i, v][:, None])
            .score_samples(one.target.margins[i : i + 1, v : v + 1])[0]
            for state in (State.FORGOTTEN, State.OUT)
        ]
        expected[i, v] = densities[0] - densities[1]
    np.testing.assert_allclose(legacy, expected.mean(axis=1), rtol=1e-9, atol=1e-12)


def test_bandwidths_by_hand():
    """FORGOTTEN {0, 2}: SS = 2, pooled 2; OUT {-1, -1, 2}: SS = 6, pooled 3."""
    margins = np.array([0, 2, -1, -1, 2], dtype=np.float64)[:, None, None]
    state = np.array([2, 2, 0, 0, 0], dtype=np.uint8)[:, None]
    target = Observation(np.array(["p"]), np.array([0]), np.array([[0.5]]))
    widths = {2: 1.06 * np.sqrt((4 * 2 + 2) / 5) * 2**-0.2, 0: 1.06 * np.sqrt((4 * 3 + 6) / 6) * 3**-0.2}
    densities = {
        s: logsumexp(-0.5 * ((0.5 - margins[state[:, 0] == s, 0, 0]) / h) ** 2) - np.log(h * np.sum(state == s))
        for s, h in widths.items()
    }
    score = RULI().score(target, Known(References(margins, state))).values
    np.testing.assert_allclose(score, [densities[2] - densities[0]], rtol=1e-12)


def test_the_bandwidth_knows_the_scale():
    """audits.md 10.8: with a bandwidth of 1.0 a leak of a tenth of a logit, three times the noise, is smoothed away."""
    fine = {}
    for scale in (1.0, 0.01):
        one = world(5, leak=3.0 * scale, points=200, models=24, spread=10.0 * scale, noise=1.0 * scale)
        fine[scale] = RULI().score(one.target, one.known).values
        legacy = RULI(legacy=True).score(one.target, one.known).values
        if scale < 1:
            assert np.ptp(legacy) < 0.1 * np.ptp(fine[scale])
    np.testing.assert_allclose(fine[0.01], fine[1.0], rtol=1e-6, atol=1e-6)


def test_rates_are_never_read_beyond_the_nominal_level():
    """audits.md 10.8: the point of the ROC curve *nearest* to 1 % may lie beyond it; ours never does."""
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 160), rng.normal(0, 1, 160)
    curve = roc(members, others)
    nearest = np.abs(curve.fpr - 0.01).argmin()
    assert curve.fpr[nearest] == 2 / 160 > 0.01  # the defect
    point = tpr_at_fpr(members, others, fpr=0.01)
    assert point.fpr == 1 / 160
    assert point.tpr.value <= curve.tpr[nearest]


@pytest.mark.usefixtures("as_users_run")
def test_wrong_fields_are_refused():
    with pytest.raises(UsageError, match=r"RULI\.nu0: must be above 0, got -1"):
        RULI(nu0=-1)
