"""The contract of every attack, row by row: truths that hold in a Gaussian world, whatever the attack looks at."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest
from attack_samples import World, observed, world
from scipy import stats

from unlearnkit.attacks import (
    ATTACKS,
    BASE,
    IAM,
    RMIA,
    RULI,
    AttackP,
    AttackR,
    BASEOffline,
    BasicLogistic,
    ClassThreshold,
    Gap,
    IAMOffline,
    LiRA,
    LiRAOffline,
    LiRAOfflineDensity,
    MiaEfficacy,
    Quantile,
    RMIAOffline,
    Threshold,
    TwoModel,
    ULiRA,
)
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Holds, Known, Observation, References

# A later attack is one line here.
ROWS: list[Attack] = [
    Threshold(),
    Threshold("entropy"),
    Gap(),
    ClassThreshold(),
    AttackP(),
    Quantile(),
    AttackR(),
    LiRA(),
    LiRA("example"),
    LiRA("fixed"),
    LiRA("legacy"),
    LiRAOffline(),
    LiRAOfflineDensity(),
    RMIA(),
    RMIAOffline(),
    BASE(),
    BASEOffline(),
    IAM(),
    IAMOffline(),
    IAMOffline(per_example=True),
    ULiRA(),
    RULI(),
    RULI(legacy=True),
    TwoModel(),
    TwoModel("margin"),
    MiaEfficacy(),
    BasicLogistic(),
]
WORLDS, POINTS = 200, 40  # worlds without a trace, and points in each of them
every_attack = pytest.mark.parametrize("attack", ROWS, ids=lambda attack: attack.name)


@functools.cache
def planted(attack: Attack) -> World:
    """The target knows its members by heart; for attacks that compare, the original did and the target does not."""
    shared = {"center": -4.0, "population": 200}
    return world(1, leak=0.0, before=10.0, **shared) if isinstance(attack, TwoModel) else world(1, leak=10.0, **shared)


@pytest.fixture(scope="module")
def innocent() -> World:
    """Many worlds side by side, one population for all. Nothing is left of the members in the target; the references
    know what training does."""
    rng = np.random.default_rng(0)
    member = rng.permuted(np.tile(np.arange(POINTS) < POINTS // 2, (WORLDS, 1)), axis=1).ravel()
    return dataclasses.replace(world(0, leak=0.0, trained=3.0, points=member.size, views=1), member=member)


def area(attack: Attack, one: World) -> float:
    scores = attack.score(one.target, one.known)
    assert scores.rows is None
    return auc(scores.values[one.member], scores.values[~one.member])


def arrays(*parts: object) -> Iterator[np.ndarray]:
    """All arrays in observations, references and knowledge."""
    for part in parts:
        if isinstance(part, np.ndarray):
            yield part
        elif isinstance(part, Observation | References | Known):
            yield from arrays(*(getattr(part, field.name) for field in dataclasses.fields(part)))


def test_every_attack_has_a_row():
    assert {type(attack).__name__ for attack in ROWS} == set(ATTACKS)


@every_attack
def test_a_planted_memorizer_is_found(attack: Attack):
    assert area(attack, planted(attack)) > 0.99


@every_attack
def test_exchangeable_members_are_told_apart_by_chance_only(attack: Attack, innocent: World):
    scores = attack.score(innocent.target, innocent.known)
    assert scores.rows is None
    pairs = zip(scores.values.reshape(WORLDS, -1), innocent.member.reshape(WORLDS, -1), strict=True)
    areas = np.array([auc(values[member], values[~member]) for values, member in pairs])
    error = np.sqrt((POINTS + 1) / (12 * (POINTS // 2) ** 2))
    assert abs(areas.mean() - 0.5) < 4 * error / np.sqrt(WORLDS)
    beyond = np.count_nonzero(np.abs(areas - 0.5) > stats.norm.isf(0.025) * error)
    assert beyond <= stats.binom.isf(1e-4, WORLDS, 0.05)
    above = np.count_nonzero(areas > 0.5) + np.count_nonzero(areas == 0.5) / 2
    assert stats.binom.ppf(1e-4, WORLDS, 0.5) <= above <= stats.binom.isf(1e-4, WORLDS, 0.5)


@every_attack
def test_the_order_of_models_changes_nothing(attack: Attack):
    one = planted(attack)
    references, beside = one.known.references, one.known.population_references
    assert references is not None
    assert beside is not None
    order = np.random.default_rng(0).permutation(len(references))
    known = dataclasses.replace(
        one.known,
        references=References(references.margins[order], references.state[order]),
        population_references=References(beside.margins[order], beside.state[order]),
    )
    before = attack.score(one.target, one.known).values
    np.testing.assert_allclose(attack.score(one.target, known).values, before, rtol=1e-9, atol=1e-12)


@every_attack
def test_the_order_of_points_changes_nothing(attack: Attack):
    one = planted(attack)
    order = np.random.default_rng(0).permutation(len(one.target))
    before = attack.score(one.target, one.known).values
    after = attack.score(one.target.take(order), one.known.take(order)).values
    np.testing.assert_allclose(after, before[order], rtol=1e-9, atol=1e-12)


@every_attack
def test_the_evidence_stays_as_it_is_and_gives_the_same_bytes_again(attack: Attack):
    one = world(2, leak=3.0)
    evidence = list(arrays(one.target, one.known))
    before = [array.tobytes() for array in evidence]
    for array in evidence:
        array.setflags(write=False)
    first, second = (attack.score(one.target, one.known).values for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert [array.tobytes() for array in evidence] == before


@every_attack
def test_scores_that_do_not_differ_are_flagged(attack: Attack):
    rng = np.random.default_rng(0)

    def flat(points: int) -> Observation:
        seen = observed(np.zeros((points, 2)), rng)
        assert seen.logits is not None
        assert seen.features is not None
        logits = np.tile(np.log(np.array([2, 1, 1], dtype=np.float32)), (points, 2, 1))
        y = np.zeros(points, dtype=np.int64)
        return dataclasses.replace(seen, y=y, logits=logits, features=np.ones_like(seen.features))

    state = (np.arange(6)[:, None] + np.zeros((1, 12), dtype=np.int64)) % 3
    known = Known(
        References(np.zeros((6, 12, 2)), state.astype(np.uint8)),
        flat(40),
        References.unseen([flat(40)] * 6),
        flat(40),
        flat(12),
    )
    flags = attack.score(flat(12), known).flags
    assert ("constant scores", f"{attack.name}: every point has the same score; it tells nobody apart.") in [
        (flag.name, flag.sentence) for flag in flags
    ]


SENTENCES = {
    Holds.OUT: "reference models that never saw the points",
    Holds.IN: "reference models that were trained on the points",
    Holds.FORGOTTEN: "reference models that were trained on the points and unlearned them",
    Holds.POPULATION: "needs a population",
    Holds.POPULATION_REFERENCES: "needs the reference models' answers on the population",
    Holds.MEMBERS: "needs members",
    Holds.ORIGINAL: "needs the original",
    Holds.LOGITS: "needs the target's logits",
    Holds.FEATURES: "needs the target's features",
}
STATES = {Holds.OUT: 0, Holds.IN: 1, Holds.FORGOTTEN: 2}


@every_attack
def test_missing_knowledge_is_named(attack: Attack):
    one = planted(attack)
    references = one.known.references
    assert references is not None
    for held in attack.holds:
        target, known = one.target, one.known
        if held in STATES:
            with pytest.raises(UsageError, match=SENTENCES[held]):
                attack.score(target, dataclasses.replace(known, references=None))
            lacking = np.where(references.state == STATES[held], (STATES[held] + 1) % 3, references.state)
            known = dataclasses.replace(known, references=References(references.margins, lacking.astype(np.uint8)))
        elif held in (Holds.LOGITS, Holds.FEATURES):
            target = dataclasses.replace(target, **{held.names()[0]: None})
        else:
            known = dataclasses.replace(known, **{held.names()[0]: None})
        with pytest.raises(UsageError, match=SENTENCES[held]) as caught:
            attack.score(target, known)
        assert str(caught.value).startswith(f"{attack.name}: ")


@every_attack
def test_numbers_that_are_none_give_a_sentence(attack: Attack):
    one = planted(attack)
    for owner in ("target", "population", "members", "original"):
        whole = one.target if owner == "target" else getattr(one.known, owner)
        for what in ("margins", "logits", "features"):
            spoiled = getattr(whole, what).copy()
            spoiled.flat[3] = np.nan
            changed = dataclasses.replace(whole, **{what: spoiled})
            pair = (
                (changed, one.known)
                if owner == "target"
                else (one.target, dataclasses.replace(one.known, **{owner: changed}))
            )
            said = rf"the {owner}'s? {what} must be finite, got 1 that are not"
            with pytest.raises(UsageError, match=said):
                attack.score(*pair)


@pytest.mark.parametrize("attack", [attack for attack in ROWS if attack.states()], ids=lambda attack: attack.name)
@pytest.mark.parametrize("models", [1, 2, 256])
def test_one_to_256_references_give_finite_scores_or_a_sentence(attack: Attack, models: int):
    used = attack.states()
    count = models * len(used)
    one = world(3, leak=10.0, models=6)
    beside = one.known.population_references
    assert beside is not None
    rows = np.arange(count) % 6  # on the population a few of them, again and again
    state = np.repeat(np.array(used, dtype=np.uint8), models)[:, None] * np.ones((1, 40), dtype=np.uint8)
    mu = -2 + np.random.default_rng(3).normal(0, 0.3, (count, 40, 2))
    known = dataclasses.replace(
        one.known,
        references=References(mu + 10.0 * (state != 0)[..., None], state),
        population_references=References(beside.margins[rows], beside.state[rows]),
    )
    if getattr(attack, "per_example", False) and models == 1:
        with pytest.raises(UsageError, match="needs two references that never saw it"):
            attack.score(one.target, known)
        return
    scores = attack.score(one.target, known)
    assert auc(scores.values[one.member], scores.values[~one.member]) > 0.9
