"""Simulated evidence with a known truth, drawn in milliseconds: what an audit of such models would have seen."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from unlearnkit.audits.designs import Plan, Tolerances, coin_design
from unlearnkit.audits.evidence import PROBED_MODELS, UNTRAINED, Evidence, FloatArray, Group
from unlearnkit.audits.findings import MIA_EFFICACY
from unlearnkit.treatments import COMPRESSED

Law = Literal["normal", "t3", "skewed"]

ATTACK = "Threshold"  # its score is the margin itself
CLASSES = 10
_BESIDE = 100  # retained, and held-out, examples that nobody asked to forget
_PAIRS, _DEALT = 3, 20  # models that trade places, and at most so many examples that do
_ANSWERED = 300  # held-out examples
_SPOKEN = 200  # at most so many requested examples with their whole output


def standard_plan(**changes: Any) -> Plan:
    """The plan of an audit of single examples at the standard of the battery, with changes."""
    standard = Plan(
        kind="examples",
        tier="minutes",
        tolerances=Tolerances(),
        significance=0.05,
        power=0.8,
        seed=0,
        attack=ATTACK,
    )
    return dataclasses.replace(standard, **changes)


def simulate(
    seed: int = 0,
    *,
    oracles: int = 39,
    requested: int = 120,
    canaries: int = 100,
    twins: int = 120,
    trace: float = 2.5,
    trace_canaries: float | None = None,
    leak: float = 0.0,
    leak_canaries: float = 0.0,
    leak_twins: float = 0.0,
    held_out: float = 0.0,
    common: float = 0.15,
    level: float = 3.0,
    law: Law = "normal",
    outputs: bool = False,
    unlearned: int = 0,
) -> Evidence:
    """Evidence of a request for single examples: an exchangeable null unless something leaks.

    Margins = difficulty of the point + a shift of the whole model (scale `common`) + noise (scale 1), both of `law`.
    trace: what the original's margins gain on the points it was trained on; leak: what the audited model kept of it.
    `oracles=0`: tier "seconds". `canaries`: on each side. outputs: ids, logits and right answers by class too.
    unlearned: so many margins of an ensemble of unlearned models, drawn like the oracles.
    """
    rng = np.random.default_rng([seed, 0x7E57])
    group = np.repeat(
        np.array([Group.REQUESTED, Group.HEADS, Group.TWINS, Group.TAILS], dtype=np.uint8),
        [requested, canaries, twins, canaries],
    )
    hardness = level + rng.normal(0, 1.5, group.size)

    def draw(*models: int) -> FloatArray:
        return hardness + common * _noise(rng, law, (*models, 1)) + _noise(rng, law, (*models, group.size))

    asked, heads = group == Group.REQUESTED, group == Group.HEADS
    extra = trace if trace_canaries is None else trace_canaries
    margins = {"original": draw() + trace * asked + extra * heads}
    margins["audited"] = draw() + leak * asked + leak_canaries * heads + leak_twins * (group == Group.TWINS)
    if oracles:
        margins["held_out"] = draw() + held_out
        margins["oracles"] = draw(oracles)
    correct: dict[str, NDArray[np.int64]] = {}
    for name, values in margins.items():
        right = np.atleast_2d(values) > 0
        correct[f"{name}/forget"] = np.count_nonzero(right[:, asked], axis=1)
        if canaries:
            correct[f"{name}/canaries"] = np.count_nonzero(right[:, heads], axis=1)
        correct[f"{name}/retain"] = np.full(len(right), 970)
        correct[f"{name}/test"] = np.full(len(right), 281)
    sizes = {"forget": requested, "retain": 1000, "test": _ANSWERED} | ({"canaries": canaries} if canaries else {})
    scores = {f"{ATTACK}/{name}": values.copy() for name, values in margins.items()}
    made = Evidence(group, np.zeros(group.size, dtype=np.int64), margins, scores, correct, sizes, {})
    if unlearned:
        made = dataclasses.replace(made, ensemble=draw(unlearned))
    return _with_outputs(made, seed, law, common) if outputs else made


def simulate_class(seed: int = 0, *, known: float = 0.0, trace: float = 9.0, **changes: Any) -> Evidence:
    """A class forgotten: retrained models do not know it (margins far below 0); `known` lifts the audited model."""
    settings: dict[str, Any] = {"canaries": 0, "requested": 150, "twins": 40, "level": -6.0, "common": 0.4}
    return simulate(seed, trace=trace, leak=known, leak_twins=known, **(settings | changes))


def with_audited(evidence: Evidence, margins: FloatArray) -> Evidence:
    """The same evidence with other margins [point] of the audited model, which the attack reads too."""
    return dataclasses.replace(
        evidence,
        margins={**evidence.margins, "audited": margins},
        scores={**evidence.scores, f"{ATTACK}/audited": margins.copy()},
    )


def _noise(rng: np.random.Generator, law: Law, shape: tuple[int, ...]) -> FloatArray:
    """Centered; of standard deviation 1, or √3 for Student's t."""
    if law == "skewed":
        return rng.standard_exponential(shape) - 1.0
    return rng.standard_normal(shape) if law == "normal" else rng.standard_t(3, shape)


def _with_outputs(evidence: Evidence, seed: int, law: Law, common: float) -> Evidence:
    """Add what further findings read: logits whose margins are those of the evidence, and answers on held-out data."""
    rng = np.random.default_rng([seed, 0x0A75])
    spoken = evidence.rows(Group.REQUESTED)[:_SPOKEN]
    usual = rng.standard_normal((spoken.size, CLASSES - 1))
    hardness = rng.normal(2.0, 1.5, _ANSWERED)
    logits: dict[str, NDArray[np.float32]] = {}
    answers: dict[str, NDArray[np.uint8]] = {}
    correct = dict(evidence.correct)
    for name, margins in evidence.margins.items():
        models = margins.shape[:-1]
        others = usual + 0.3 * _noise(rng, law, (*models, *usual.shape))
        true = margins[..., spoken, None] + logsumexp(others, axis=-1, keepdims=True)
        logits[name] = np.concatenate([true, others], axis=-1).astype(np.float32)
        heard = hardness + common * _noise(rng, law, (*models, 1)) + _noise(rng, law, (*models, _ANSWERED))
        answers[name] = (heard > 0).astype(np.uint8)
        correct[f"{name}/test"] = np.atleast_2d(answers[name]).sum(axis=1, dtype=np.int64)
        correct[f"{name}/retain"] = np.atleast_1d(rng.binomial(1000, 0.97, models or 1))
    probed = [name for name in ("original", "audited", "oracles") if name in evidence.margins]
    readings = {
        f"{probe}/{name}": _noise(rng, law, (min(19, evidence.oracles) if name == "oracles" else 1,))
        for probe in ("Quantization", "RetainRelearning(steps=40)")
        for name in probed
        if "oracles" in probed
    }
    evidence = _with_treated(evidence, rng)
    if "oracles" in probed:
        logits[UNTRAINED] = rng.normal(0, 0.3, (spoken.size, CLASSES)).astype(np.float32)
    evidence = _with_others(evidence, rng, law, common)
    return dataclasses.replace(
        evidence,
        readings=readings,
        ids=tuple(f"simulated/{i:05d}" for i in range(evidence.rows(Group.REQUESTED).size)),
        logits=logits,
        logit_points=spoken,
        answers=answers,
        answer_label=np.arange(_ANSWERED) % CLASSES,
        correct=correct,
    )


def _with_treated(evidence: Evidence, rng: np.random.Generator) -> Evidence:
    """Compressed copies: the margins of the models as they are, and what rounding and pruning change of them."""
    design = coin_design(evidence)
    if design is None:
        return evidence
    rows = design.rows(evidence)
    treated = {
        f"{name}/{model}": evidence.margins[model][rows] + 0.3 * i * rng.standard_normal(rows.size)
        for i, name in enumerate(COMPRESSED)
        for model in ("original", "audited")
    }
    return dataclasses.replace(evidence, treated=treated, treated_points=rows)


def _with_others(evidence: Evidence, rng: np.random.Generator, law: Law, common: float) -> Evidence:
    """Retained and held-out examples; with oracles, published numbers and pairs of models that traded places too."""
    retained = np.repeat(np.array([1, 0], dtype=np.uint8), _BESIDE)
    hardness = rng.normal(2.0, 1.5, retained.size) + 2.0 * retained

    def draw(hardness: FloatArray, *models: int) -> FloatArray:
        return hardness + common * _noise(rng, law, (*models, 1)) + _noise(rng, law, (*models, hardness.size))

    beside = {name: draw(hardness, *values.shape[:-1]).astype(np.float32) for name, values in evidence.margins.items()}
    evidence = dataclasses.replace(evidence, beside=beside, beside_retained=retained)
    if not evidence.oracles:
        return evidence
    read = min(19, evidence.oracles)
    legacy = {f"{MIA_EFFICACY}/{name}": rng.random(read if name == "oracles" else 1) for name in PROBED_MODELS}
    asked = evidence.rows(Group.REQUESTED)
    points = min(asked.size, _DEALT) // 2 * 2
    forget = np.zeros((_PAIRS, points), dtype=np.uint8)
    for dealt in forget:
        dealt[rng.permutation(points)[: points // 2]] = 1
    swapped = draw(evidence.typical[0][asked[:points]], _PAIRS, 2)
    return dataclasses.replace(
        evidence,
        legacy=legacy,
        swapped=swapped if points else None,
        swapped_forget=forget if points else None,
    )
