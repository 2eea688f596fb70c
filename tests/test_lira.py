"""LiRA: variances by hand, a naive twin, the ordering of its variants, over-forgetting, and the published defects."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from attack_samples import world
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.attacks import LiRA, LiRAOffline, LiRAOfflineDensity, Threshold, ULiRA
from unlearnkit.attacks.gaussian import Gaussian, Law
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.masks import State, random_halves
from unlearnkit.observing import margin
from unlearnkit.result import UsageError
from unlearnkit.types import Known, Observation, References

OUT, IN, FORGOTTEN = State.OUT, State.IN, State.FORGOTTEN


def seen(margins: NDArray[np.floating]) -> Observation:
    """margins [point, view]."""
    ids = np.array([f"p/{i}" for i in range(len(margins))])
    return Observation(ids, np.zeros(len(margins), dtype=np.int64), margins)


def pool(margins: NDArray[np.floating], state: NDArray[np.integer]) -> Known:
    return Known(References(margins, state.astype(np.uint8)))


def random_pool(seed: int, models: int = 9, points: int = 30, views: int = 2) -> tuple[Observation, Known]:
    rng = np.random.default_rng(seed)
    state = rng.permuted(np.arange(models * points).reshape(points, models), axis=1).T % 3
    margins = rng.normal(rng.normal(0, 3, (points, views)), rng.uniform(0.5, 2, (points, 1)), (models, points, views))
    return seen(rng.normal(0, 3, (points, views))), pool(margins + 2 * (state > 0)[..., None], state)


def naive(attack: Gaussian, target: Observation, known: Known) -> NDArray[np.float64]:
    """Point by point and view by view, with scipy's laws."""
    references = known.references
    assert references is not None
    _, points, views = references.margins.shape
    states = [OUT] if attack.inside is None else [OUT, attack.inside]
    scores = np.zeros((points, views))
    for v in range(views):
        x = references.margins[:, :, v]
        of = {s: [x[references.state[:, i] == s, i] for i in range(points)] for s in states}
        for i in range(points):
            laws = {}
            for s in states:
                own, every = of[s][i], np.concatenate(of[attack.inside if attack.inside is not None else OUT])
                ss, n = ((own - own.mean()) ** 2).sum(), len(own)
                pooled = sum(((o - o.mean()) ** 2).sum() for o in of[s]) / sum(len(o) - 1 for o in of[s])
                if attack.variance == "shrunk":
                    df = attack.nu0 + n - 1
                    scale = np.sqrt((attack.nu0 * pooled + ss) / df * (1 + 1 / n))
                    laws[s] = stats.t(df, own.mean(), scale)
                elif attack.variance == "example":
                    laws[s] = stats.norm(own.mean(), own.std())
                elif attack.variance == "fixed":
                    laws[s] = stats.norm(own.mean(), np.sqrt(pooled))
                else:
                    laws[s] = stats.norm(np.median(own), every.std())
            phi = target.margins[i, v]
            if attack.inside is not None:
                scores[i, v] = laws[attack.inside].logpdf(phi) - laws[OUT].logpdf(phi)
            else:
                tail = isinstance(attack, LiRAOffline)
                scores[i, v] = -(laws[OUT].logsf(phi) if tail else laws[OUT].logpdf(phi))
    return scores.mean(axis=1)


@pytest.mark.parametrize("variance", ["shrunk", "example", "fixed", "legacy"])
@pytest.mark.parametrize("kind", [LiRA, LiRAOffline, LiRAOfflineDensity, ULiRA])
def test_fast_equals_naive(kind: type[Gaussian], variance: str):
    target, known = random_pool(1)
    attack = kind(variance)  # type: ignore[arg-type]
    np.testing.assert_allclose(attack.score(target, known).values, naive(attack, target, known), rtol=1e-9, atol=1e-9)


def test_shrunk_variances_by_hand():
    """Two points, one view. OUT: {1, 3} and {0, 0, 6}; IN: {5} and {4, 8}."""
    state = np.array([[OUT, OUT], [OUT, OUT], [IN, OUT], [IN, IN], [IN, IN]])
    state[3:, 0] = FORGOTTEN
    margins = np.array([[1, 0], [3, 0], [5, 6], [99, 4], [99, 8]], dtype=np.float64)[..., None]
    # OUT: SS = 2, 24 with 1 + 2 degrees of freedom: pooled 26/3. IN: SS = 0, 8 with 0 + 1: pooled 8
    at = np.array([[4.0], [5.0]])
    out = [
        stats.t.logpdf(4, 4 + 1, 2, np.sqrt((4 * 26 / 3 + 2) / 5 * 3 / 2)),
        stats.t.logpdf(5, 4 + 2, 2, np.sqrt((4 * 26 / 3 + 24) / 6 * 4 / 3)),
    ]
    inside = [
        stats.t.logpdf(4, 4 + 0, 5, np.sqrt(8 * 2)),
        stats.t.logpdf(5, 4 + 1, 6, np.sqrt((4 * 8 + 8) / 5 * 3 / 2)),
    ]
    scores = LiRA().score(seen(at), pool(margins, state))
    np.testing.assert_allclose(scores.values, np.array(inside) - np.array(out), rtol=1e-12)
    fixed = LiRA("fixed").score(seen(at), pool(margins, state)).values
    by_hand = stats.norm.logpdf(4, 5, np.sqrt(8)) - stats.norm.logpdf(4, 2, np.sqrt(26 / 3))
    assert fixed[0] == pytest.approx(by_hand, rel=1e-12)


def test_densities_are_averaged_over_views_not_margins():
    target, known = random_pool(2)
    references = known.references
    assert references is not None
    single = [
        LiRA("fixed").score(
            seen(target.margins[:, v : v + 1]), pool(references.margins[..., v : v + 1], references.state)
        )
        for v in range(2)
    ]
    both = LiRA("fixed").score(target, known).values
    np.testing.assert_allclose(both, (single[0].values + single[1].values) / 2, rtol=1e-12)
    merged = pool(references.margins.mean(axis=2, keepdims=True), references.state)
    wrong = LiRA("fixed").score(seen(target.margins.mean(axis=1, keepdims=True)), merged).values
    assert not np.allclose(both, wrong)


def sixteen_models(seed: int, models: int = 16, points: int = 4000) -> tuple[Observation, Known, NDArray[np.bool_]]:
    """Difficulty spreads twice as wide as training lifts a margin, and the noise of models has heavy tails (Student's t
    with 3 degrees of freedom), as margins of networks have: then eight references a side say little of a variance.
    """
    rng = np.random.default_rng(seed)
    mask = np.concatenate([random_halves(points, models, seed=seed), rng.random((1, points)) < 0.5])
    margins = rng.normal(0, 2, points) + mask + rng.standard_t(3, mask.shape)
    return seen(margins[-1][:, None]), pool(margins[:-1, :, None], mask[:-1]), mask[-1]


def test_published_variants_stand_in_their_published_order():
    """online-fixed > online > global > offline-fixed > offline with 16 models (audits.md 2.5), offline as published."""
    areas: dict[str, list[float]] = {}
    for seed in range(4):
        target, known, member = sixteen_models(seed)
        for name, attack in {
            "online-fixed": LiRA("fixed"),
            "online": LiRA("example"),
            "global": Threshold(),
            "offline-fixed": LiRAOfflineDensity("fixed"),
            "offline": LiRAOfflineDensity("example"),
            "shrunk": LiRA(),
            "tail": LiRAOffline(),
        }.items():
            values = attack.score(target, known).values
            areas.setdefault(name, []).append(auc(values[member], values[~member]))
    mean = {name: float(np.mean(values)) for name, values in areas.items()}
    order = ["online-fixed", "online", "global", "offline-fixed", "offline"]
    assert sorted(order, key=lambda name: -mean[name]) == order, mean
    assert all(mean[first] > mean[second] + 0.003 for first, second in itertools.pairwise(order)), mean
    assert mean["shrunk"] > mean["online"] + 0.005
    assert mean["tail"] > mean["global"] > mean["offline"], "the one-sided tail is what the paper means"


@pytest.mark.parametrize("side", [2, 8, 64])
def test_shrunk_variances_lose_to_no_published_ones(side: int):
    """With few references of two spreads, shrinking beats each point by itself and equals it with many."""
    rng = np.random.default_rng(side)
    points = 4000
    noise = np.where(rng.random(points) < 0.5, 0.5, 1.5)
    state = np.repeat([OUT, IN], side)[:, None] * np.ones((1, points), dtype=np.int64)
    mu, member = rng.normal(0, 3, points), rng.random(points) < 0.5
    margins = mu + noise * (state + rng.normal(0, 1, state.shape))
    target = seen((mu + noise * (member + rng.normal(0, 1, points)))[:, None])
    known = pool(margins[..., None], state)
    area = {
        variance: auc(values[member], values[~member])
        for variance in ("shrunk", "example", "fixed")
        for values in [LiRA(variance).score(target, known).values]  # type: ignore[arg-type]
    }
    assert area["shrunk"] > max(area["example"], area["fixed"]) - 0.005, area
    if side == 2:
        assert area["shrunk"] > area["example"] + 0.03, area


def test_over_forgetting_is_seen_from_two_sides_only():
    """audits.md 13, plant 8: the forgotten margins are pushed below what a model that never saw the point would say."""
    over = world(5, leak=-3.0, points=200, models=24, spread=1.0)
    values = {
        attack: attack.score(over.target, over.known).values
        for attack in (LiRAOffline(), LiRAOfflineDensity(), ULiRA(), Threshold())
    }
    area = {type(attack).__name__: auc(v[over.member], v[~over.member]) for attack, v in values.items()}
    assert area["ULiRA"] > 0.99
    assert area["LiRAOfflineDensity"] > 0.99
    assert area["LiRAOffline"] < 0.05
    assert area["Threshold"] < 0.05


def test_fixed_variance_is_pooled_within_points_and_for_each_side():
    """audits.md 10.4: the script's variance has the spread between points in it, and uses that of IN for OUT."""
    rng = np.random.default_rng(0)
    points = 500
    state = np.repeat([OUT, IN], 8)[:, None] * np.ones((1, points), dtype=np.int64)
    mu = rng.normal(0, 10, points)
    margins = mu + state + np.where(state == IN, 0.5, 2.0) * rng.normal(0, 1, state.shape)
    member = rng.random(points) < 0.5
    target = seen((mu + member + np.where(member, 0.5, 2.0) * rng.normal(0, 1, points))[:, None])
    known = pool(margins[..., None], state)
    sound, defective = (LiRA(v).score(target, known).values for v in ("fixed", "legacy"))  # type: ignore[arg-type]
    # what it is: two variances, 0.25 and 4; what the script takes: one of about 100 on both sides
    flat = stats.norm.logpdf(
        target.margins[:, 0], np.median(margins[8:], axis=0), margins[8:].std()
    ) - stats.norm.logpdf(target.margins[:, 0], np.median(margins[:8], axis=0), margins[8:].std())
    np.testing.assert_allclose(defective, flat, rtol=1e-9)
    assert np.abs(defective).max() < 1 < np.abs(sound).max()
    assert auc(sound[member], sound[~member]) > auc(defective[member], defective[~member]) + 0.05


def test_the_offline_tail_is_no_density():
    """audits.md 10.4: the density calls a margin far below all references a member, the tail does not."""
    state = np.zeros((8, 3), dtype=np.int64)
    margins = np.random.default_rng(0).normal(0, 1, (8, 3, 1))
    target = seen(np.array([[-6.0], [0.0], [6.0]]))
    tail, density = (
        kind("fixed").score(target, pool(margins, state)).values for kind in (LiRAOffline, LiRAOfflineDensity)
    )
    assert tail[0] < tail[1] < tail[2]
    assert density[0] > density[1] < density[2]


@pytest.mark.parametrize("nu", [4.0, 30.0, 260.0])
def test_tails_are_finite_and_fall_however_far_out(nu: float):
    z = np.concatenate([-np.logspace(8, -3, 60), np.logspace(-3, 8, 400)])[:, None]
    ones = np.ones_like(z)
    tails = Law(0 * z, ones, nu * ones).log_tail(z)[:, 0]
    assert np.isfinite(tails).all()
    assert (np.diff(tails[60:]) < 0).all()
    assert (np.diff(tails) <= 0).all()
    near = np.abs(z[:, 0]) < 5
    np.testing.assert_allclose(tails[near], np.log(stats.t.sf(z[near, 0], nu)), rtol=1e-9)
    # Student's tail is a power: log P falls by ν for each factor e, once z is far beyond √ν
    slope = np.diff(tails[-10:]) / np.diff(np.log(z[-10:, 0]))
    np.testing.assert_allclose(slope, -nu, rtol=1e-3)
    normal = Law(0 * z, ones, None).log_tail(z)[:, 0]
    np.testing.assert_allclose(normal[near], stats.norm.logsf(z[near, 0]), rtol=1e-12)
    assert np.isfinite(normal).all()


def test_margins_of_80_keep_their_digits():
    """audits.md 13: φ at |z| = 80; a softmax in float32 would say 1 and 0 and tell nobody apart."""
    logits = np.array([[[80.0, 0.0]], [[79.0, 0.0]], [[-80.0, 0.0]], [[-79.0, 0.0]]])
    phi = margin(logits, np.zeros(4, dtype=np.int64))
    np.testing.assert_allclose(phi[:, 0], [80, 79, -80, -79], rtol=1e-12)
    center = np.array([79.5, 79.5, -79.5, -79.5])
    margins = center[None, :, None] + np.array([-0.5, 0.0, 0.5])[:, None, None]
    scores = LiRAOffline().score(seen(phi), pool(margins, np.zeros((3, 4)))).values
    assert scores[0] > scores[1]
    assert scores[3] > scores[2]


@pytest.mark.parametrize("attack", [LiRA(), LiRAOffline(), ULiRA()], ids=lambda attack: attack.name)
def test_a_pool_in_float32_is_computed_in_float64(attack: Gaussian):
    target, known = random_pool(3)
    references = known.references
    assert references is not None
    small = References(references.margins.astype(np.float32), references.state)
    exact = attack.score(target, Known(References(small.margins.astype(np.float64), small.state))).values
    np.testing.assert_array_equal(attack.score(target, Known(small)).values, exact)
    np.testing.assert_allclose(exact, attack.score(target, known).values, rtol=1e-4, atol=1e-4)
    # a large offset common to all would leave float32 sums without digits
    far = References((references.margins + 4096).astype(np.float32), references.state)
    moved = attack.score(seen((target.margins + 4096).astype(np.float32)), Known(far)).values
    np.testing.assert_allclose(moved, exact, atol=0.05)


def test_few_references_are_flagged():
    rng = np.random.default_rng(0)
    target = seen(rng.normal(0, 1, (5, 1)))
    one = LiRAOffline().score(target, pool(rng.normal(0, 1, (1, 5, 1)), np.zeros((1, 5))))
    assert [(flag.name, flag.sentence) for flag in one.flags] == [
        (
            "few references",
            "LiRAOffline: no point has two references of one state, so the spread between points stands in for the "
            "spread between models; scores rank points and are no likelihoods.",
        )
    ]
    state = np.array([[OUT] * 5, [OUT] * 4 + [IN]])
    mixed = pool(rng.normal(0, 1, (2, 5, 1)), state)
    assert LiRAOffline().score(target, mixed).flags == ()
    assert [flag.sentence for flag in LiRAOffline("example").score(target, mixed).flags] == [
        "LiRAOffline(variance=example): 1 of 5 points have a single reference of a state; their variance is the one "
        "pooled over points."
    ]


def test_a_side_without_spread_borrows_the_other_sides():
    """One IN reference per point and four OUT: IN has no degrees of freedom of its own."""
    rng = np.random.default_rng(0)
    state = np.array([[OUT]] * 4 + [[IN]]) * np.ones((1, 6), dtype=np.int64)
    margins = rng.normal(0, 1, (5, 6, 1)) + 5 * state[..., None]
    target = seen(rng.normal(0, 1, (6, 1)))
    residual = margins[:4] - margins[:4].mean(axis=0)
    pooled = np.sqrt((residual**2).sum() / 18)
    by_hand = stats.norm.logpdf(target.margins, margins[4], pooled) - stats.norm.logpdf(
        target.margins, margins[:4].mean(axis=0), pooled
    )
    scores = LiRA("fixed").score(target, pool(margins, state))
    np.testing.assert_allclose(scores.values, by_hand[:, 0], rtol=1e-10)
    assert scores.flags == ()


def test_references_that_agree_to_the_last_bit_give_no_zero_variance():
    state = np.array([[OUT], [OUT], [IN], [IN]]) * np.ones((1, 3), dtype=np.int64)
    margins = np.where(state == IN, 2.0, 0.0)[..., None]
    for variance in ("shrunk", "example", "fixed", "legacy"):
        scores = LiRA(variance).score(seen(np.array([[0.0], [1.0], [2.0]])), pool(margins, state))  # type: ignore[arg-type]
        assert scores.values[0] < scores.values[1] < scores.values[2]


@pytest.mark.usefixtures("as_users_run")
def test_wrong_fields_are_refused():
    with pytest.raises(
        UsageError, match=r"LiRA\.variance: must be one of shrunk, example, fixed, legacy, got 'shrink'; did"
    ):
        LiRA("shrink")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"ULiRA\.nu0: must be above 0, got 0"):
        ULiRA(nu0=0)
